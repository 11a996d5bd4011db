"""TIFF files: what one holds, and which reader decodes its samples correctly.

Pillow reads TIFFs of unsigned 8-bit samples, and libtiff behind it those that are compressed. Of other sample types it
knows some and misreads others: signed 8 bits as unsigned, unsigned 32 bits as signed, compressed big-endian samples in
the wrong order. So the directory is read here first, and each kind goes to the reader that is right for it, or is
refused. Decoders are shown only the entries that pixels depend on: what else a file says (EXIF, color profiles, GPS)
is often damaged, and then makes them warn.
"""

import functools
import io
import json
import logging
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from bthub.errors import BthubError
from bthub.imaging.checks import check_size, several_frames

# With a handler of theirs, what they log reaches those who asked for it, and not standard error.
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
DESCRIPTION, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES, PLANAR = 270, 273, 274, 277, 279, 284
TILE_OFFSETS, TILE_BYTES, EXTRA, FORMAT, DEPTH, METAMORPH = 324, 325, 338, 339, 32997, 33629
_JPEG_TABLES, _COLOR_MAP = 347, 320

WHITE_IS_ZERO = 0
_GRAY, _RGB = (0, 1), 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2

# What pixels depend on; all else is kept from the decoders.
_SHOWN = frozenset(
    {254, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, STRIP_OFFSETS, SAMPLES, 278, STRIP_BYTES, PLANAR}
    | {292, 293, 317, _COLOR_MAP, 322, 323, TILE_OFFSETS, TILE_BYTES, 332, EXTRA, FORMAT, _JPEG_TABLES}
    | set(range(512, 522))
    | {529, 530, 532}
)
# Of these a directory has one value. With more, Pillow warns and takes the first.
_SINGLE = frozenset(
    {254, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, 266, ORIENTATION, SAMPLES, 278, PLANAR, 317, 322, 323}
)
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_ENTRIES = 4096
_MAX_VALUES = 2**20
_DEFLATE = (8, 32946)
# A file that says it holds several pictures, and after the first has no more than this, holds one of them.
_NO_PICTURE_BYTES = 4096

_AXES = {"C": "channels", "T": "times", "Z": "slices"}

# How Pillow must be told to unpack what libtiff has decompressed: in this machine's byte order, whatever the file's.
_NATIVE = {
    (_UNSIGNED, 32): ("I;32N", np.uint32),
    (_SIGNED, 8): ("L", np.int8),
    (_SIGNED, 16): ("I;16NS", np.int32),
    (_SIGNED, 32): ("I;32N", np.int32),
    (_FLOAT, 32): ("F;32NF", np.float32),
}


@dataclass(frozen=True)
class Directory:
    """A directory of a TIFF file, which is one page.

    Attributes:
        values: tag -> its whole numbers, or its bytes where it holds text or anything else.
        counts: tag -> how many values it says it has.
        pillow: the same file with this directory alone, and of it only the entries that pixels depend on.
        several: whether another directory follows.
    """

    values: Mapping[int, tuple[int, ...] | bytes]
    counts: Mapping[int, int]
    pillow: bytes
    several: bool

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The whole numbers of a tag."""
        found = self.values.get(tag, default)
        return default if isinstance(found, bytes) else found

    def number(self, tag: int, default: int) -> int:
        """The first of them."""
        return (self.numbers(tag) or (default,))[0]

    @property
    def text(self) -> bytes:
        """What programs write of the whole file into its first page."""
        found = self.values.get(DESCRIPTION, b"")
        return found if isinstance(found, bytes) else bytes(value & 255 for value in found)

    @property
    def orientation(self) -> int:
        """How the picture is to be turned, 1 to 8 as in EXIF."""
        return self.number(ORIENTATION, 1)


def positions(content: bytes) -> Iterator[int]:
    """Where each page's directory lies.

    Pillow only warns where one lies beyond the end of the file, and gives those before it.

    Raises:
        ValueError: one follows itself.
        struct.error: one lies beyond the end.
    """
    order = "<" if content[:1] == b"I" else ">"
    pointer, count_type, entry = ("Q", "Q", 20) if b"+" in content[2:4] else ("I", "H", 12)
    (position,) = struct.unpack_from(order + pointer, content, 8 if pointer == "Q" else 4)
    seen: set[int] = set()
    while position:
        if position in seen:
            raise ValueError("a page follows itself")
        seen.add(position)
        count = _number_at(order + count_type, content, position)
        end = position + struct.calcsize(count_type) + count * entry
        following = _number_at(order + pointer, content, end)
        yield position
        position = following


def _number_at(code: str, content: bytes, position: int) -> int:
    """One number; a BigTIFF may name a place that no C library can count to.

    Raises:
        struct.error: it lies beyond the end.
    """
    if position > len(content):
        raise struct.error(f"byte {position} lies beyond the end of the file")
    return int(struct.unpack_from(code, content, position)[0])


def read_directory(content: bytes, position: int | None = None) -> Directory:
    """Read a directory of a TIFF or BigTIFF file.

    Args:
        content: the file.
        position: where it lies; by default where the first one does.

    Raises:
        struct.error, ValueError: it, a value it points to, or a pixel lies beyond the end of the file, or is nonsense.
    """
    order = "<" if content[:1] == b"I" else ">"
    big = b"+" in content[2:4]
    pointer, count_type, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = struct.calcsize(pointer)
    (first,) = struct.unpack_from(order + pointer, content, 8 if big else 4)
    if position is None:
        position = first
    is_first = position == first
    count = _number_at(order + count_type, content, position)
    if count > _MAX_ENTRIES:
        raise ValueError("a directory of so many entries")
    position += struct.calcsize(count_type)
    entry_bytes = struct.calcsize(order + entry) + inline
    values: dict[int, tuple[int, ...] | bytes] = {}
    counts: dict[int, int] = {}
    shown = []
    for start in range(position, position + count * entry_bytes, entry_bytes):
        tag, kind, length = struct.unpack_from(order + entry, content, start)
        at = start + entry_bytes - inline
        size = _TYPE_BYTES.get(kind, 1) * length
        if size > inline:
            (at,) = struct.unpack_from(order + pointer, content, at)
        if at + size > len(content):
            raise struct.error("a value lies beyond the end of the file")
        if tag in _SINGLE and length != 1 or length > _MAX_VALUES and tag in _SHOWN:
            raise ValueError("a tag of so many values")
        counts[tag] = length
        code = _TYPE_CODES.get(kind)
        if tag in _SHOWN:
            shown.append(content[start : start + entry_bytes])
        if code and length <= _MAX_VALUES:
            values[tag] = struct.unpack_from(f"{order}{length}{code}", content, at)
        else:
            values[tag] = content[at : at + size]
    end = position + count * entry_bytes
    (following,) = struct.unpack_from(order + pointer, content, end) if end + inline <= len(content) else (0,)
    shortened = content
    if len(shown) < count or not is_first:
        # The same bytes with another directory after them, which the header points to.
        padding = b"\0" * (len(content) % 2)
        appended = struct.pack(order + count_type, len(shown)) + b"".join(shown) + bytes(inline)
        header = content[: 8 if big else 4] + struct.pack(order + pointer, len(content) + len(padding))
        shortened = header + content[len(header) :] + padding + appended
    directory = Directory(values, counts, shortened, bool(following))
    _check_extent(directory, len(content))
    return directory


def read_tiff(content: bytes, name: str, *, any_shape: bool = False) -> tuple[np.ndarray, int]:
    """The samples of a TIFF file as they are stored.

    Args:
        content: the file.
        name: what messages call it.
        any_shape: read it however small or elongated it is.

    Returns:
        Samples of any depth, (H, W) or (H, W, 3), or (H, W, 4) with straight alpha, not yet turned; and the
        orientation, 1 to 8.

    Raises:
        BthubError: it holds several pictures, or one of a kind that no reader here gives rightly.
        Exception: it is damaged; decoders raise nearly anything.
    """
    directory = read_directory(content)
    size = directory.number(WIDTH, 0), directory.number(HEIGHT, 0)
    check_size(size, name, any_shape=any_shape)
    if directory.several or _planes(directory, len(content)) > 1:
        raise several_frames(name)
    samples, white_is_zero = read_page(directory, content, name)
    return inverted(samples) if white_is_zero else samples, directory.orientation


def read_page(directory: Directory, content: bytes, name: str) -> tuple[np.ndarray, bool]:
    """The samples of one page of a file, as `read_tiff` has them, and whether they are still to be inverted.

    What a page is inverted at is its largest sample: of a stack, the largest of all its pages.
    """
    if directory.number(COMPRESSION, 1) in _DEFLATE:
        _check_deflate(directory, content)
    silence_libtiff()
    samples, white_is_zero = _samples(directory, name)
    height, width = directory.number(HEIGHT, 0), directory.number(WIDTH, 0)
    if samples.shape[:2] != (height, width):
        raise ValueError(f"expected {height} x {width} samples, found {samples.shape}")
    return samples, white_is_zero and directory.number(PHOTOMETRIC, 0) == WHITE_IS_ZERO


def _samples(directory: Directory, name: str) -> tuple[np.ndarray, bool]:
    """The samples, and whether of a page in which white is 0 they are still as stored."""
    compression = directory.number(COMPRESSION, 1)
    photometric = directory.number(PHOTOMETRIC, 0)
    channels = directory.number(SAMPLES, 1)
    bits = set(directory.numbers(BITS, (1,))[:channels])
    kinds = set(directory.numbers(FORMAT, (_UNSIGNED,))[:channels])
    planar = directory.number(PLANAR, 1) == 2
    extra = directory.numbers(EXTRA)
    if compression not in COMPRESSION_INFO:
        raise BthubError(
            f"{name}: a TIFF with {_compression_name(compression)} compression cannot be read, save it without "
            "compression or as PNG"
        )
    jpeg = compression in (6, 7)
    if photometric in (8, 9, 10) or photometric == 6 and compression == 1 and channels > 1:
        raise BthubError(
            f"{name}: a TIFF with {_photometric_name(photometric)} colors cannot be read, save it as gray or RGB"
        )
    if jpeg and bits != {8}:
        raise BthubError(f"{name}: a TIFF with JPEG compression and {_text(bits)} bits cannot be read, save it as PNG")
    if photometric in (*_GRAY, _RGB) and len(bits) == len(kinds) == 1:
        (depth,), (kind,) = bits, kinds
        kept = 3 if photometric == _RGB else 1
        if channels > kept and (photometric in _GRAY or depth > 8 or kind != _UNSIGNED):
            # Two channels of a microscope, or a sum of five: which of them is the picture is nowhere said.
            if channels > kept + 1 or (photometric in _GRAY and not set(extra[:1]) & {_ASSOCIATED, _UNASSOCIATED}):
                raise BthubError(
                    f"{name}: expected a TIFF of one gray or RGB picture, found {channels} samples a pixel;"
                    " save one picture a file"
                )
        if channels < kept:
            raise ValueError("fewer samples than colors")
        pillows_alpha = photometric == _RGB or channels == 1 or (photometric, *extra) == (1, _UNASSOCIATED)
        deep = depth > 8 or kind != _UNSIGNED or not pillows_alpha
        if deep and depth in (8, 16, 32, 64) and kind in (_UNSIGNED, _SIGNED, _FLOAT) and compression == 1:
            if not (kind == _FLOAT and depth == 8):
                return _by_tifffile(directory), True
        if deep and not (channels == 1 and (kind, depth) == (_UNSIGNED, 12) and compression == 1):
            return _decompressed(directory, name, kind, depth, channels, planar), True
    elif len(bits) > 1 or len(kinds) > 1 or photometric not in (3, 5, 6) or kinds != {_UNSIGNED}:
        raise BthubError(
            f"{name}: a TIFF with {_photometric_name(photometric)} colors, {_text(bits)} bits and sample format"
            f" {_text(kinds)} cannot be read, save it as 8-bit gray or RGB"
        )
    return _by_pillow(directory, name), False


def _by_pillow(directory: Directory, name: str) -> np.ndarray:
    with _opened(directory, name) as image:
        image.load()
        return pixels(image)


def pixels(image: Image.Image) -> np.ndarray:
    """The samples of a loaded Pillow image: gray, RGB, or RGBA with straight alpha."""
    if image.mode in ("La", "RGBa"):  # alpha already multiplied in
        image = image.convert(image.mode[:-1] + "A")
    if image.mode[0] in "IF":
        return np.asarray(image)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _opened(directory: Directory, name: str) -> TiffImageFile:
    try:
        return TiffImageFile(io.BytesIO(directory.pillow))
    except SyntaxError as error:
        if str(error) != "unknown pixel mode":
            raise
        bits, kinds = directory.numbers(BITS, (1,)), directory.numbers(FORMAT, (_UNSIGNED,))
        raise BthubError(
            f"{name}: a TIFF with {_photometric_name(directory.number(PHOTOMETRIC, 0))} colors, {_text(set(bits))} bits"
            f" and sample format {_text(set(kinds))} cannot be read, save it as 8-bit gray or RGB"
        ) from error


def _decompressed(directory: Directory, name: str, kind: int, depth: int, channels: int, planar: bool) -> np.ndarray:
    """What libtiff decompresses and Pillow unpacks, of the sample types that both get right."""
    samples = None
    if (kind, depth) == (_UNSIGNED, 16) and channels in (3, 4) and not planar:
        samples = _both_bytes(directory, name)
    elif (kind, depth) == (_UNSIGNED, 16) and channels == 1:
        samples = _by_pillow(directory, name)
    elif (kind, depth) in _NATIVE and channels == 1:
        with _opened(directory, name) as image:
            retyped = _native(image, kind, depth)
            image.load()
            samples = np.asarray(image).view(retyped)
    if samples is None:
        what = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "float"}.get(kind, "unknown")
        planes = " in separate color planes" if planar and channels > 1 else ""
        packed = directory.number(COMPRESSION, 1) != 1
        raise BthubError(
            f"{name}: a {'compressed ' * packed}TIFF of {what} {depth}-bit samples{planes} cannot be read, save it as"
            f" 8 or 16-bit {'TIFF without compression, or as ' * packed}PNG"
        )
    return samples


def _both_bytes(directory: Directory, name: str) -> np.ndarray | None:
    """16-bit color, of which Pillow keeps the high byte: asked again for the other byte order, it gives the low one."""
    parts = []
    for order in "BL":
        with _opened(directory, name) as image:
            tile = image.tile[0]
            args: Any = tile.args
            channels = args[0].partition(";")[0]
            if channels == "RGBa" or len(image.tile) != 1:
                return None
            image.tile = [tile._replace(args=(f"{channels};16{order}", *args[1:]))]
            image.load()
            parts.append(np.asarray(image).astype(np.uint16))
    # libtiff gives this machine's byte order, whatever the file's.
    low, high = parts if struct.pack("=H", 1) == b"\1\0" else parts[::-1]
    return high << 8 | low


def _native(image: Image.Image, kind: int, depth: int) -> Any:
    """Have a compressed TIFF that isn't loaded yet unpacked in the right byte order; the type of its samples."""
    raw_mode, dtype = _NATIVE[kind, depth]
    tile = image.tile[0]  # type: ignore[attr-defined]
    image.tile = [tile._replace(args=(raw_mode, *tile.args[1:]))]  # type: ignore[attr-defined]
    return dtype


def _by_tifffile(directory: Directory) -> np.ndarray:
    """Uncompressed samples of any type. What is compressed isn't given to it: its decompressors know no limit."""
    with tifffile.TiffFile(io.BytesIO(directory.pillow)) as tiff:
        page = tiff.pages.first
        samples = page.asarray()
        if samples.ndim == 3 and page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, -1)
        expected = (page.imagelength, page.imagewidth) + (page.samplesperpixel,) * (page.samplesperpixel > 1)
    if samples.shape != expected:  # tifffile gives what it finds
        raise ValueError(f"expected samples of shape {expected}, found {samples.shape}")
    extra = directory.number(EXTRA, _UNASSOCIATED)
    if samples.ndim == 3 and samples.shape[2] == 2:  # gray with alpha
        samples = samples[..., [0, 0, 0, 1]]
    if samples.ndim == 3 and samples.shape[2] == 4 and extra in (_UNSPECIFIED, _ASSOCIATED):
        samples = samples[..., :3]  # no alpha, or one that is already multiplied in, which is black below
    return samples


def inverted(samples: np.ndarray) -> np.ndarray:
    """The largest sample minus each: the picture of a file in which 0 is white. Whole numbers become unsigned.

    Args:
        samples: gray, or (..., 4) with an alpha, which stays.
    """
    if samples.ndim > 2 and samples.shape[-1] == 4:
        gray = inverted(samples[..., :3])
        return np.concatenate([gray, samples[..., 3:].astype(gray.dtype)], axis=-1)
    if samples.dtype.kind != "i":
        return samples.max() - samples
    unsigned = np.dtype(f"u{samples.dtype.itemsize}")  # the difference may not fit the signed type
    return samples.max().astype(unsigned) - samples.astype(unsigned)


# -- pictures that a program opened with Pillow


def check_opened(image: Image.Image, name: str) -> None:
    """Refuse a TIFF that Pillow has open and that holds more pictures than it tells."""
    tags = getattr(image, "tag_v2", {})
    description = tags.get(DESCRIPTION, "")
    samples = math.prod(image.size) * len(image.getbands())
    if isinstance(description, str) and described_axes(description.encode(), samples):
        raise several_frames(name)
    if tags.get(DEPTH, 1) != 1:
        raise several_frames(name)


def load_opened(image: Image.Image) -> np.ndarray:
    """The samples of a picture that a program opened with Pillow, upright; of a TIFF in the types it says."""
    tags = getattr(image, "tag_v2", {})
    kinds, depths = set(tags.get(FORMAT, (_UNSIGNED,))), set(tags.get(BITS, (1,)))
    photometric = tags.get(PHOTOMETRIC, 1)
    dtype = None
    if len(kinds) == len(depths) == 1 and image.mode in ("L", "I", "F"):
        key = (*kinds, *depths)
        if key in _NATIVE:
            dtype = _NATIVE[key][1]
            tile = getattr(image, "tile", None)
            if tile and tile[0].codec_name == "libtiff":
                dtype = _native(image, *key)
    image.load()
    samples = pixels(ImageOps.exif_transpose(image))
    if dtype is not None and samples.dtype.itemsize == np.dtype(dtype).itemsize:
        samples = samples.view(dtype)
    return inverted(samples) if image.mode[0] in "IF" and photometric == WHITE_IS_ZERO else samples


# -- what a directory says of the file


def _planes(directory: Directory, file_bytes: int) -> int:
    """How many pictures the one directory stands for."""
    if directory.number(DEPTH, 1) != 1:
        return directory.number(DEPTH, 1)
    if METAMORPH in directory.counts:
        return directory.counts[METAMORPH]
    planes = math.prod(described_axes(directory.text, _sample_count(directory)).values())
    # One slice that was taken out of a stack may have kept the stack's description.
    after = file_bytes - min(directory.numbers(STRIP_OFFSETS, (0,)), default=0) - _raw_bytes(directory)
    return planes if after > _NO_PICTURE_BYTES and directory.number(COMPRESSION, 1) == 1 else 1


def stack_axes(directory: Directory) -> dict[str, int]:
    """As `described_axes`, of a file of several pages, by its first one; also what an OME-TIFF says."""
    if b"<OME" not in directory.text[:4096]:
        return described_axes(directory.text, _sample_count(directory))
    axes: dict[str, int] = {"images": len(re.findall(rb"<(?:\w+:)?Pixels\b", directory.text))}
    for letter, name in _AXES.items():
        found = re.findall(rb'\bSize%s="(\d{1,9})"' % letter.encode(), directory.text)
        axes[name] = max(map(int, found), default=1)
    axes["channels"] //= max(1, directory.number(SAMPLES, 1))  # of color, each counts
    return {name: length for name, length in axes.items() if length > 1}


def described_axes(description: bytes, samples: int) -> dict[str, int]:
    """The axes along which ImageJ or tifffile say that a file's pictures lie.

    Args:
        description: what they write into the first page.
        samples: of one picture.

    Returns:
        The length of each that is longer than 1, as `slices`, `channels`, `times` or under another name; empty where
        they say nothing.
    """
    axes: dict[str, int] = {}
    if description.startswith(b"ImageJ="):
        found = re.findall(rb"^(\w+)=(\d{1,9})\s*$", description, re.MULTILINE)
        said = {word: int(number) for word, number in found}
        if (images := said.get(b"images", 1)) > 1:
            axes = {"channels": said.get(b"channels", 1), "times": said.get(b"frames", 1)}
            axes["slices"] = images // max(1, math.prod(axes.values()))
    elif description.startswith(b'{"shape":'):
        try:
            metadata = json.loads(description.rstrip(b"\0"))
            shape, names = metadata["shape"], metadata.get("axes", "")
            leading = 0
            while math.prod(shape[leading:]) > samples:
                leading += 1
            names = [_AXES.get(name, name) for name in names] if len(names) == len(shape) else map(str, range(leading))
            axes = dict(zip(names, shape[:leading], strict=False))
        except (AttributeError, KeyError, TypeError, ValueError):
            return {}
    return {name: length for name, length in axes.items() if length > 1}


def _sample_count(directory: Directory) -> int:
    return directory.number(WIDTH, 0) * directory.number(HEIGHT, 0) * max(1, directory.number(SAMPLES, 1))


def _raw_bytes(directory: Directory) -> int:
    """What the samples take, uncompressed."""
    channels = directory.number(SAMPLES, 1)
    bits = directory.numbers(BITS, (1,))
    row = directory.number(WIDTH, 0) * (sum(bits[:channels]) if len(bits) >= channels else bits[0] * channels)
    return (row + 7) // 8 * directory.number(HEIGHT, 0)


def _check_extent(directory: Directory, file_bytes: int) -> None:
    """Raise ValueError if samples lie beyond the end of the file, or are fewer than the picture has."""
    found = 0
    for offsets, lengths in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        for offset, length in zip(directory.numbers(offsets), directory.numbers(lengths), strict=False):
            if offset + length > file_bytes:
                raise ValueError("a strip lies beyond the end of the file")
            found += length
    known = STRIP_BYTES in directory.values or TILE_BYTES in directory.values
    if directory.number(COMPRESSION, 1) == 1:
        start = min(directory.numbers(STRIP_OFFSETS, (0,)), default=0)
        if (known and found < _raw_bytes(directory)) or start + _raw_bytes(directory) > file_bytes:
            raise ValueError("fewer samples than the picture has")


def _check_deflate(directory: Directory, content: bytes) -> None:
    """Raise zlib.error if a compressed strip isn't what was written: libtiff leaves its checksum unread."""
    most = _raw_bytes(directory) + 2**20  # what goes on beyond that is not looked at
    for offsets, lengths in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        for offset, length in zip(directory.numbers(offsets), directory.numbers(lengths), strict=False):
            stream, packed = zlib.decompressobj(), content[offset : offset + length]
            while packed and not stream.eof and most > 0:
                most -= len(stream.decompress(packed, 2**20))
                packed = stream.unconsumed_tail


def _compression_name(number: int) -> str:
    try:
        return tifffile.COMPRESSION(number).name
    except ValueError:
        return f"unknown ({number})"


def _photometric_name(number: int) -> str:
    try:
        return tifffile.PHOTOMETRIC(number).name
    except ValueError:
        return f"unknown ({number})"


def _text(numbers: set[int]) -> str:
    return "/".join(map(str, sorted(numbers)))


@functools.cache
def silence_libtiff() -> None:
    """Keep libtiff from writing to standard error what is wrong with a file; its callers learn that by other ways.

    Pillow switches libtiff's warnings off and leaves its errors on. Where the library can't be found, on systems
    without /proc and in wheels that have it built in, they stay on.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/libtiff" in line}
        for path in paths:
            library = CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetErrorHandlerExt(None)
    except (OSError, AttributeError, IndexError):
        return
