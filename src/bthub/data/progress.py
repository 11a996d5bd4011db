"""Progress of long steps: a bar on a terminal, a few whole lines in a log."""

import sys
from typing import Any

from tqdm import tqdm

EVERY = 30
"""Seconds between two lines of a log."""


class LogLines(tqdm):
    """tqdm for what isn't a terminal: one line at the start, one every 30 s, and one at the end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._told = -1.0  # when, and of how much
        self._told_of = -1
        super().__init__(*arguments, **{**options, "mininterval": 1, "miniters": 1, "ncols": 0})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line, if the last one was long ago."""
        if self._told < 0 or self._time() - self._told >= EVERY:
            self._tell()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Nothing: lines stay."""

    def close(self) -> None:
        """Write the last line, unless it has been."""
        if self.disable:
            return
        if self._told_of != self.n:
            self._tell()
        self.disable = True
        self._decr_instances(self)

    def _tell(self) -> None:
        self._told, self._told_of = self._time(), self.n
        facts = self.format_dict
        seconds = self.format_interval(facts["elapsed"])
        of = f"/{self.total}" if self.total is not None else ""
        rest = ""
        now = self.n - self.initial  # what was there already says nothing about the rate
        if self.total and now > 0 and self.n < self.total:
            rest = f", {self.format_interval(facts['elapsed'] * (self.total - self.n) / now)} to go"
        what = f"{self.desc.removesuffix(': ')}: " if self.desc else "done: "
        self.fp.write(f"{what}{self.n}{of} {self.unit}s, {seconds}{rest}\n")
        self.fp.flush()


def say(line: object) -> None:
    """Write a line of bthub's to standard error, above the bar."""
    tqdm.write(f"bthub: {line}", file=sys.stderr)


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A bar of tqdm on standard error, or lines where that isn't a terminal; takes what `tqdm` takes."""
    return (tqdm if sys.stderr.isatty() else LogLines)(*arguments, **{"file": sys.stderr, **options})
