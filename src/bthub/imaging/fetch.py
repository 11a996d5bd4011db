"""The bytes of an untrusted picture: from a file, a web address, or a file that a program has open."""

import base64
import inspect
import ipaddress
import re
import stat
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from bthub.errors import BthubError
from bthub.imaging.checks import MAX_FILE_BYTES, has_unencoded_password, printable

DOWNLOAD_SECONDS = 30
MAX_REDIRECTS = 3


def read_file(path: str, name: str) -> bytes:
    """The content of a regular file.

    Raises:
        BthubError: it is missing, no regular file, unreadable, empty or too large.
    """
    if not path:  # `Path` takes it for the current folder
        raise BthubError("the path is empty, perhaps that of a variable that isn't set: give a picture file")
    try:
        info = Path(path).stat()
        if stat.S_ISDIR(info.st_mode):
            raise BthubError(f"{name}: this is a folder, expected a picture file")
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device may never end
            raise BthubError(f"{name}: this is not a regular file, expected a picture file")
        if info.st_size > MAX_FILE_BYTES:
            raise BthubError(_too_many_bytes(name))
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)  # the file may have grown since
    except FileNotFoundError as error:
        raise BthubError(f"{name}: no such file") from error
    except PermissionError as error:
        raise BthubError(f"{name}: permission to read the file is denied") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BthubError(f"{name}: the file cannot be read ({reason})") from error
    return check_bytes(content, name)


def read_open_file(file: Any, name: str) -> bytes:
    """The whole content of what a program has open, wherever it stands; it is left standing there.

    Args:
        file: has `read(size)` and gives bytes: an open file, `io.BytesIO`, an upload of Streamlit or Starlette. What
            can't be rewound, a pipe for one, is read from where it stands.
        name: what messages call it.

    Raises:
        BthubError: it is closed, open as text, unreadable, empty or too large.
    """
    if inspect.iscoroutinefunction(file.read):  # Starlette's UploadFile, around a file
        file = getattr(file, "file", file)
    try:
        place = file.tell()
        file.seek(0)
    except Exception:  # a pipe, or what can't be rewound for reasons of its own: it is read from where it stands
        place = None
    chunks: list[bytes] = []
    size = 0
    try:
        while size <= MAX_FILE_BYTES:  # a pipe gives what is there, and the rest later
            chunk = file.read(MAX_FILE_BYTES + 1 - size)
            if isinstance(chunk, str):
                raise BthubError(f"{name}: the file is open as text, open it with mode 'rb'")
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise BthubError(
                    f"{name}: its read() gives {type(chunk).__name__}, expected the bytes of a picture file"
                )
            if not len(chunk):
                break
            chunks.append(bytes(chunk))
            size += len(chunks[-1])
        if place is not None:
            file.seek(place)
    except BthubError:
        raise
    except UnicodeDecodeError as error:
        raise BthubError(f"{name}: the file is open as text, open it with mode 'rb'") from error
    except Exception as error:  # it is closed, or each kind of file has errors of its own: EOFError, BadZipFile
        reason = printable(error) or type(error).__name__
        raise BthubError(f"{name}: the open file cannot be read ({reason})") from error
    return check_bytes(b"".join(chunks), name)


def check_bytes(content: bytes, name: str) -> bytes:
    """The content itself.

    Raises:
        BthubError: there is none, or too much.
    """
    if not content:
        raise BthubError(f"{name}: the file is empty (0 bytes)")
    if len(content) > MAX_FILE_BYTES:
        raise BthubError(_too_many_bytes(name))
    return content


def _too_many_bytes(name: str) -> str:
    return f"{name}: the file is too large for a picture, at most {MAX_FILE_BYTES >> 20} MB are read"


# -- addresses


def download(url: str, name: str) -> bytes:
    """What an http or https address answers, within `DOWNLOAD_SECONDS`.

    Spaces and letters outside ASCII are encoded as browsers do. A user name and password before the host are sent as
    Basic authentication, to that host alone, and never named. This machine is asked directly, whatever proxy is set.

    Raises:
        BthubError: the address is of another kind or malformed, or the download fails, breaks off or is too large.
    """
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise BthubError(f"{name}: only http:// and https:// addresses can be read")
    if has_unencoded_password(url):
        raise BthubError(f"{name}: the address isn't valid; / ? # and @ in its password are written %2F %3F %23 %40")
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    chunks, size = [], 0
    try:
        address, authorization = _encoded(url)
        request = urllib.request.Request(address, headers={"User-Agent": "bthub", "Accept": "image/*"})
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        opener = urllib.request.build_opener(_FewRedirects, _Proxy)
        with opener.open(request, timeout=DOWNLOAD_SECONDS / 3) as response:
            while chunk := response.read1(2**16):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_FILE_BYTES:
                    raise BthubError(_too_many_bytes(name))
                if time.monotonic() > deadline:
                    raise BthubError(f"{name}: the download took more than {DOWNLOAD_SECONDS} seconds")
            expected = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        # The first line only: urllib's message about too many redirects has several.
        reason = _reason(str(error.reason).partition("\n")[0])
        error.close()
        raise BthubError(f"{name}: the download failed (HTTP {error.code}: {reason})") from error
    except BthubError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # sockets, ssl and urllib; the protocol; a malformed address
        reason = _reason(getattr(error, "reason", "") or error or type(error).__name__)
        # Its text may repeat the address with its password: the chain ends here.
        raise BthubError(f"{name}: the download failed ({reason})") from None
    if expected is not None and expected.isdecimal() and size < int(expected):
        raise BthubError(f"{name}: the download broke off after {size} of {expected} bytes")
    return check_bytes(b"".join(chunks), name)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address: it must not be asked through a proxy."""
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _encoded(url: str) -> tuple[str, str | None]:
    """The address in ASCII and without user and password, and the header that carries these.

    Raises:
        ValueError: the address is malformed.
    """
    parts = urlsplit(url.strip())
    host = parts.hostname
    if not host:
        raise ValueError("the address has no host")
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(credentials.encode()).decode('ascii')}"
    try:
        ascii_host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError as error:
        raise ValueError("the host's name isn't valid") from error
    place = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    try:
        port = parts.port
    except ValueError:  # its text repeats what may be a piece of a password
        raise ValueError("the port isn't a number from 0 to 65535") from None
    if port is not None:
        place += f":{port}"
    # What is encoded already stays: "%" is safe.
    path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return urlunsplit((parts.scheme, place, path, query, "")), authorization


def _reason(error: object) -> str:
    return printable(re.sub(r"//\S*@", "//", str(error)))


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    """Follows at most MAX_REDIRECTS redirects, and those only to http and https."""

    max_redirections = max_repeats = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError("it redirects to something that is not http or https")
        # A password in the new address is dropped: nobody gave it here.
        return super().redirect_request(req, fp, code, msg, headers, _encoded(newurl)[0])


class _Proxy(urllib.request.ProxyHandler):
    """The proxy of the environment, where it is one that urllib speaks with and the host is another machine."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_loopback(urlsplit(req.full_url).hostname or ""):
            return None
        if proxy.lower().startswith("socks"):
            raise urllib.error.URLError(
                f"{type}_proxy names a SOCKS proxy, through which pictures can't be downloaded; "
                "name an HTTP proxy, or download the file by other means and give its path"
            )
        return super().proxy_open(req, proxy, type)
