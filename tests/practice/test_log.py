"""What the server writes of a failure never quotes what it was about."""

import re
from pathlib import Path

import bthub.practice
from bthub.practice.log import log_failure

PACKAGE = Path(bthub.practice.__file__).parent


def test_a_failure_is_logged_without_its_message(capsys):
    try:
        raise ValueError("Mrs. Miller, born 1950")
    except ValueError as error:
        log_failure(error)
    said = capsys.readouterr().err
    assert said.startswith("bthub: ValueError\n") and "test_log.py" in said
    # The trace quotes the line above, which no server's code has: the message itself must not come a second time.
    assert said.count("Miller") == 1


def test_nothing_else_prints_a_trace():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "log.py":
            assert not re.search(
                r"print_exc|print_tb|format_exc|logging\.exception|log\.exception", path.read_text()
            ), path
