"""The log of the practice's unexpected failures."""

import sys
import traceback


def log_failure(error: BaseException) -> None:
    """Name the kind of a failure and where in the code it was, on standard error.

    Its message is left out: it may quote a patient's name, a tag of a file or a statement's values.
    """
    print(f"bthub: {type(error).__name__}", file=sys.stderr)
    traceback.print_tb(error.__traceback__)
