"""NIfTI: any orientation upright, every refusal, and masks that come back voxel by voxel."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scans import PATIENT, PATIENT_ID, nifti, slices

from bthub.errors import BthubError
from bthub.imaging.nifti import is_nifti, mask_nifti, read_nifti
from bthub.imaging.volume import PLANES

ALL_48 = [
    "".join(letters) for order in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*order)
]


@pytest.fixture(scope="module")
def pixels(kaggle) -> np.ndarray:
    """Five real slices, uint8 (5, 256, 256)."""
    return slices(kaggle)


@pytest.fixture(scope="module")
def upright(pixels) -> nibabel.Nifti1Image:
    """The slices as a scan of (R, A, S) voxels of 0.9 x 0.9 x 5 mm."""
    array = np.ascontiguousarray(pixels.transpose(2, 1, 0)[::-1, ::-1])
    return nibabel.Nifti1Image(array, np.array([[0.9, 0, 0, -115], [0, 0.9, 0, -120], [0, 0, 5, -10], [0, 0, 0, 1.0]]))


def turned(image: nibabel.Nifti1Image, codes: str) -> nibabel.Nifti1Image:
    """The same scan with its axes in another order and direction."""
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes)))
    return image.as_reoriented(change)


@pytest.mark.parametrize("codes", ALL_48)
def test_any_orientation_is_shown_upright_and_goes_back(upright, pixels, codes):
    image = turned(upright, codes)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    volume = read_nifti(gzip.compress(image.to_bytes(), 1), "scan.nii.gz")
    assert np.array_equal(volume.slices, pixels)
    assert volume.plane == "axial" and volume.pixel_mm == pytest.approx((0.9, 0.9)) and volume.slice_mm == 5

    masks = pixels > 90
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, masks)))
    assert back.shape == image.shape and back.get_data_dtype() == np.uint8
    assert np.allclose(back.affine, image.affine, atol=1e-4)
    expected = turned(nibabel.Nifti1Image(masks.transpose(2, 1, 0)[::-1, ::-1].astype(np.uint8), upright.affine), codes)
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize("codes", ["LPS", "SRA", "AIL"])
def test_oblique_scans_go_back_too(upright, pixels, codes):
    angle = np.radians(21)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = turned(upright, codes)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)
    volume = read_nifti(image.to_bytes(), "scan.nii")
    assert np.array_equal(volume.slices, pixels)
    masks = pixels > 100
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, masks)))
    assert np.allclose(back.affine, image.affine, atol=1e-4)
    assert np.array_equal(np.asarray(back.dataobj) == 1, np.asarray(image.dataobj) > 100)


def head(shape: tuple[int, int, int] = (40, 48, 32)) -> tuple[np.ndarray, np.ndarray]:
    """Noise of cubic voxels (R, A, S) with a bright right, front and top."""
    array = np.random.default_rng(0).integers(1, 60, shape).astype(np.int16)
    array[-10:] += 100
    array[:, -10:] += 50
    array[:, :, -10:] += 25
    return array, np.diag((1.0, 1.0, 1.0, 1.0)) * np.array((2, 2, 2, 1))


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_can_be_chosen_and_is_shown_as_radiologists_do(plane):
    array, affine = head()
    volume = read_nifti(nibabel.Nifti1Image(array, affine).to_bytes(), "scan.nii", plane)
    levels = volume.slices.astype(float)
    n, height, width = levels.shape
    assert volume.plane == plane
    # The patient's right is on the left, the front and the top are up; in sagittal slices the front is on the left.
    up, left, end = {
        "axial": (50, 100, 25),
        "coronal": (25, 100, -50),  # from front to back
        "sagittal": (25, 50, 100),  # from left to right
    }[plane]
    assert levels[:, :10].mean() > levels[:, 12:].mean()
    assert levels[:, :, :10].mean() > levels[:, :, 12:].mean()
    first, last = levels[:9].mean(), levels[-9:].mean()
    assert (last > first) == (end > 0)
    assert abs(up) and abs(left)
    masks = levels > 128
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, masks)))
    assert np.asarray(back.dataobj).sum() == masks.sum() and back.shape == array.shape


def test_cubes_are_cut_axially_and_flat_voxels_as_they_were_scanned():
    array, affine = head()
    assert read_nifti(nibabel.Nifti1Image(array, affine).to_bytes(), "a").plane == "axial"
    flat = np.diag((6.0, 1.0, 1.0, 1.0))
    assert read_nifti(nibabel.Nifti1Image(array, flat).to_bytes(), "a").plane == "sagittal"
    with pytest.raises(BthubError, match="there is no plane 'upside'"):
        read_nifti(nibabel.Nifti1Image(array, affine).to_bytes(), "a", "upside")


def test_flat_pixels_are_shown_square_and_masks_go_back_to_the_scan():
    array, _ = head()
    image = nibabel.Nifti1Image(array, np.diag((1.0, 1.0, 3.0, 1.0)))
    volume = read_nifti(image.to_bytes(), "scan.nii", "coronal")
    assert volume.slices.shape == (48, 96, 40)  # 32 rows of 3 mm
    assert volume.pixel_mm == (1, 1) and volume.slice_mm == 1
    masks = np.zeros(volume.slices.shape, bool)
    masks[:, 30:60] = True  # rows 10 to 19 from the top
    back = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, masks))).dataobj)
    assert back.shape == array.shape
    assert back[:, :, 12:22].all() and back.sum() == 40 * 48 * 10


def test_levels_are_windowed_over_the_volume_and_8_bits_left_alone(pixels):
    deep = pixels.transpose(2, 1, 0).astype(np.float64) * 3.7 - 20
    volume = read_nifti(nifti(deep), "scan.nii.gz")
    low, high = np.percentile(deep, (0.1, 99.9))
    expected = volume.grid.cut(np.clip((deep - low) / (high - low), 0, 1) * 255)
    assert np.abs(volume.slices - expected).max() <= 1
    eight = pixels.transpose(2, 1, 0).astype(np.int32)
    assert set(np.unique(read_nifti(nifti(eight), "scan.nii.gz").slices)) == set(np.unique(pixels))


def test_scaling_and_holes_are_read(pixels):
    array = pixels.transpose(2, 1, 0).astype(np.float32) * 5
    array[:20] = np.nan
    volume = read_nifti(nifti(array), "scan.nii.gz")
    assert volume.slices[:, :, -20:].max() == 0 and volume.slices.std() > 20
    scaled = nibabel.Nifti1Image(pixels.transpose(2, 1, 0).astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(0.5, 3)
    raw = bytearray(scaled.to_bytes())
    assert np.array_equal(
        read_nifti(bytes(raw), "scan.nii").slices.std() > 20, True
    )  # to_bytes divides by what is set; the levels are the same


def test_nifti_2_big_endian_and_single_slices(pixels):
    array = np.ascontiguousarray(pixels.transpose(2, 1, 0))
    affine = np.diag((-0.9, -0.9, 5.0, 1.0))
    two = nibabel.Nifti2Image(array, affine).to_bytes()
    assert is_nifti(two[:1024]) and np.array_equal(read_nifti(two, "a.nii").slices, pixels)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    big = nibabel.Nifti1Image(array.astype(">i2"), affine, header)
    assert big.header.endianness == ">"
    assert np.array_equal(read_nifti(big.to_bytes(), "a.nii").slices, pixels)
    one = nibabel.Nifti1Image(array[:, :, :1], affine).to_bytes()
    assert np.array_equal(read_nifti(one, "a.nii").slices, pixels[:1])
    flat = nibabel.Nifti1Image(array[:, :, 0], affine).to_bytes()
    assert np.array_equal(read_nifti(flat, "a.nii").slices, pixels[:1])


def test_without_an_orientation_it_is_said(pixels):
    image = nibabel.Nifti1Image(pixels.transpose(2, 1, 0), None)
    image.header.set_zooms((0.5, 0.5, 3.0))
    volume = read_nifti(image.to_bytes(), "a.nii")
    assert "the orientation of the head" in volume.notes[0] and volume.plane is None
    assert volume.pixel_mm == (0.5, 0.5) and volume.slice_mm == 3
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, volume.slices > 90)))
    again = nibabel.Nifti1Image.from_bytes(image.to_bytes())
    assert np.allclose(back.affine, again.affine)
    assert np.array_equal(np.asarray(back.dataobj) == 1, np.asarray(image.dataobj) > 90)
    image.header.set_zooms((1, 1, 1))
    assert read_nifti(image.to_bytes(), "a.nii").pixel_mm is None


def test_meters_are_not_taken_for_millimeters(pixels):
    image = nibabel.Nifti1Image(pixels.transpose(2, 1, 0), np.diag((0.0009, 0.0009, 0.005, 1)))
    image.header.set_xyzt_units("meter")
    assert read_nifti(image.to_bytes(), "a.nii").pixel_mm == pytest.approx((0.9, 0.9))


# -- refusals


def refusal(content: bytes) -> str:
    with pytest.raises(BthubError) as caught:
        read_nifti(content, "scan.nii.gz")
    text = str(caught.value)
    assert text.startswith("scan.nii.gz: ") and "\n" not in text
    assert caught.value.__cause__ is None
    return text


def test_four_dimensions(pixels):
    array = np.stack([pixels.transpose(2, 1, 0)] * 3, axis=3)
    assert "has 4 dimensions (256 x 256 x 5 x 3), expected one scan of three" in refusal(nifti(array))
    assert len(read_nifti(nifti(array[..., :1]), "a")) == 5


def test_a_mask_instead_of_a_scan(pixels):
    array = pixels.transpose(2, 1, 0)
    assert "is a mask and not a scan" in refusal(nifti((array > 90).astype(np.uint8)))
    labels = np.zeros(array.shape, np.int16)
    for index in range(40):  # as a parcellation has them
        labels[index * 6 : index * 6 + 6] = index * 25
    assert "is a mask and not a scan" in refusal(nifti(labels))


def test_truncated(pixels):
    content = nifti(pixels.transpose(2, 1, 0))
    assert "the file is truncated" in refusal(content[: len(content) // 2])
    assert "the file is truncated" in refusal(gzip.decompress(content)[:5000])
    assert "isn't a NIfTI file" in refusal(gzip.decompress(content)[:300])


def test_damaged(pixels):
    content = bytearray(nifti(pixels.transpose(2, 1, 0)))
    content[len(content) // 2] ^= 0xFF
    content[len(content) // 2 + 1] ^= 0xFF
    text = refusal(bytes(content))
    assert "damaged" in text or "truncated" in text


@pytest.mark.parametrize(
    "content",
    [b"no scan at all" * 100, gzip.compress(b"no scan" * 1000, mtime=0), b"\x1f\x8b\x08junk"],
    ids=["plain", "gzip", "junk"],
)
def test_something_else(content):
    text = refusal(content)
    assert "isn't a NIfTI file" in text or "cannot be decompressed" in text


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before():
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((4000, 4000, 4000))
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    content = gzip.compress(header.binaryblock + bytes(4) + bytes(2**20))
    assert "too large, 4000 x 4000 x 4000 voxels" in refusal(content)


def test_no_more_is_unpacked_than_the_header_says(pixels):
    array = pixels.transpose(2, 1, 0)
    plain = nibabel.Nifti1Image(array, np.diag((-0.9, -0.9, 5.0, 1.0))).to_bytes()
    volume = read_nifti(gzip.compress(plain + bytes(300 * 2**20), 1), "a.nii.gz")
    assert np.array_equal(volume.slices, pixels)


def test_colors_complex_numbers_pairs_and_blank_scans(pixels):
    array = pixels.transpose(2, 1, 0)
    rgb = np.stack([array] * 3, axis=3).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    assert "holds colors" in refusal(nibabel.Nifti1Image(rgb, np.eye(4)).to_bytes())
    assert "holds complex numbers" in refusal(nifti(array.astype(np.complex64)))
    pair = bytearray(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())
    pair[344:348] = b"ni1\0"
    assert "half of a pair of files" in refusal(bytes(pair))
    refusal(nifti(np.zeros((32, 32, 4), np.int16)))
    refusal(nifti(np.full((32, 32, 4), np.nan, np.float32)))
    assert "too small" in refusal(nifti(np.random.default_rng(0).integers(0, 999, (8, 300, 4)).astype(np.int16)))


def test_texts_of_the_header_stay_behind(pixels):
    content = nifti(pixels.transpose(2, 1, 0), db_name=b"MUSTERMANN", aux_file=PATIENT_ID.encode())
    volume = read_nifti(content, "a.nii.gz")
    back = gzip.decompress(mask_nifti(volume, volume.slices > 90))
    assert PATIENT.encode() in gzip.decompress(content)
    assert b"MUSTERMANN" not in back and PATIENT_ID.encode() not in back
    assert "MUSTERMANN" not in repr(volume)


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, np.nan), (2.0, np.inf), (1e38, 0.0)])
def test_a_scaling_that_leaves_no_numbers(upright, slope, intercept):
    content = bytearray(upright.to_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    with pytest.raises(BthubError, match="header is damaged, it scales voxels by"):
        read_nifti(bytes(content), "scan.nii")


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_scaling_leaves_voxels_as_they_are(upright, pixels, slope):
    content = bytearray(upright.to_bytes())
    content[112:120] = np.array([slope, np.nan], "<f4").tobytes()
    assert np.array_equal(read_nifti(bytes(content), "scan.nii").slices, pixels)
