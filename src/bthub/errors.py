"""The one exception whose text is for users, and how a command shows it."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from numbers import Integral
from pathlib import Path


class BthubError(Exception):
    """A problem the user can mend. Its text is one sentence or two: what is wrong, where, and the mend."""


class NotASliceError(BthubError):
    """The input check refuses a picture: it doesn't look like a slice of a brain MRI."""


def check_count(what: str, number: object, most: int | None = None) -> None:
    """Refuse an argument that isn't a whole number from 1 on.

    Args:
        what: the argument, in words.
        number: its value.
        most: the largest one that is taken; None for no limit.

    Raises:
        BthubError: it is of another type, too small or too large.
    """
    limits = "at least 1" if most is None else f"from 1 to {most:,}"
    if not isinstance(number, Integral):
        raise BthubError(f"the {what} must be a whole number, {limits}, not {number!r}")
    if number < 1 or (most is not None and number > most):
        raise BthubError(f"the {what} must be {limits}, not {number}")


def named_path(text: str) -> Path:
    """A path on a command line, for argparse. An empty one, as of a variable that isn't set, isn't the current folder.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError(
            "received an empty name, perhaps of a variable that isn't set; expected a path"
        )
    return Path(text)


def report_errors(action: Callable[[], int | None]) -> int:
    """Run `action`; turn a `BthubError` into its sentence on stderr and exit code 2.

    What standard output and error can't encode, where they are redirected under another encoding than UTF-8, is
    written as an escape: a name or a unit must not end a batch. Where one of them is closed, nothing is written to it;
    where the disk behind it is full, that is a sentence too. A closed pipe (`| head`) ends with exit code 1.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = action() or 0
        except BthubError as error:
            print(f"bthub: {error}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            print("bthub: stopped", file=sys.stderr)
            code = 130
        sys.stdout.flush()  # or it fails at the exit
        return code
    except OSError as error:
        if not _muted() and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        if isinstance(error, BrokenPipeError):
            return 1
        with suppress(OSError):  # where standard error is what is full, there is nowhere to say it
            print(f"bthub: the output can't be written ({error.strerror}): free space, or redirect it", file=sys.stderr)
        return 2


def _muted() -> bool:
    """Have what can't be written to standard output or error go nowhere; whether there is anything like that."""
    muted = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            muted = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return muted
