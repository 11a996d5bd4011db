"""A stack of slices, upright and in 8 bits, and the way back from its slices to the scan's own grid.

A scan's array lies in memory as its scanner or its converter chose. What is shown, and what the models get, is the
radiologist's view: in axial and coronal slices the patient's left is on the right, in sagittal ones the nose is on the
left; up is the front of the head in axial slices and the top of it in the others. Slices are only turned and mirrored
by whole axes, never interpolated, so that a mask goes back voxel by voxel. The one exception are pixels that aren't
square: their slices are stretched, or a head would look as flat as its pixels.

Gray levels. One window holds for the whole stack, or the slices with little in them would be stretched to noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from bthub.errors import BthubError

MAX_SLICES = 1024
MAX_VOXELS = 128 * 2**20
MAX_SIDE = 4096
MIN_SIDE = 16
MAX_ASPECT = 32
PLANES = ("sagittal", "coronal", "axial")
"""By the axis of the patient that they cut across: right to left, back to front, feet to head."""

# Directions in which slices, rows and columns run, as (axis of the patient, sign) with right, front and top positive.
_VIEWS = {
    "sagittal": ((0, 1), (2, -1), (1, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "axial": ((2, 1), (1, -1), (0, -1)),
}
_FLAT_VOXEL = 1.5  # voxels longer than this times their width were scanned as slices across that axis
_LABELS = 0.7  # share of neighbors with the same value from which an array holds labels; scans have under 0.4
_SQUARE = 1.05  # pixels closer to square than this are shown as they are


@dataclass(frozen=True, eq=False)
class Grid:
    """The array that a stack was cut from.

    Attributes:
        shape: of the scan's array, (i, j, k).
        affine: (4, 4), from (i, j, k, 1) to millimeters as NIfTI has them: x grows to the patient's right, y to the
            front, z to the top.
        codes: NIfTI's `sform_code` and `qform_code`; (0, 0) where the file doesn't say how the head lies.
        axes: the axis of the array that became slices, rows and columns.
        flips: which of those three run against the array.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray = field(repr=False)
    codes: tuple[int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The scan's array as slices (n, h, w): a view of it."""
        return np.flip(array.transpose(self.axes), self._flipped)

    def join(self, slices: np.ndarray) -> np.ndarray:
        """Slices (n, h, w) as an array of the scan's own shape and order: undoes `cut`."""
        return np.ascontiguousarray(np.flip(slices, self._flipped).transpose(np.argsort(self.axes)))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of slices.

    Attributes:
        slices: uint8 (n, h, w), or (n, h, w, 3) where the file holds color; upright, in the order of the stack.
        kind: `DICOM`, `NIfTI`, `TIFF` or `pictures`.
        plane: `axial`, `coronal` or `sagittal`, the nearest for an oblique scan; None if the file doesn't say.
        pixel_mm: height and width of a pixel of `slices`; None if unknown.
        slice_mm: from one slice to the next; None if unknown or not the same throughout.
        grid: where the slices were cut from; None where no file of the scan's own grid can be written.
        notes: what the person should know, a sentence each.
    """

    slices: np.ndarray = field(repr=False)
    kind: str
    plane: str | None = None
    pixel_mm: tuple[float, float] | None = None
    slice_mm: float | None = None
    grid: Grid | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slices)

    def picture(self, index: int) -> np.ndarray:
        """Slice `index`, from 0, as uint8 RGB (h, w, 3); only to be read."""
        pixels = self.slices[index]
        return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))

    def to_grid(self, masks: np.ndarray) -> np.ndarray:
        """Masks of the slices as one array in the scan's own grid.

        Args:
            masks: bool (n, h, w), one a slice.

        Returns:
            uint8, 0 and 1, of `grid.shape`. Where slices were stretched, the nearest pixel is taken.

        Raises:
            ValueError: the masks don't fit the slices.
            BthubError: the file has no grid.
        """
        if self.grid is None:
            raise BthubError(
                f"masks of {self.kind} can't be written as NIfTI: "
                "the file gives no position or orientation for its slices"
            )
        if masks.shape != self.slices.shape[:3]:
            raise ValueError(f"expected masks of shape {self.slices.shape[:3]}, received {masks.shape}")
        _, rows, columns = (self.grid.shape[axis] for axis in self.grid.axes)
        masks = masks[:, _nearest(masks.shape[1], rows)][:, :, _nearest(masks.shape[2], columns)]
        return self.grid.join(masks.astype(np.uint8))


def _nearest(have: int, want: int) -> np.ndarray:
    """For each of `want` pixels of a side, the one of `have` that covers its center."""
    return ((np.arange(want) + 0.5) * have / want).astype(int)


def cut_volume(
    array: np.ndarray,
    affine: np.ndarray,
    codes: tuple[int, int],
    *,
    name: str,
    kind: str,
    plane: str | None = None,
    stack_axis: int | None = None,
    spacing_known: bool = True,
    notes: Sequence[str] = (),
) -> Volume:
    """Cut a scan into upright slices.

    Args:
        array: uint8 (i, j, k), already windowed.
        affine, codes: as `Grid` has them.
        name: what messages call the file.
        kind: of the file.
        plane: one of `PLANES`; by default the one that was scanned, and axial where voxels are cubes.
        stack_axis: the axis that was scanned slice by slice, where the file says so.
        spacing_known: whether the affine's lengths are millimeters.
        notes: what the person should know.

    Raises:
        BthubError: no such plane, or its slices have no use as pictures.
    """
    if plane is not None and plane not in PLANES:
        raise BthubError(f"there is no plane {plane!r}, expected {', '.join(PLANES)}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    world, signs = _directions(affine, name)
    stack = _stack_axis(array.shape, lengths, world, stack_axis) if plane is None else world.index(PLANES.index(plane))
    view = _VIEWS[PLANES[world[stack]]]
    axes = tuple(world.index(axis) for axis, _ in view)
    flips = tuple(signs[world.index(axis)] != sign for axis, sign in view)
    grid = Grid(array.shape, affine, codes, axes, flips)  # type: ignore[arg-type]
    slices = grid.cut(array)
    height, width = (round(float(lengths[axis]), 6) for axis in axes[1:])
    # Across the slices, also where they lean.
    depth = round(float(abs(np.linalg.det(affine[:3, :3])) / np.prod(lengths[list(axes[1:])])), 6)
    check_stack(len(slices), slices.shape[1], slices.shape[2], name)
    if max(height, width) > _SQUARE * min(height, width):
        side = min(height, width)
        slices = _stretched(name, slices, round(slices.shape[1] * height / side), round(slices.shape[2] * width / side))
        height = width = side
    return Volume(
        np.ascontiguousarray(slices),
        kind,
        plane=PLANES[world[stack]] if any(codes) else None,
        pixel_mm=(height, width) if spacing_known else None,
        slice_mm=depth if spacing_known else None,
        grid=grid,
        notes=tuple(notes),
    )


def _directions(affine: np.ndarray, name: str) -> tuple[list[int], list[int]]:
    """For each axis of the array, the patient's axis that it runs along and whether with it (1) or against it (-1)."""
    from nibabel.orientations import io_orientation

    directions = io_orientation(affine)
    if not np.isfinite(directions).all():
        raise BthubError(f"{name}: the scan's orientation is damaged, two of its axes run the same way")
    return [int(axis) for axis in directions[:, 0]], [int(sign) for sign in directions[:, 1]]


def _stack_axis(shape: Sequence[int], lengths: np.ndarray, world: list[int], stack_axis: int | None) -> int:
    if stack_axis is not None:
        return stack_axis
    if 1 in shape:
        return list(shape).index(1)
    longest = int(np.argmax(lengths))
    others = np.delete(lengths, longest)
    return longest if lengths[longest] >= _FLAT_VOXEL * others.max() else world.index(PLANES.index("axial"))


def _stretched(name: str, slices: np.ndarray, height: int, width: int) -> np.ndarray:
    if max(height, width) > MAX_SIDE or len(slices) * height * width > MAX_VOXELS:
        raise BthubError(f"{name}: the pixels of its slices are too far from square, choose another plane")
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(s)).resize((width, height), 2)) for s in slices])


def check_stack(slices: int, height: int, width: int, name: str) -> None:
    """Refuse a stack that is too large or no use as pictures, before anything of it is decoded."""
    check_voxels((slices, height, width), name)
    if slices > MAX_SLICES:
        raise BthubError(f"{name}: {slices:,} slices are too many, at most {MAX_SLICES:,} are read")
    if min(height, width) < MIN_SIDE:
        raise BthubError(
            f"{name}: its slices of {width} x {height} pixels are too small, each side needs at least {MIN_SIDE}"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise BthubError(
            f"{name}: its slices of {width} x {height} pixels are too elongated, at most {MAX_ASPECT}:1 is read"
        )


def check_voxels(shape: Sequence[int], name: str) -> None:
    """Refuse an array (i, j, k) that is too large or holds nothing, before anything of it is decoded."""
    size = " x ".join(map(str, shape))
    if min(shape) < 1:
        raise BthubError(f"{name}: the scan is empty, {size} voxels")
    if max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        raise BthubError(
            f"{name}: the scan is too large, {size} voxels; at most {MAX_VOXELS / 1e6:.0f} million and"
            f" {MAX_SIDE:,} a side are read"
        )


# -- gray levels


def percentile_window(array: np.ndarray) -> tuple[float, float]:
    """The 0.1th and the 99.9th percentile of an array, as pictures of more than 8 bits are windowed."""
    sample = array.reshape(-1)[:: array.size // 2**22 + 1]  # a few million give the same percentiles
    low, high = (float(value) for value in np.percentile(sample, (0.1, 99.9)))
    return (low, high) if high > low else (float(array.min()), float(array.max()))


def to_levels(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Samples -> uint8 of the same shape: `low` and below is 0, `high` and above 255, linear between."""
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return to_levels(array.T, low, high).T
    levels = np.zeros(array.shape, np.uint8)
    if high > low:
        for index in range(len(array)):  # slice by slice: as floats, the whole would take gigabytes
            scaled = np.clip(array[index].astype(np.promote_types(array.dtype, np.float32)), low, high)
            levels[index] = np.rint((scaled - low) * (255 / (high - low)))
    return levels


def is_8_bit(array: np.ndarray) -> bool:
    """Whether the samples are 8-bit gray levels already, which no window should change."""
    if array.dtype == np.uint8:
        return True
    low, high = array.min(), array.max()
    if low < 0 or not 128 <= high <= 255:
        return False
    return array.dtype.kind in "ui" or bool(np.array_equal(array, np.rint(array)))


def is_mask(array: np.ndarray) -> bool:
    """Whether an array holds labels and not a scan: two values, or whole numbers that hardly ever change.

    In a scan, noise makes neighbors differ; labels are the same over whole areas.
    """
    axis = int(np.argmax(array.shape))
    step = math.isqrt(array.size // 2**22) + 1  # a few million voxels are enough to tell
    sample = array[tuple(slice(None, None, 1 if a == axis else step) for a in range(array.ndim))]
    low, high = float(array.min()), float(array.max())
    if ((array == low) | (array == high)).all():
        return True
    if array.dtype.kind == "f" and not np.array_equal(sample, np.rint(sample)):
        return False
    sample = np.moveaxis(sample, axis, 0)
    first, second = sample[:-1], sample[1:]
    tissue = (first != 0) & (second != 0)
    return bool(tissue.any() and (first == second)[tissue].mean() > _LABELS)


def is_blank(pixels: np.ndarray) -> bool:
    """Whether fewer than one pixel of a slice in a thousand differs from the median by more than one level."""
    median = np.median(pixels, axis=(0, 1)).astype(np.int16)
    differs = np.abs(pixels.astype(np.int16) - median) > 1
    return bool(np.mean(differs if differs.ndim == 2 else differs.any(axis=2)) < 1e-3)
