"""Any picture a user may provide -> one upright uint8 RGB array.

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
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bthub.errors import BthubError
from bthub.imaging.checks import MAX_FILE_BYTES as MAX_FILE_BYTES  # for those who ask what is read
from bthub.imaging.checks import MAX_PIXELS as MAX_PIXELS
from bthub.imaging.checks import check_size, printable, several_frames, without_warnings
from bthub.imaging.checks import display_name as display_name
from bthub.imaging.checks import is_url as is_url
from bthub.imaging.fetch import check_bytes, download, read_file, read_open_file
from bthub.imaging.formats import exif_orientation, is_dicom, other_kind, shown_jpeg, shown_png, xmp_orientation
from bthub.imaging.tiff import check_opened, load_opened, pixels, read_tiff

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif"})

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""What `read_image` takes for one picture."""

# The plugins are called directly rather than through Image.open, which would print a decompression-bomb
# warning before the size can be refused here, and make a multi-frame MPO of a phone's JPEG with a preview.
_PLUGINS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)
_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")

MAGICS = tuple(magic for magic, _ in _PLUGINS)
"""What the files that are read here begin with."""

# Pillow keeps the high byte of 16-bit color. Asking for the other byte order of the same file gives the low
# one; gray with alpha, which has no second order, is read as four bytes: gray high, low, alpha high, low.
_LOW_BYTE_MODE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}


def read_image(source: Source) -> np.ndarray:
    """Read one untrusted picture.

    Args:
        source: a file's path, an http(s) URL, the bytes of a file, an open file (also an upload), a PIL image, or an
            array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
            bool, integers or floats, channels last, RGB, alpha straight. EXIF orientation is applied, alpha
            put on black, and more than 8 bits are windowed as the module's docstring says. Of a 16-bit color
            PNG or TIFF both bytes are read; where the caller opened it with PIL, only the high one is left.

    Returns:
        uint8 RGB (H, W, 3), upright, 0-255, contiguous and not shared with the source.

    Raises:
        BthubError: missing, unreadable, too large, not a picture, truncated, several frames, too small, too
            elongated, blank, fully transparent, not finite, or of a type or shape that is not a picture.
    """
    name = name_of(source)
    if isinstance(source, np.ndarray):
        samples = _check_array(source)
    elif isinstance(source, Image.Image):
        samples = _decode(name, _pil_samples, name, source)
    else:
        samples = _decode(name, _file_samples, name, _content(source, name))
    if samples.ndim == 3 and samples.shape[2] == 4 and not (samples[..., 3] > 0).any():
        raise BthubError(f"{name}: the picture is fully transparent; save it without its alpha channel")
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
    return _to_rgb(_decode(name, _file_samples, name, check_bytes(content, name)), name)


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture of a data set in RGB, with the pixels that `read_image` has of it; blank and tiny ones too."""
    name = name_of(picture)
    return Image.fromarray(_to_rgb(_decode(name, load_opened, picture), name))


def check_file(content: bytes, name: str) -> None:
    """Decode a picture's file as `read_image` does, for what it raises.

    Raises:
        BthubError: it isn't a picture that `read_image` can decode. Blank, transparent, tiny and elongated ones pass.
    """
    samples = _decode(name, _file_samples, name, check_bytes(content, name), True)
    _check_finite(samples, name)


def is_picture(source: object) -> bool:
    """Whether an object is meant as one picture and not as several: it may still be one that can't be read."""
    if isinstance(source, (str, os.PathLike, Image.Image)):
        return True
    return any(hasattr(source, name) for name in ("__array__", "read")) or is_buffer(source)


def is_buffer(source: Any) -> bool:
    """Whether an object gives its bytes as `bytes` do: also an `array.array` and an open `mmap`."""
    try:
        memoryview(source)
    except (TypeError, ValueError, BufferError):  # ValueError: an mmap that is closed
        return False
    return not hasattr(source, "__array__")


def name_of(source: object) -> str:
    """What messages call a picture.

    Raises:
        BthubError: it isn't of a type that is read.
    """
    if isinstance(source, np.ndarray):
        return "the array"
    if isinstance(source, Image.Image):
        return printable(getattr(source, "filename", "") or "the image")
    if isinstance(source, (str, os.PathLike)):
        try:
            return display_name(os.fsdecode(source)) or "''"
        except TypeError as error:
            raise BthubError(f"this {type(source).__name__} isn't a path: {printable(error)}") from error
    if is_buffer(source):
        return "the bytes"
    if callable(getattr(source, "read", None)):
        name = getattr(source, "name", None)  # of a temporary file a number
        return display_name(os.fsdecode(name)) if isinstance(name, (str, bytes)) and name else "the open file"
    hint = "; make an array of it with numpy.asarray" if hasattr(source, "__array__") else ""
    raise BthubError(
        "a picture must be a path, a URL, an open file, bytes, a PIL image or a numpy array, not "
        f"{type(source).__name__}{hint}"
    )


def _content(source: Any, name: str) -> bytes:
    if is_buffer(source):
        return check_bytes(bytes(source), name)
    if not isinstance(source, (str, os.PathLike)):
        return read_open_file(source, name)
    text = os.fsdecode(source)
    return download(text, name) if is_url(text) else read_file(text, name)


# -- decoding: bytes or PIL -> samples of any depth, (H, W) or (H, W, 3 or 4)


def _decode(name: str, decode: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    try:
        with without_warnings():
            return decode(*args)
    except BthubError:
        raise
    except Exception as error:  # a broken file makes decoders raise nearly anything, KeyError to MemoryError
        raise BthubError(f"{name}: the picture is truncated or damaged and cannot be decoded") from error


def _file_samples(name: str, content: bytes, any_shape: bool = False) -> np.ndarray:
    if is_dicom(content):
        raise BthubError(f"{name}: {other_kind(content)}")
    if _TIFF.match(content):
        samples, orientation = read_tiff(content, name, any_shape=any_shape)
        return turned(samples, orientation)
    plugin = next((plugin for magic, plugin in _PLUGINS if magic.match(content)), None)
    if plugin is None:
        raise BthubError(f"{name}: {other_kind(content)}")
    orientation = 1
    if plugin is PngImageFile:
        content, orientation = shown_png(content, name)
    elif plugin is JpegImageFile:
        content, orientation = shown_jpeg(content, name)
    with plugin(io.BytesIO(content)) as image:
        check_size(image.size, name, any_shape=any_shape)
        _check_single_frame(image, name)
        if plugin is WebPImageFile:
            said = exif_orientation(image.info.get("exif", b""))
            orientation = xmp_orientation(image.info.get("xmp", b"")) if said is None else said
        low_byte_mode = _LOW_BYTE_MODE.get(_raw_mode(image))
        image.load()
        if low_byte_mode is None:
            samples = pixels(image)
            if plugin is BmpImageFile and samples.ndim == 3 and not samples[..., 3:].any():
                samples = samples[..., :3]  # a fourth byte that nobody set
            return turned(samples, orientation)
        high = np.asarray(image)
    with plugin(io.BytesIO(content)) as again:
        again.tile = [again.tile[0]._replace(args=low_byte_mode)]
        again.load()
        low = np.asarray(again)
    if low_byte_mode == "RGBA":
        gray, alpha = (low[..., i].astype(np.uint16) << 8 | low[..., i + 1] for i in (0, 2))
        return turned(np.dstack([gray, gray, gray, alpha]), orientation)
    return turned(high.astype(np.uint16) << 8 | low, orientation)


def _raw_mode(image: Image.Image) -> str:
    """The layout of the samples in the file, in Pillow's names; "" where the decoder has none."""
    tile = getattr(image, "tile", None)
    args = tile[0].args if tile else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _pil_samples(name: str, image: Image.Image) -> np.ndarray:
    check_size(image.size, name)
    try:
        image.load()
    except (ValueError, AssertionError) as error:  # the latter where the image was never loaded before it was closed
        if "closed" in str(error) or (isinstance(error, AssertionError) and getattr(image, "fp", image) is None):
            raise BthubError(f"{name}: the image is closed; give it before it is, or a copy of it") from error
        raise
    _check_single_frame(image, name)
    check_opened(image, name)
    if image.mode == "LAB":  # Pillow converts it with a color profile only
        raise BthubError(f"{name}: an image of mode LAB cannot be read, convert it to RGB")
    return load_opened(image)


def turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Stored samples, upright; orientation 1 to 8 as in EXIF, anything else is left as it is."""
    if orientation in (2, 3, 7, 8):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 6, 7):
        samples = samples[::-1]
    return samples.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else samples


# -- checks


def _check_single_frame(image: Image.Image, name: str) -> None:
    # Not n_frames: counting follows every page of a TIFF, which a hostile file makes endless.
    if getattr(image, "is_animated", False):
        raise several_frames(name)


def _check_array(array: np.ndarray) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise BthubError("the array: some of its samples are masked; fill them, with array.filled(0) for one")
    array = np.asarray(array)  # of np.matrix, whose rows never lose a dimension, an array
    if array.dtype.kind not in "buif":
        raise BthubError(f"the array: expected bool, integer or float samples, found {array.dtype}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BthubError(
            f"the array: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}"
            + ("; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else "")
        )
    check_size((array.shape[1], array.shape[0]), "the array")
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


BLANK = 1e-3
"""Share of a picture's pixels that must differ from its median color."""


def _is_blank(image: np.ndarray) -> bool:
    """Whether fewer than one pixel in a thousand differs from the median color by more than one level.

    The LGG set has slices of noise above the head, of whose pixels five in a thousand do: they are not blank.
    """
    step = math.isqrt(image.shape[0] * image.shape[1] // 2**20) + 1  # a million pixels are enough to tell
    image = image[::step, ::step]
    medians, differ = [], []
    for band in np.moveaxis(image, 2, 0):
        # Of values that are counted, which takes a fraction of the time of sorting them.
        counts = np.bincount(band.ravel(), minlength=256)
        middle = np.searchsorted(np.cumsum(counts), [(band.size - 1) // 2, band.size // 2], side="right")
        median = int(middle.sum()) // 2
        medians.append(median)
        differ.append(1 - counts[max(0, median - 1) : median + 2].sum() / band.size)
        if differ[-1] >= BLANK:
            return False  # as nearly every picture's first channel tells
    if sum(differ) < BLANK:
        return True
    apart = np.abs(image - np.array(medians, np.int16)) > 1
    return bool(apart.any(axis=2).mean() < BLANK)


# -- samples -> uint8 RGB


def _check_finite(samples: np.ndarray, name: str) -> None:
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise BthubError(f"{name}: the picture holds NaN or infinite values")


def _to_rgb(samples: np.ndarray, name: str) -> np.ndarray:
    _check_finite(samples, name)
    alpha = None
    if samples.ndim == 3 and samples.shape[2] == 4:
        samples, alpha = samples[..., :3], samples[..., 3]
        samples = samples * (alpha > 0)[..., None]  # what cannot be seen must not set the window
    levels = _to_uint8(samples)
    if alpha is not None:
        put_on_black(levels, alpha)
    if levels.ndim == 2:
        levels = np.repeat(levels[..., None], 3, axis=2)
    return np.array(levels, order="C")


def put_on_black(levels: np.ndarray, alpha: np.ndarray) -> None:
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
    """What an alpha of these samples is where nothing shines through."""
    top = samples.max()
    if samples.dtype.kind in "bf" and top <= 1:
        return 1.0
    return next((full for full in (255.0, 65535.0, 2.0**32 - 1) if top <= full), float(top))


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
    above = _above(samples.dtype, low, high)
    bottom, top = np.percentile(above(sample), (0.1, 99.9))
    if top <= bottom:  # nearly all of the picture has one value
        bottom, top = above(np.array([low, high], samples.dtype))
    if top <= bottom:
        return np.zeros(samples.shape, np.uint8)
    levels = np.empty(samples.shape, np.uint8)
    precise = np.promote_types(samples.dtype, np.float64)
    for rows in _blocks(samples):
        # Divided before it is multiplied: 255 over a very small range would be infinite.
        height = np.clip(above(samples[rows]), bottom, top).astype(precise)
        levels[rows] = np.rint((height - bottom) / (top - bottom) * 255)
    return levels


def _above(dtype: np.dtype, low: Any, high: Any) -> Callable[[np.ndarray], np.ndarray]:
    """How far samples lie above the smallest one, without what overflows on the way or loses digits."""
    if dtype.kind != "f":
        # Differences of signed numbers may not fit their type, but always fit the unsigned one, which wraps.
        unsigned = np.dtype(f"u{dtype.itemsize}")
        smallest = np.asarray(low).astype(unsigned)
        return lambda x: x.astype(unsigned) - smallest
    wide = np.dtype(np.float32) if dtype.itemsize < 4 else dtype.newbyteorder("=")
    low, high = np.asarray(low, wide), np.asarray(high, wide)
    # Of numbers near the largest ones there are, the halves.
    scale = np.asarray(0.5 if high / 2 - low / 2 > np.finfo(wide).max / 2 else 1, wide)
    return lambda x: x.astype(wide) * scale - low * scale
