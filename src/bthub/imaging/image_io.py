"""Any picture a user may hand in -> one upright uint8 RGB array.

Everything here treats its input as hostile: a file's size, its format and the size of its picture are checked
before a pixel is decoded, only the formats in `_PLUGINS` are ever opened, and whatever a decoder raises comes
out as one `BthubError` naming the file.

Bits beyond eight. A picture with more than 8 bits a sample comes without the window it should be shown in, so
one is taken from the picture itself: the 0.1th to the 99.9th percentile of all its samples, linear, the same
for all channels. Two cases are left alone because they are 8-bit pictures in a larger type: whole numbers
within 0-255, and 16-bit integers all of which are multiples of 257 or of 256. Floats within 0-1 are
multiplied by 255.
"""

import io
import math
import re
import stat
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tifffile
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bthub.errors import BthubError

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 2**20
MIN_SIDE = 16
MAX_ASPECT = 32
DOWNLOAD_SECONDS = 30
MAX_REDIRECTS = 3

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"})
FORMATS = "PNG, TIFF, JPEG, BMP, WebP or GIF"

# The plugins are called directly rather than through Image.open, which would print a decompression-bomb
# warning before the size can be refused here, and make a multi-frame MPO of a phone's JPEG with a preview.
_PLUGINS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)

# Pillow keeps the high byte of 16-bit color. Asking for the other byte order of the same file gives the low
# one; gray with alpha, which has no second order, is read as four bytes: gray high, low, alpha high, low.
_LOW_BYTE_MODE = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
} | {"LA;16B": "RGBA"}

_TIFF_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANAR = 258, 262, 284
_WHITE_IS_ZERO = 0
_TRANSPOSED = (5, 6, 7, 8)


def read_image(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Read one untrusted picture.

    Args:
        source: a file, an http(s) URL, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
            bool, integers or floats, channels last, RGB, alpha straight. EXIF orientation is applied, alpha
            put on black, and more than 8 bits are windowed as the module's docstring says. Of a 16-bit color
            PNG or TIFF both bytes are read; where the caller opened it with PIL, only the high one is left.

    Returns:
        uint8 RGB (H, W, 3), upright, 0-255, contiguous and not shared with the source.

    Raises:
        BthubError: missing, unreadable, too large, not a picture, truncated, several frames, too small, too
            elongated, blank, not finite, or of a type or shape that is not a picture.
    """
    name = name_of(source)
    if isinstance(source, np.ndarray):
        samples = _check_array(source)
    elif isinstance(source, Image.Image):
        samples = _decode(name, _pil_samples, name, source)
    else:
        text = str(source)
        content = _download(text, name) if is_url(text) else _read_file(text, name)
        samples = _decode(name, _file_samples, name, content)
    image = _to_rgb(samples, name)
    if _is_blank(image):
        raise BthubError(f"{name}: the picture is blank, all its pixels have (nearly) the same value")
    return image


def read_picture_bytes(content: bytes, name: str) -> np.ndarray:
    """As `read_image`, of a file's bytes; a blank picture is read too.

    Args:
        content: the file.
        name: what messages call it.
    """
    return _to_rgb(_decode(name, _file_samples, name, _check_bytes(content, name)), name)


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture of a data set in RGB, with the pixels that `read_image` has of it; blank and tiny ones too."""
    name = name_of(picture)
    return Image.fromarray(_to_rgb(_decode(name, _samples, picture), name))


def name_of(source: str | Path | Image.Image | np.ndarray) -> str:
    """What messages call a picture.

    Raises:
        BthubError: it isn't of a type that is read.
    """
    if isinstance(source, np.ndarray):
        return "the array"
    if isinstance(source, Image.Image):
        return printable(getattr(source, "filename", "") or "the image")
    if isinstance(source, (str, Path)):
        return display_name(str(source))
    raise BthubError(f"a picture must be a path, a URL, a PIL image or a numpy array, not {type(source).__name__}")


def is_url(source: str) -> bool:
    """Whether the string has a scheme, like http://; a Windows drive letter is none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def display_name(source: str) -> str:
    """The source as messages show it: printable, and without a URL's query, which may hold secrets."""
    return printable(re.split(r"[?#]", source)[0] if is_url(source) else source)


def printable(text: object) -> str:
    """Escape what would break a line or a terminal: newlines, control codes, undecodable bytes; keep the last 200."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return line if len(line) <= 200 else "..." + line[-200:]


# -- bytes


def _read_file(path: str, name: str) -> bytes:
    try:
        info = Path(path).stat()
        if stat.S_ISDIR(info.st_mode):
            raise BthubError(f"{name}: is a folder, expected a picture file")
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device may never end
            raise BthubError(f"{name}: is not a regular file, expected a picture file")
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
    return _check_bytes(content, name)


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    """Follows at most MAX_REDIRECTS redirects, and those only to http and https."""

    max_redirections = max_repeats = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError("it redirects to something that is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, name: str) -> bytes:
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise BthubError(f"{name}: only http:// and https:// addresses can be read")
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    chunks, size = [], 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "bthub", "Accept": "image/*"})
        with urllib.request.build_opener(_FewRedirects).open(request, timeout=DOWNLOAD_SECONDS / 3) as response:
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
        reason = printable(str(error.reason).partition("\n")[0])
        error.close()
        raise BthubError(f"{name}: the download failed (HTTP {error.code}: {reason})") from error
    except BthubError:
        raise
    except Exception as error:  # http.client, ssl, socket and the parsers each raise their own kind
        reason = printable(getattr(error, "reason", "") or error or type(error).__name__)
        raise BthubError(f"{name}: the download failed ({reason})") from error
    if expected is not None and expected.isdigit() and size < int(expected):
        raise BthubError(f"{name}: the download broke off after {size} of {expected} bytes")
    return _check_bytes(b"".join(chunks), name)


def _too_many_bytes(name: str) -> str:
    return f"{name}: the file is absurdly large for a picture, at most {MAX_FILE_BYTES >> 20} MB are read"


def _check_bytes(content: bytes, name: str) -> bytes:
    if not content:
        raise BthubError(f"{name}: the file is empty (0 bytes)")
    if len(content) > MAX_FILE_BYTES:
        raise BthubError(_too_many_bytes(name))
    return content


# -- decoding: bytes or PIL -> samples of any depth, (H, W) or (H, W, 3 or 4)


def _decode(name: str, decode: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    try:
        return decode(*args)
    except BthubError:
        raise
    except Exception as error:  # a broken file makes decoders raise nearly anything, KeyError to MemoryError
        raise BthubError(f"{name}: the picture is truncated or damaged and cannot be decoded") from error


def _file_samples(name: str, content: bytes) -> np.ndarray:
    plugin = next((plugin for magic, plugin in _PLUGINS if magic.match(content)), None)
    if plugin is None:
        raise BthubError(f"{name}: is not a picture that can be read, expected {FORMATS}")
    if plugin is TiffImageFile:
        _check_tiff_directory(content)
    try:
        image = plugin(io.BytesIO(content))
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":  # a TIFF of float RGB, float64 or gray with alpha
            return _tifffile_samples(name, content)
        raise
    with image:
        _check_size(image.size, name)
        _check_single_frame(image, name)
        raw_mode = _raw_mode(image)
        low_byte_mode = _LOW_BYTE_MODE.get(raw_mode)
        if isinstance(image, TiffImageFile):
            _check_tiff_strips(image, len(content))
        if isinstance(image, TiffImageFile) and raw_mode[:1] != "I" and max(image.tag_v2.get(_TIFF_BITS, (1,))) == 16:
            # Pillow misreads 16-bit channels that lie one after the other.
            if image.info["compression"] == "raw":
                return _tifffile_samples(name, content)
            if image.tag_v2.get(_TIFF_PLANAR, 1) != 1:
                raise BthubError(
                    f"{name}: a compressed 16-bit TIFF with separate color planes cannot be read,"
                    " save it without compression or as PNG"
                )
        if low_byte_mode is None:
            return _pil_samples(name, image)
        high = np.asarray(_upright(image))
        with plugin(io.BytesIO(content)) as again:
            tile = again.tile[0]
            args = (low_byte_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else low_byte_mode
            again.tile = [tile._replace(args=args)]
            low = np.asarray(_upright(again))
    if raw_mode == "LA;16B":
        gray, alpha = (low[..., i].astype(np.uint16) << 8 | low[..., i + 1] for i in (0, 2))
        return np.dstack([gray, gray, gray, alpha])
    return high.astype(np.uint16) << 8 | low


def _check_tiff_directory(content: bytes) -> None:
    """Raise struct.error if the first directory, or a value it points to, lies beyond the end of the file.

    Pillow only warns about that and goes on without the tags.
    """
    order = "<" if content[:1] == b"I" else ">"
    big = b"+" in content[2:4]
    pointer, count_type, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = struct.calcsize(pointer)
    (position,) = struct.unpack_from(order + pointer, content, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_type, content, position)
    position += struct.calcsize(count_type)
    for _ in range(count):
        _, kind, length = struct.unpack_from(order + entry, content, position)
        position += struct.calcsize(order + entry)
        (value,) = struct.unpack_from(order + pointer, content, position)
        position += inline
        size = _TIFF_TYPE_BYTES.get(kind, 1) * length
        if size > inline and value + size > len(content):
            raise struct.error("a value lies beyond the end of the file")


def _check_tiff_strips(image: TiffImageFile, file_bytes: int) -> None:
    """Raise ValueError if pixels lie beyond the end of the file; libtiff would report it on standard error."""
    for offsets, lengths in ((273, 279), (324, 325)):  # strips, tiles
        for offset, length in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(lengths, ()), strict=False):
            if offset + length > file_bytes:
                raise ValueError("a strip lies beyond the end of the file")


def _raw_mode(image: Image.Image) -> str:
    """The layout of the samples in the file, in Pillow's names; "" where the decoder has none."""
    tile = getattr(image, "tile", None)  # of a picture from a file alone
    args = tile[0].args if tile else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _pil_samples(name: str, image: Image.Image) -> np.ndarray:
    _check_size(image.size, name)
    _check_single_frame(image, name)
    return _samples(image)


def _samples(image: Image.Image) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})
    inverted = image.mode[0] in "IF" and tags.get(_TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    upright = _upright(image)
    if upright.mode[0] in "IF":
        samples = np.asarray(upright)
        return samples.max() - samples if inverted else samples
    if upright.has_transparency_data:
        return np.asarray(upright.convert("RGBA"))
    return np.asarray(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


def _tifffile_samples(name: str, content: bytes) -> np.ndarray:
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        _check_size((page.imagewidth, page.imagelength), name)
        if page.samplesperpixel > 4 or page.imagedepth != 1:
            raise BthubError(
                f"{name}: expected a TIFF of one gray or RGB picture,"
                f" found {page.samplesperpixel} samples a pixel and depth {page.imagedepth}"
            )
        if page.compression != 1:  # its decompressors have no limit on what they write
            kind = tifffile.COMPRESSION(page.compression).name
            raise BthubError(
                f"{name}: a {page.dtype} TIFF with {kind} compression cannot be read,"
                " save it without compression or as PNG"
            )
        if page.photometric not in (0, 1, 2):
            raise BthubError(
                f"{name}: a TIFF with {tifffile.PHOTOMETRIC(page.photometric).name} colors and {page.dtype} samples"
                " cannot be read, save it as gray or RGB"
            )
        if len(tiff.pages) > 1:
            raise BthubError(_several_frames(name))
        samples = page.asarray()
        orientation = page.tags.valueof(274, 1)
    if samples.ndim == 3 and page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    expected = (page.imagelength, page.imagewidth) + (page.samplesperpixel,) * (page.samplesperpixel > 1)
    if samples.shape != expected:  # tifffile gives what it finds
        raise ValueError(f"expected samples of shape {expected}, found {samples.shape}")
    if page.photometric == _WHITE_IS_ZERO:
        samples = samples.max() - samples
    if samples.ndim == 3 and samples.shape[2] == 2:  # gray with alpha
        samples = samples[..., [0, 0, 0, 1]]
    if orientation in (2, 3, 7, 8):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 6, 7):
        samples = samples[::-1]
    return samples.swapaxes(0, 1) if orientation in _TRANSPOSED else samples


# -- checks


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BthubError(
            f"{name}: the picture is absurdly large, {width} x {height} pixels;"
            f" at most {MAX_PIXELS / 1e6:.0f} megapixels are read"
        )
    if min(width, height) < MIN_SIDE:
        raise BthubError(
            f"{name}: the picture is too small, {width} x {height} pixels; each side needs at least {MIN_SIDE}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BthubError(
            f"{name}: the picture is too elongated for a slice, {width} x {height} pixels;"
            f" at most {MAX_ASPECT}:1 is read"
        )


def _several_frames(name: str) -> str:
    return f"{name}: the file holds more than one frame or page, expected one slice a file; save each as its own"


def _check_single_frame(image: Image.Image, name: str) -> None:
    # Not n_frames: counting follows every page of a TIFF, which a hostile file makes endless.
    if getattr(image, "is_animated", False):
        raise BthubError(_several_frames(name))


def _check_array(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "buif":
        raise BthubError(f"the array: expected bool, integer or float samples, found {array.dtype}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BthubError(
            f"the array: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}"
            + ("; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else "")
        )
    _check_size((array.shape[1], array.shape[0]), "the array")
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _is_blank(image: np.ndarray) -> bool:
    """Whether fewer than one pixel in a thousand differs from the median color by more than one level.

    The LGG set has slices of noise above the head, of whose pixels five in a thousand do: they are not blank.
    """
    step = math.isqrt(image.shape[0] * image.shape[1] // 2**20) + 1  # a million pixels are enough to tell
    image = image[::step, ::step]
    median = np.median(image, axis=(0, 1)).astype(np.int16)
    return np.mean((np.abs(image - median) > 1).any(axis=2)) < 1e-3


# -- samples -> uint8 RGB


def _to_rgb(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise BthubError(f"{name}: the picture holds NaN or infinite values")
    alpha = None
    if samples.ndim == 3 and samples.shape[2] == 4:
        samples, alpha = samples[..., :3], samples[..., 3]
        samples = samples * (alpha > 0)[..., None]  # what cannot be seen must not set the window
    levels = _to_uint8(samples)
    if alpha is not None:
        _put_on_black(levels, alpha)
    if levels.ndim == 2:
        levels = np.repeat(levels[..., None], 3, axis=2)
    return np.array(levels, order="C")


def _put_on_black(levels: np.ndarray, alpha: np.ndarray) -> None:
    """Multiply uint8 levels (H, W, 3), in place, by alpha (H, W) of any depth."""
    scale = _full_scale(alpha)
    for rows in _blocks(levels):
        levels[rows] = np.rint(levels[rows] * np.clip(alpha[rows] / scale, 0, 1)[..., None])


def _blocks(samples: np.ndarray) -> Iterator[slice]:
    """Rows of some 65,000 pixels at a time: as floats, the whole of a large picture would take gigabytes."""
    height, width = samples.shape[:2]
    step = 2**16 // width + 1
    return (slice(top, top + step) for top in range(0, height, step))


def _full_scale(samples: np.ndarray) -> float:
    top = samples.max()
    if samples.dtype.kind in "bf" and top <= 1:
        return 1.0
    return 255.0 if top <= 255 else 65535.0


def _to_uint8(samples: np.ndarray) -> np.ndarray:
    """Samples of any depth -> uint8, same shape, as the module's docstring says."""
    kind = samples.dtype.kind
    if samples.dtype == np.uint8:
        return samples
    if kind == "b":
        return samples.astype(np.uint8) * 255
    low, high = samples.min(), samples.max()
    if kind == "f" and low >= 0 and high <= 1:
        return np.rint(samples * 255.0).astype(np.uint8)
    if low >= 0 and high <= 255 and (kind != "f" or np.array_equal(samples, np.rint(samples))):
        return samples.astype(np.uint8)
    sample = samples.reshape(-1)[:: samples.size // 2**22 + 1]  # a few million give the same percentiles
    if kind != "f" and low >= 0 and high <= 65535:
        for factor in (257, 256):
            if not (sample % factor).any() and not (samples % factor).any():
                return (samples // factor).astype(np.uint8)
    bottom, top = np.percentile(sample, (0.1, 99.9))
    if top <= bottom:  # nearly all of the picture has one value
        bottom, top = float(low), float(high)
    if top <= bottom:
        return np.zeros(samples.shape, np.uint8)
    precision = np.float64 if samples.dtype.itemsize > 4 else np.float32
    levels = np.empty(samples.shape, np.uint8)
    for rows in _blocks(samples):
        scaled = np.clip(samples[rows], bottom, top).astype(precision)
        scaled -= bottom
        scaled *= 255 / (top - bottom)
        levels[rows] = np.rint(scaled)
    return levels
