"""bthub.data.progress: whole lines, few of them, where nobody watches a bar."""

import io
import sys

import pytest
from tqdm import tqdm

from bthub.data import progress
from bthub.data.progress import LogLines, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress_bar(range(3), desc="reading", unit="row")
    assert type(bar) is tqdm and list(bar) == [0, 1, 2] and "100%" in sys.stderr.getvalue()


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_has_a_line_at_the_start_every_thirty_seconds_and_at_the_end(capsys, clock):
    for _ in progress_bar(range(100), desc="reading", unit="row"):
        clock[0] += 1
    said = capsys.readouterr().err
    lines = said.split("\n")
    assert lines.pop() == "" and "\r" not in said
    assert lines[0] == "reading: 0/100 rows, 00:00" and lines[-1] == "reading: 100/100 rows, 01:40"
    assert len(lines) == 5 and lines[1].startswith("reading: 30/100 rows, 00:3") and lines[1].endswith("to go")


def test_a_step_that_is_short_has_two_lines_whatever_is_written_between(capsys):
    with progress_bar(total=50, unit="slice") as bar:
        for _ in range(50):
            bar.update()
            tqdm.write("a result", file=io.StringIO())
    assert capsys.readouterr().err == "done: 0/50 slices, 00:00\ndone: 50/50 slices, 00:00\n"


def test_a_step_that_breaks_off_says_how_far_it_came(capsys):
    with pytest.raises(RuntimeError), progress_bar(total=9, desc="x", unit="image", leave=False) as bar:
        bar.update(4)
        raise RuntimeError
    assert capsys.readouterr().err.splitlines()[-1].startswith("x: 4/9 images")
    assert not LogLines._instances or bar not in LogLines._instances


def test_of_unknown_length_and_switched_off(capsys):
    assert list(progress_bar(iter("ab"), desc="x", unit="row")) == ["a", "b"]
    assert capsys.readouterr().err == "x: 0 rows, 00:00\nx: 2 rows, 00:00\n"
    assert list(progress_bar(range(5), disable=True)) == list(range(5)) and capsys.readouterr().err == ""
    assert progress.EVERY == 30
