"""The log of the practice's unexpected failures."""

import logging
import sys
import traceback


class Unquoted(logging.Handler):
    """Says which library has logged or warned, and where: its message may quote a report, a file's name or a tag."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"bthub: {record.levelname} in {record.name}, line {record.lineno}", file=sys.stderr)


def quiet_libraries() -> None:
    """Leave the messages of libraries out of the log of this process."""
    logging.getLogger().addHandler(Unquoted(logging.WARNING))
    logging.captureWarnings(True)


def log_failure(error: BaseException) -> None:
    """Name the kind of a failure and where in the code it was, on standard error.

    Its message is left out: it may quote a patient's name, a tag of a file or a statement's values.
    """
    print(f"bthub: {type(error).__name__}", file=sys.stderr)
    traceback.print_tb(error.__traceback__)
