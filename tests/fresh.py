"""Fresh processes that needn't import PyTorch, which takes seconds: forked from one that has imported it and no more.

What runs in one sees the modules of the standard library, of PyTorch and of torchvision; all else, bthub and the Hub's
clients among it, it imports itself, under the environment that it is given.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECONDS = 900
"""Until one that hangs is ended by a signal."""

SERVER = """
import json, os, signal, sys, traceback
import torch, torchvision

early = {"bthub", "datasets", "huggingface_hub", "timm", "transformers"} & set(sys.modules)
assert not early, early
sys.stdout.write("ready\\n"); sys.stdout.flush()
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(task["seconds"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(task["out"], os.O_WRONLY), 1)
        os.dup2(os.open(task["err"], os.O_WRONLY), 2)
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["folder"])
        sys.argv = ["-c", *task["arguments"]]
        code = 0
        try:
            exec(compile(task["code"], "<string>", "exec"), {"__name__": "__main__"})
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\\n"); sys.stdout.flush()
"""


class Fresh:
    """Runs code in fresh processes, one after the other."""

    def __init__(self, server: subprocess.Popen) -> None:
        self.server = server

    def run(
        self, code: str, *arguments: str, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess:
        """What `python -c CODE ARGUMENTS` does in a folder, with this environment and without input."""
        assert self.server.stdin is not None and self.server.stdout is not None
        with tempfile.TemporaryDirectory() as kept:
            out, err = (Path(kept) / name for name in ("out", "err"))
            out.touch()
            err.touch()
            task = {"code": code, "arguments": arguments, "folder": str(folder), "out": str(out), "err": str(err)}
            task |= {"environment": dict(environment), "seconds": SECONDS}
            self.server.stdin.write(json.dumps(task) + "\n")
            self.server.stdin.flush()
            status = int(self.server.stdout.readline())
            texts = [file.read_text(encoding="utf-8") for file in (out, err)]
        return subprocess.CompletedProcess(["-c", *arguments], status, *texts)


@contextmanager
def fresh_processes() -> Iterator[Fresh]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        yield Fresh(server)
        assert server.stdin is not None
        server.stdin.close()
