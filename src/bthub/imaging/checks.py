"""Limits on the size of a picture, how messages name it, and silencing of the decoders' own messages."""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from bthub.errors import BthubError

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 2**20
MIN_SIDE = 16
MAX_ASPECT = 32
# From the user name to the last @, where what follows its colon is no port.
_UNENCODED = re.compile(r"(?<=://)(?!\[)[^/?#@]*:(?!\d*(?:[/?#]|$))[^@/?#]*[/?#].*@", re.DOTALL)


def check_size(size: tuple[int, int], name: str, *, any_shape: bool = False) -> None:
    """Refuse a picture by its size, before a pixel of it is decoded.

    Args:
        size: width and height in pixels.
        name: what the message calls it.
        any_shape: take it however small or elongated it is.

    Raises:
        BthubError: it is too large, too small or too elongated.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise BthubError(
            f"{name}: the picture is too large, {width} x {height} pixels;"
            f" at most {MAX_PIXELS / 1e6:.0f} megapixels are read"
        )
    if min(width, height) < (1 if any_shape else MIN_SIDE):
        raise BthubError(
            f"{name}: the picture is too small, {width} x {height} pixels; each side needs at least {MIN_SIDE}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height) and not any_shape:
        raise BthubError(
            f"{name}: the picture is too elongated for a slice, {width} x {height} pixels;"
            f" at most {MAX_ASPECT}:1 is read"
        )


def several_frames(name: str) -> BthubError:
    """The refusal of a file that holds more than one picture."""
    return BthubError(
        f"{name}: the file holds more than one frame or page, expected one slice per file; "
        "save each slice as its own file"
    )


def is_url(source: str) -> bool:
    """Whether the string has a scheme, like http://; a Windows drive letter is none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def without_password(source: str) -> str:
    """A URL without the user name and password before its host; anything else as it is.

    A password with / ? or # in it, which isn't encoded as it should be, is taken out too.
    """
    if not is_url(source):
        return source
    return _UNENCODED.sub("", re.sub(r"(?<=://)[^/?#]*@", "", source, count=1), count=1)


def has_unencoded_password(url: str) -> bool:
    """Whether what stands before the host of a URL has / ? or # in it, so that it ends too early."""
    return _UNENCODED.search(url) is not None


def display_name(source: str) -> str:
    """The source as messages show it: printable, and of a URL neither its password nor its query, which may be one."""
    return printable(re.split(r"[?#]", without_password(source))[0] if is_url(source) else source)


def printable(text: object) -> str:
    """Escape what would break a line or a terminal: newlines, control codes, undecodable bytes; keep the last 200."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return line if len(line) <= 200 else "..." + line[-200:]


# -- warnings

_QUIET = threading.Lock()
_quiet_blocks = 0
_kept_filters = warnings.catch_warnings()


@contextmanager
def without_warnings() -> Iterator[None]:
    """No library's warning leaves the block: what a file has to be told, one sentence tells.

    Safe in threads, which `warnings.catch_warnings` isn't: the filters are back when the last block ends.
    """
    global _quiet_blocks, _kept_filters
    with _QUIET:
        if _quiet_blocks == 0:
            _kept_filters = warnings.catch_warnings()
            _kept_filters.__enter__()
            warnings.simplefilter("ignore")
        _quiet_blocks += 1
    try:
        yield
    finally:
        with _QUIET:
            _quiet_blocks -= 1
            if _quiet_blocks == 0:
                _kept_filters.__exit__(None, None, None)
