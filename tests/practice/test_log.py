"""What the server writes of a failure never quotes what it was about."""

import logging
import re
import warnings
from pathlib import Path

import bthub.practice
from bthub.practice.log import Unquoted, log_failure, quiet_libraries

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


def test_a_librarys_message_is_named_and_not_quoted(capsys):
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers = []
    try:
        quiet_libraries()
        logging.getLogger("library.part").warning("Mrs. %s", "Miller")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)  # inside of pytest's own capture
            warnings.warn("Mr. Miller", stacklevel=1)
        assert isinstance(root.handlers[0], Unquoted)
    finally:
        logging.captureWarnings(False)
        root.handlers = before
    said = capsys.readouterr().err
    assert "WARNING in library.part" in said and "WARNING in py.warnings" in said and "Miller" not in said


def test_nothing_else_prints_a_trace():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "log.py":
            assert not re.search(
                r"print_exc|print_tb|format_exc|logging\.exception|log\.exception", path.read_text()
            ), path
