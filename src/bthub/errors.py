"""The one exception whose text is for users, and how a command shows it."""

import io
import sys
from collections.abc import Callable


class BthubError(Exception):
    """A problem the user can mend. Its text is one sentence or two: what is wrong, where, and the mend."""


class NotASliceError(BthubError):
    """The input check refuses a picture: it doesn't look like a slice of a brain MRI."""


def report_errors(action: Callable[[], int | None]) -> int:
    """Run `action`; turn a `BthubError` into its sentence on stderr and exit code 2.

    What standard output and error can't encode, where they are redirected under another encoding than UTF-8, is
    written as an escape: a name or a unit must not end a batch.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        return action() or 0
    except BthubError as error:
        print(f"bthub: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bthub: stopped", file=sys.stderr)
        return 130
