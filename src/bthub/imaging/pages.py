"""Stacks of plain pictures: the pages of a TIFF, and pictures in the order of their names."""

import io
import re
import struct
from collections.abc import Sequence
from itertools import islice

import numpy as np
import tifffile

from bthub.errors import BthubError
from bthub.imaging import tiff
from bthub.imaging.image_io import MAX_FILE_BYTES, put_on_black, read_picture_bytes, turned
from bthub.imaging.volume import MAX_SLICES, Volume, check_stack, is_8_bit, is_mask, percentile_window, to_levels

_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_KIND, _X_RESOLUTION, _Y_RESOLUTION = 254, 282, 283
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
        for pages, _ in enumerate(tiff.positions(content), 1):
            if pages > 1:
                return True
    except (ValueError, struct.error):
        return pages > 0
    try:
        directory = tiff.read_directory(content)
    except (ValueError, struct.error):  # whatever is wrong with a lone page, it is no stack
        return False
    return bool(_imagej(directory) and tiff.stack_axes(directory))


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
    positions = list(islice(tiff.positions(content), 2 * MAX_SLICES + 1))
    if len(positions) > 2 * MAX_SLICES:
        raise BthubError(f"{name}: the file has too many pages, at most {MAX_SLICES:,} are read")
    first = tiff.read_directory(content)
    _check_axes(tiff.stack_axes(first), name)
    imagej, order = _imagej(first), "<" if content[:1] == b"I" else ">"
    down, across = (_ratio(first.values.get(tag, b""), order) for tag in (_Y_RESOLUTION, _X_RESOLUTION))
    width, height = first.number(tiff.WIDTH, 0), first.number(tiff.HEIGHT, 0)
    if len(positions) == 1:
        return _contiguous(content, first, int(imagej["images"]), name), imagej, (down, across)
    pages: list[np.ndarray] = []
    inverted: set[bool] = set()
    for position in positions:
        page = tiff.read_directory(content, position)
        if page.number(_KIND, 0) & 1:  # a smaller copy of another page
            continue
        if (page.number(tiff.WIDTH, 0), page.number(tiff.HEIGHT, 0)) != (width, height):
            raise BthubError(f"{name}: its pages differ in size, expected the slices of one stack")
        check_stack(len(pages) + 1, height, width, name)
        samples, white_is_zero = tiff.read_page(page, content, name)
        if samples.ndim == 3:
            if samples.dtype != np.uint8:
                bits = 8 * samples.dtype.itemsize
                raise BthubError(f"{name}: pages of {bits}-bit color cannot be read, save them as gray or with 8 bits")
            if samples.shape[2] == 4:
                samples, alpha = np.array(samples[..., :3]), samples[..., 3]
                put_on_black(samples, alpha)
        pages.append(turned(samples, page.orientation))
        inverted.add(white_is_zero)
    if len(inverted) > 1:
        raise BthubError(f"{name}: in some of its pages 0 is white and in others black, save all of them one way")
    # At one level for all: the slices of a stack are compared.
    if inverted == {True} and len({page.shape for page in pages}) == 1:
        pages = list(tiff.inverted(np.stack(pages)))
    return pages, imagej, (down, across)


def _check_axes(axes: dict[str, int], name: str) -> None:
    """Refuse pages that aren't the slices of one scan, one behind the other, but several scans in each other."""
    if set(axes) & {"channels", "times", "images"} or len(axes) > 1:
        said = " x ".join(f"{length:,} {axis}" if axis.isalpha() else f"{length:,}" for axis, length in axes.items())
        raise BthubError(
            f"{name}: its pages are {said}, expected the slices of one scan; save one channel and one time as its own"
            " file, with its pages as slices"
        )


def _ratio(value: tuple[int, ...] | bytes, order: str) -> float:
    """A rational number of a directory, 0 where it is none."""
    if not isinstance(value, bytes) or len(value) != 8:
        return 0.0
    above, below = struct.unpack(order + "II", value)
    return above / below if below else 0.0


def _imagej(directory: tiff.Directory) -> dict[str, str]:
    text = directory.text.rstrip(b"\0").decode("utf-8", errors="replace")
    if not text.startswith("ImageJ="):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _contiguous(content: bytes, directory: tiff.Directory, images: int, name: str) -> list[np.ndarray]:
    """ImageJ writes large stacks as one page with the others' samples behind it."""
    with tifffile.TiffFile(io.BytesIO(directory.pillow)) as file:
        page = file.pages.first
        check_stack(images, page.imagelength, page.imagewidth, name)
        if page.compression != 1 or page.samplesperpixel != 1 or page.dtype is None:
            raise BthubError(f"{name}: this ImageJ stack cannot be read, save it as gray without compression")
        shape = (images, page.imagelength, page.imagewidth)
        dtype = np.dtype(page.dtype).newbyteorder(file.byteorder)
        (start, *_), size = page.dataoffsets, int(np.prod(shape)) * dtype.itemsize
    if start + size > len(content):
        raise ValueError("samples lie beyond the end of the file")
    samples = np.frombuffer(content, dtype, int(np.prod(shape)), start).reshape(shape)
    return list(tiff.inverted(samples) if directory.number(tiff.PHOTOMETRIC, 1) == tiff.WHITE_IS_ZERO else samples)


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
