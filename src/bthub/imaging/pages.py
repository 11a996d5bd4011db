"""Stacks of plain pictures: the pages of a TIFF, and pictures in the order of their names."""

import io
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import tifffile
from PIL import ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from bthub.errors import BthubError
from bthub.imaging.image_io import MAX_FILE_BYTES, read_picture_bytes
from bthub.imaging.volume import MAX_SLICES, Volume, check_stack, is_8_bit, is_mask, percentile_window, to_levels

_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_BITS, _PHOTOMETRIC, _DESCRIPTION, _KIND = 258, 262, 270, 254
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_STRIPS, _TILES = (273, 279), (324, 325)
_WHITE_IS_ZERO = 0
_IMAGEJ_UNITS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "um": 0.001, "micron": 0.001, "\u00b5m": 0.001}


def is_tiff(head: bytes) -> bool:
    """Whether a file begins as TIFF does."""
    return _TIFF.match(head) is not None


def is_tiff_stack(content: bytes) -> bool:
    """Whether a file is a TIFF of several pages; also of one whose pages end too early or never."""
    if not is_tiff(content):
        return False
    pages = 0
    try:
        for pages, _ in enumerate(_directories(content), 1):
            if pages > 1:
                return True
    except (ValueError, struct.error):
        return pages > 0
    try:
        with TiffImageFile(io.BytesIO(content)) as image:
            return _imagej(image).get("images", "1") not in ("0", "1")
    except Exception:  # whatever is wrong with a lone page, it is no stack
        return False


def read_tiff(content: bytes, name: str) -> Volume:
    """Read a TIFF of several pages as a stack.

    Spacing is taken from ImageJ's description alone: the resolution of other TIFFs is that of a printer.

    Args:
        content: the file's bytes.
        name: what messages call it.

    Raises:
        BthubError: truncated, too large, pages of different sizes, a mask.
    """
    if len(content) > MAX_FILE_BYTES:
        raise BthubError(f"{name}: the file is too large for pages, at most {MAX_FILE_BYTES >> 20} MB are read")
    try:
        pages, imagej, resolution = _pages(content, name)
    except BthubError:
        raise
    except Exception:  # a broken file makes decoders raise nearly anything
        raise BthubError(f"{name}: the TIFF is truncated or damaged and cannot be decoded") from None
    volume = stack(pages, name, "TIFF")
    unit = _IMAGEJ_UNITS.get(imagej.get("unit", ""))
    if unit is None or not all(0 < pixels < 1e4 for pixels in resolution):
        return volume
    height, width = (unit / pixels for pixels in resolution)
    try:
        depth = abs(float(imagej["spacing"])) * unit
    except (KeyError, ValueError):
        depth = 0.0
    return Volume(volume.slices, "TIFF", pixel_mm=(height, width), slice_mm=depth or None)


def _pages(content: bytes, name: str) -> tuple[list[np.ndarray], dict[str, str], tuple[float, float]]:
    """The pages' samples, what ImageJ says of them, and pixels a unit down and across."""
    pages: list[np.ndarray] = []
    directories = list(islice(_directories(content), 2 * MAX_SLICES + 1))
    if len(directories) > 2 * MAX_SLICES:
        raise BthubError(f"{name}: the file has too many pages, at most {MAX_SLICES:,} are read")
    image: Any  # a TiffImageFile, which its `with` calls an ImageFile
    with TiffImageFile(io.BytesIO(content)) as image:
        imagej = _imagej(image)
        down, across = (float(image.tag_v2.get(tag, 0) or 0) for tag in (_Y_RESOLUTION, _X_RESOLUTION))
        width, height = image.size
        if not getattr(image, "is_animated", False):
            return _contiguous(content, int(imagej["images"]), name), imagej, (down, across)
        for index in range(len(directories)):
            image.seek(index)
            if int(image.tag_v2.get(_KIND, 0)) & 1:  # a smaller copy of another page
                continue
            if image.size != (width, height):
                raise BthubError(f"{name}: its pages differ in size, expected the slices of one stack")
            check_stack(len(pages) + 1, height, width, name)
            for offsets, lengths in (_STRIPS, _TILES):
                for offset, length in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(lengths, ()), strict=False):
                    if offset + length > len(content):
                        raise ValueError("a strip lies beyond the end of the file")
            pages.append(_samples(image, name))
    return pages, imagej, (down, across)


def _directories(content: bytes) -> Iterator[int]:
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
        (count,) = struct.unpack_from(order + count_type, content, position)
        end = position + struct.calcsize(count_type) + count * entry
        (following,) = struct.unpack_from(order + pointer, content, end)
        yield position
        position = following


def _imagej(image: Any) -> dict[str, str]:
    text = image.tag_v2.get(_DESCRIPTION)
    if not isinstance(text, str) or not text.startswith("ImageJ="):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _contiguous(content: bytes, images: int, name: str) -> list[np.ndarray]:
    """ImageJ writes large stacks as one page with the others' samples behind it."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        check_stack(images, page.imagelength, page.imagewidth, name)
        if page.compression != 1 or page.samplesperpixel != 1 or page.dtype is None:
            raise BthubError(f"{name}: this ImageJ stack cannot be read, save it as gray without compression")
        shape = (images, page.imagelength, page.imagewidth)
        dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        (start, *_), size = page.dataoffsets, int(np.prod(shape)) * dtype.itemsize
        if start + size > len(content):
            raise ValueError("samples lie beyond the end of the file")
        return list(np.frombuffer(content, dtype, int(np.prod(shape)), start).reshape(shape))


def _samples(image: Any, name: str) -> np.ndarray:
    bits = max(image.tag_v2.get(_BITS, (1,)))
    if image.mode in ("RGB", "RGBA", "CMYK") and bits > 8:
        raise BthubError(f"{name}: pages of {bits}-bit color cannot be read, save them as gray or with 8 bits")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":
        samples = np.asarray(upright)
        inverted = image.tag_v2.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO
        return samples.max() - samples if inverted else samples
    return np.array(upright if upright.mode == "L" else upright.convert("L" if upright.mode == "1" else "RGB"))


def read_pictures(contents: Sequence[bytes], name: str) -> Volume:
    """Pictures of one size, a slice each, as a stack in the order given.

    Raises:
        BthubError: one can't be read, or they differ in size.
    """
    if len(contents) > MAX_SLICES:
        raise BthubError(f"{name}: {len(contents):,} pictures are too many, at most {MAX_SLICES:,} are read")
    pictures: list[np.ndarray] = []
    for number, content in enumerate(contents, 1):
        picture = read_picture_bytes(content, f"{name}, picture {number} of {len(contents)}")
        if pictures and picture.shape != pictures[0].shape:
            raise BthubError(f"{name}: its pictures differ in size, expected the slices of one stack")
        check_stack(len(contents), picture.shape[0], picture.shape[1], name)
        pictures.append(picture)
    return stack(pictures, name, "pictures")


def stack(slices: list[np.ndarray], name: str, kind: str) -> Volume:
    """Slices of one shape, gray (h, w) of any depth or 8-bit RGB (h, w, 3), as a volume through one window."""
    if not slices:
        raise BthubError(f"{name}: this holds no slices")
    if len({one.shape for one in slices}) > 1:
        raise BthubError(f"{name}: its pages are partly gray and partly in color, expected the slices of one stack")
    array = np.stack(slices)
    if array.ndim == 4 and (array[..., :1] == array).all():
        array = np.ascontiguousarray(array[..., 0])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BthubError(f"{name}: the scan holds NaN or infinite values")
    if array.min() == array.max():
        raise BthubError(f"{name}: the scan is blank, all its pixels have the same value")
    if array.ndim == 3:
        if is_mask(array):
            raise BthubError(f"{name}: this is a mask and not a scan, it holds the same few values over whole areas")
        low, high = (0.0, 255.0) if is_8_bit(array) else percentile_window(array)
        array = to_levels(array, low, high)
    return Volume(array, kind)
