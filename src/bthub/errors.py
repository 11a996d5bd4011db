"""The one exception that users are meant to read, and how a command shows it."""

import sys
from collections.abc import Callable


class BthubError(Exception):
    """A problem the user can mend. Its text is one sentence or two: what is wrong, where, and the mend."""


class NotASliceError(BthubError):
    """The input check refuses a picture: it doesn't look like a slice of a brain MRI."""


def report_errors(action: Callable[[], int | None]) -> int:
    """Run `action`; turn a `BthubError` into its sentence on stderr and exit code 2."""
    try:
        return action() or 0
    except BthubError as error:
        print(f"bthub: {error}", file=sys.stderr)
        return 2
