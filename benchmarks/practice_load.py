"""Fifty people at once on the practice: sign-ins, uploads, saves, notes and searches mixed; figures as JSON.

python benchmarks/practice_load.py --people 50 --seconds 600 > benchmarks/practice_load.json
python benchmarks/practice_load.py --page    # the figures into docs/practice.md

The server is a process of its own, with the models of BTHUB_DETECTOR and BTHUB_LOCALIZER or the project's own. Each
person waits a little between two acts, as people do.
"""

import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import defaultdict
from pathlib import Path

import httpx

FIGURES = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "practice.md"
BEGIN, END = "<!-- from benchmarks/practice_load.json -->\n", "<!-- end -->\n"
ACTS = {
    "page": "a page",
    "search": "a search",
    "case": "a case",
    "note": "a note is kept",
    "sign in": "sign-in",
    "register": "registration, all at once",
    "upload": "an upload is kept",
    "verdict": "from the upload to its verdict",
}
EXAMPLES = Path(__file__).parents[1] / "space" / "examples"
PASSWORD = "correct horse battery"


class Person(threading.Thread):
    """One account's work, until the time is over."""

    def __init__(self, base: str, number: int, until: float, pause: float) -> None:
        super().__init__(daemon=True)
        self.base, self.number, self.until, self.pause = base, number, until, pause
        self.random = random.Random(number)
        self.client = httpx.Client(base_url=base, follow_redirects=True, timeout=120, headers={"accept": "text/html"})
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []
        self.saved: list[str] = []
        self.missing: list[str] = []

    def ask(self, act: str, method: str, path: str, **more) -> httpx.Response:
        start = time.perf_counter()
        answer = self.client.request(method, path, **more)
        self.seconds[act].append(time.perf_counter() - start)
        if answer.status_code >= 400:
            self.errors.append(f"{act}: {answer.status_code}")
        return answer

    def token(self, page: str = "/cases") -> str:
        found = re.search(r'name="token" value="(\w+)"', self.ask("page", "GET", page).text)
        return found[1] if found else ""

    def run(self) -> None:
        try:
            self.work()
            self.missing = self.looked_for()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def work(self) -> None:
        name = f"p{self.number}@example.org"
        form = {"name": name, "full_name": name, "password": PASSWORD}
        self.ask("register", "POST", "/register", data={"token": self.token("/register"), **form})
        profile = {"profession": "other", "institution": "x", "consent": "no"}
        self.ask("profile", "POST", "/welcome", data={"token": self.token("/welcome"), **profile})
        pictures = sorted(EXAMPLES.glob("*.png"))
        while time.monotonic() < self.until:
            act = self.random.random()
            if act < 0.1:
                self.client.post("/sign-out", data={"token": self.token()})
                signed = {"token": self.token("/sign-in"), "name": name, "password": PASSWORD}
                self.ask("sign in", "POST", "/sign-in", data=signed)
            elif act < 0.4:
                self.upload(self.random.choice(pictures))
            elif act < 0.6:
                found = re.search(r'href="(/cases/\w{32})"', self.ask("history", "GET", "/cases").text)
                if found:
                    self.ask("case", "GET", found[1])
                    note = {"token": self.token(), "text": "seen"}
                    self.ask("note", "POST", f"{found[1]}/notes", data=note)
            else:
                self.ask("search", "GET", "/cases", params={"q": self.random.choice(("P-", "seen", "1"))})
            time.sleep(self.random.uniform(0, 2 * self.pause))

    def upload(self, file: Path) -> None:
        """Save a picture as a case, and wait for its verdict as the page does."""
        label = f"P-{self.number}-{len(self.saved)}"
        start = time.perf_counter()
        answer = self.ask(
            "upload",
            "POST",
            "/analyze",
            data={"token": self.token(), "pseudonym": label},
            files={"files": (file.name, file.read_bytes(), "image/png")},
            headers={"accept": "application/json"},
        )
        if answer.status_code != 201:
            return
        self.saved.append(label)
        page = answer.json()["page"]
        while (state := self.ask("status", "GET", f"{page}/status").json()["state"]) not in ("done", "failed"):
            time.sleep(0.8)
        if state == "failed":
            self.errors.append("verdict: failed")
        self.ask("page", "GET", page)
        self.seconds["verdict"].append(time.perf_counter() - start)

    def looked_for(self) -> list[str]:
        """What was confirmed and can't be found."""
        missing = []
        for label in self.saved:
            if f">{label}<" not in self.client.get("/cases", params={"q": label}).text:
                missing.append(label)
        return missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two acts of a person")
    parser.add_argument("--page", action="store_true", help="the kept figures into docs/practice.md, no run")
    args = parser.parse_args()
    if args.page:
        told = filled(PAGE.read_text(encoding="utf-8"), json.loads(FIGURES.read_text(encoding="utf-8")))
        PAGE.write_text(told, encoding="utf-8")
        return 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bthub.cli", "practice", "--folder", folder]
        server = subprocess.Popen([*command, "serve", "--port", str(port)], stdout=sys.stderr)
        try:
            while True:
                try:
                    models = httpx.get(f"{base}/health", timeout=5).json()["models"]
                    if models == "failed":
                        return 1  # the server's own lines say why
                    if models == "ready":
                        break
                except (httpx.HTTPError, OSError):
                    pass
                if server.poll() is not None:
                    return 1
                time.sleep(0.5)
            until = time.monotonic() + args.seconds
            people = [Person(base, i, until, args.pause) for i in range(args.people)]
            for person in people:
                person.start()
            peak = 0
            while any(person.is_alive() for person in people):
                peak = max(peak, _memory(server.pid))
                time.sleep(1)
            missing = [label for person in people for label in person.missing]
        finally:
            server.terminate()
            server.wait()
        checked = subprocess.run([*command, "check"], stdout=subprocess.PIPE, text=True, check=False)
    seconds: dict[str, list[float]] = defaultdict(list)
    for person in people:
        for act, values in person.seconds.items():
            seconds[act] += values
    errors = [error for person in people for error in person.errors]
    report = {
        "people": args.people,
        "seconds": args.seconds,
        "pause": args.pause,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "requests": sum(map(len, seconds.values())),
        "saved": sum(len(person.saved) for person in people),
        "errors": sorted(set(errors)),
        "error_count": len(errors),
        "missing": missing,
        "check": checked.stdout.strip().splitlines()[-1:],
        "peak_memory_mb": peak >> 20,
        "milliseconds": {
            act: {
                "count": len(values),
                "median": round(1000 * sorted(values)[len(values) // 2]),
                "p95": round(1000 * sorted(values)[int(0.95 * (len(values) - 1))]),
                "max": round(1000 * max(values)),
            }
            for act, values in sorted(seconds.items())
        },
    }
    print(json.dumps(report, indent=1))
    return 1 if errors or missing or checked.returncode else 0


def filled(page: str, report: dict) -> str:
    """The page with the figures of a report between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(report)}{END}{after}"


def table(report: dict) -> str:
    """A report's figures as Markdown."""
    what = (
        f"{report['people']} people for {report['seconds'] / 60:.0f} minutes on {report['cores']} cores (load average "
        f"{report['load_average']} at the end): {report['requests']:,} requests, {report['saved']:,} examinations, "
        f"{report['error_count']} errors, {len(report['missing'])} lost; `bthub practice check`: "
        f"{report['check'][0].rpartition(': ')[2]}; at most {report['peak_memory_mb']:,} MB."
    )
    rows = [
        f"| {words} | {found['count']:,} | {found['median']:,} | {found['p95']:,} | {found['max']:,} |"
        for act, words in ACTS.items()
        if (found := report["milliseconds"].get(act))
    ]
    head = "| milliseconds | how often | median | 95 of 100 within | longest |\n| --- | ---: | ---: | ---: | ---: |"
    return "\n".join([textwrap.fill(what, 120, break_on_hyphens=False), "", head, *rows, ""])


def _memory(pid: int) -> int:
    """Resident bytes of a process; 0 where the system doesn't tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
