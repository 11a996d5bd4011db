"""Works on a practice until it is killed, and writes down what was confirmed. Run by test_backup.py.

Each round is a fork of this process, which has everything imported: its number is read from stdin, its process id is
written to stdout, then a line for each step that it did, and `over` once it was killed.
"""

import os
import re
import sys
import traceback
from pathlib import Path

import numpy as np
from practice_help import Browser, picture, png, stub
from starlette.testclient import TestClient

from bthub.practice import settings as settings_module
from bthub.practice.backup import backup
from bthub.practice.web.app import create_app


def work(folder: str, confirmed: str, round_: int) -> None:
    settings = settings_module.load(folder, {})
    app = create_app(settings, stub, sweep_every=0.2)
    with TestClient(app):
        # Each round from an address of its own: one address may only register so many.
        browser = Browser(TestClient(app, client=(f"10.0.0.{round_}", 50_000))).begin(f"r{round_}@example.org")
        print("ready", flush=True)

        def step() -> None:
            print("step", flush=True)

        mask = png(np.zeros((64, 64), np.uint8))
        for i in range(1000):
            label = f"P-{round_}-{i}"
            case, examination = browser.case(picture(seed=i), pseudonym=label)
            with open(confirmed, "a") as file:
                file.write(f"{label}\n")
                file.flush()
                os.fsync(file.fileno())
            step()
            browser.post(f"/cases/{case}/notes", text="seen")
            step()
            slice_ = re.search(r'"/slices/(\w+)/picture', browser.get(f"/cases/{case}").text)[1]
            browser.client.post(
                f"/slices/{slice_}/correction", content=mask, headers={"x-form-token": browser.token("/cases")}
            )
            step()
            report = browser.post(f"/examinations/{examination}/reports").url.path
            browser.write(report, impression="As before.", findings="", action="sign")
            step()
            backup(settings, app.state.practice.database, Path(f"{confirmed}-{label}.zip"))
            step()


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(sys.argv[1], sys.argv[2], int(line))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # only a kill ends a round as it should
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("over" if os.WIFSIGNALED(status) else "failed", flush=True)
