"""NIfTI files: a scan in, masks out.

Of the header nothing is kept but sizes, spacing and orientation: its free texts may name a patient.
"""

import gzip
import io
import zlib
from typing import Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging.volume import Volume, check_voxels, cut_volume, is_8_bit, is_mask, percentile_window, to_levels

SUFFIXES = (".nii", ".nii.gz")
GZIP = b"\x1f\x8b"
_MAGICS = {344: (b"n+1\0", b"ni1\0"), 4: (b"n+2\0", b"ni2\0")}
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_MAX_HEADER = 2**20  # with its extensions
_MAX_LENGTH_MM = 100  # of a voxel's side


def is_nifti(head: bytes) -> bool:
    """Whether a file's first kilobytes are those of a NIfTI file, compressed or not; of a pair's header too."""
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(31).decompress(head, 1024)
        except zlib.error:
            return False
    return any(head[start : start + 4] in magics for start, magics in _MAGICS.items())


def read_nifti(content: bytes, name: str, plane: str | None = None) -> Volume:
    """Read a scan.

    Args:
        content: the file's bytes, gzip or plain.
        name: what messages call it.
        plane: as for `bthub.imaging.volume.cut_volume`.

    Raises:
        BthubError: truncated, too large, of more than three dimensions, color, a mask, or no NIfTI file.
    """
    import nibabel

    start = _unpacked(content, _MAX_HEADER, name)
    if not is_nifti(start[:1024]):
        raise BthubError(f"{name}: this isn't a NIfTI file, although its name says so")
    if any(start[at : at + 4] == magics[1] for at, magics in _MAGICS.items()):
        raise BthubError(f"{name}: this is half of a pair of files (.hdr and .img), save the scan as one .nii.gz")
    kind = nibabel.Nifti1Image if start[344:348] == b"n+1\0" else nibabel.Nifti2Image
    try:
        header = kind.header_class.from_fileobj(io.BytesIO(start), check=False)
        shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
        offset = int(header.get_data_offset())
        affine, codes, known, notes = _geometry(header)
    except Exception:
        # What nibabel says may quote the header's texts; so here and below: from None.
        raise BthubError(f"{name}: the NIfTI header is damaged") from None
    shape = _three(shape, name)
    if dtype.fields is not None or dtype.kind not in "uif":
        what = "complex numbers" if dtype.kind == "c" else "colors"
        raise BthubError(f"{name}: this holds {what}, expected one gray scan; save its magnitude as numbers")
    check_voxels(shape, name)
    if not 0 <= offset <= _MAX_HEADER:
        raise BthubError(f"{name}: the NIfTI header is damaged")
    size = offset + int(np.prod(shape)) * dtype.itemsize
    unpacked = _unpacked(content, size, name)
    if len(unpacked) < size:
        raise BthubError(f"{name}: the file is truncated, {len(unpacked):,} of {size:,} bytes are there")
    raw = np.frombuffer(unpacked, dtype, int(np.prod(shape)), offset).reshape(shape, order="F")
    array = _scaled(raw, header, name)
    if is_mask(array):
        raise BthubError(f"{name}: this is a mask and not a scan, it holds the same few values over whole areas")
    low, high = (0.0, 255.0) if is_8_bit(array) else percentile_window(array)
    if not high > low:
        raise BthubError(f"{name}: the scan is blank, all its voxels have the same value")
    levels = to_levels(array, low, high)
    return cut_volume(levels, affine, codes, name=name, kind="NIfTI", plane=plane, spacing_known=known, notes=notes)


def _unpacked(content: bytes, limit: int, name: str) -> bytes:
    """The first `limit` bytes of the file, decompressed if it is; no more are ever made."""
    if not content.startswith(GZIP):
        return content[:limit]
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            parts, left = [], limit
            while left and (part := _part(file, left)):
                parts.append(part)
                left -= len(part)
    except (OSError, zlib.error):
        raise BthubError(f"{name}: the file is damaged and cannot be decompressed") from None
    return b"".join(parts)


def _part(file: gzip.GzipFile, most: int) -> bytes:
    try:
        return file.read1(min(most, 2**20))
    except EOFError:  # truncated: what came before is judged by its length
        return b""


def _three(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    if len(shape) > 3 and max(shape[3:]) > 1:
        raise BthubError(
            f"{name}: this has {len(shape)} dimensions ({' x '.join(map(str, shape))}), expected one scan of three;"
            " save one of its volumes as its own file"
        )
    i, j, k = (*shape, 1, 1, 1)[:3]
    return i, j, k


def _geometry(header: Any) -> tuple[np.ndarray, tuple[int, int], bool, list[str]]:
    """Affine in millimeters, (sform_code, qform_code), whether its lengths are known, and notes."""
    codes = (int(header["sform_code"]), int(header["qform_code"]))
    affine = np.asarray(header.get_best_affine(), float)
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9
    if not usable:
        codes = (0, 0)
        affine = np.asarray(header.get_base_affine(), float)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-9:
            affine = np.eye(4)
    units = header.get_xyzt_units()[0]
    affine[:3] *= _TO_MM[units]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    known = bool(lengths.max() <= _MAX_LENGTH_MM) and not (not any(codes) and np.allclose(lengths, 1))
    notes = []
    if not any(codes):
        notes.append("The file doesn't give the orientation of the head, so slices may be rotated or mirrored.")
    if not known:
        notes.append("The file doesn't say how large a voxel is, so sizes are in pixels.")
    return affine, codes, known, notes


def _scaled(raw: np.ndarray, header: Any, name: str) -> np.ndarray:
    """Samples as the header scales them; what isn't finite, often the background, is the lowest value."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    array = raw
    if slope != 0 and np.isfinite(slope) and (slope, intercept) != (1, 0):  # others mean: as they are
        with np.errstate(over="ignore", invalid="ignore"):
            array = raw * np.float32(slope) + np.float32(intercept)
        if np.isfinite(raw).any() and not np.isfinite(array[np.isfinite(raw)]).all():
            raise BthubError(f"{name}: the NIfTI header is damaged, it scales voxels by {slope} and {intercept}")
    if array.dtype.kind == "f":
        if array.dtype.itemsize > 4 or not array.dtype.isnative:
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        finite = np.isfinite(array)
        if not finite.any():
            raise BthubError(f"{name}: the scan holds no finite value")
        if not finite.all():
            array = np.where(finite, array, array[finite].min())
    return array


def mask_nifti(volume: Volume, masks: np.ndarray) -> bytes:
    """Masks of a volume's slices as a .nii.gz in the scan's own grid.

    Args:
        volume: the scan.
        masks: bool (n, h, w), one a slice.

    Returns:
        The file's bytes: uint8, 0 and 1, with the scan's shape, affine and orientation codes, and nothing else of it.

    Raises:
        BthubError: the volume has no grid.
    """
    import nibabel

    array = volume.to_grid(masks)
    assert volume.grid is not None  # to_grid saw to it
    affine, (sform, qform) = volume.grid.affine, volume.grid.codes
    image = nibabel.Nifti1Image(array, affine)
    if sform or qform:
        image.set_sform(affine, sform or qform)
        image.set_qform(affine, qform or sform, strip_shears=True)  # a grid that leans fits the sform alone
    else:
        image.set_sform(None)
        image.set_qform(affine, 0)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)
