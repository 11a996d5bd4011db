"""A stack through the pipeline: the verdict, the order, areas, volume, cleaning, and masks that go back."""

import gzip
import io
import json
import zipfile
from collections.abc import Sequence

import nibabel
import numpy as np
import pytest
from light_stages import blob
from PIL import Image
from scans import OBLIQUE, PATIENT, PATIENT_ID, data, nifti, series, write_series, write_zip
from stages import make_pipeline

from bthub import BthubError, NotASliceError
from bthub.imaging.intake import open_study
from bthub.inference.study import EMPTY, REFUSED, analyze_study

TUMOR, HEALTHY = blob(120, 100, (30, 40, 60, 80))[..., 0], blob(120, 100, (0, 0, 0, 0))[..., 0] // 4
SMALL = blob(120, 100, (40, 50, 46, 56))[..., 0]  # 36 of 12,000 pixels


def stack(*pictures: np.ndarray) -> np.ndarray:
    """Slices with some noise, so that they aren't taken for a mask: uint8 (n, 120, 100)."""
    noise = np.random.default_rng(0).integers(0, 6, (len(pictures), 120, 100))
    return np.where(np.stack(pictures) > 0, np.stack(pictures) + noise, 0).astype(np.uint8)


PIXELS = stack(HEALTHY, TUMOR, TUMOR, HEALTHY, SMALL, HEALTHY)


class Recorded:
    """An input check that refuses what is mostly bright."""

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        return [(bool(np.asarray(image).mean() < 150), None) for image in images]


@pytest.fixture
def pipe():
    return make_pipeline(threshold=0.4)


@pytest.fixture
def dicom(tmp_path):
    """A series of oblique slices of 0.5 x 0.5 mm, 4 mm apart."""
    return write_series(tmp_path / "dicom", series(PIXELS, orientation=OBLIQUE, spacing=(0.5, 0.5), gap=4.0))


def test_areas_volume_and_the_largest_slice(pipe, dicom):
    found = analyze_study(pipe, dicom, clean=False)
    assert found.label == "tumor" and not found.uncertain and found.removed == []
    assert found.areas_px == [0, 1200, 1200, 0, 36, 0]
    assert found.tumor_slices == [1, 2, 4] and found.largest == 1
    assert found.areas_mm2 == pytest.approx([0, 300, 300, 0, 9, 0])
    assert found.volume_ml == pytest.approx(2436 * 0.25 * 4 / 1000)
    assert found.results[1].area_mm2 == pytest.approx(300)
    assert [result.label for result in found.results] == ["no_tumor", "tumor", "tumor", "no_tumor", "tumor", "no_tumor"]


def test_a_lone_area_is_removed_and_the_slice_measured_again(pipe, dicom):
    found = analyze_study(pipe, dicom)
    assert found.areas_px == [0, 1200, 1200, 0, 0, 0] and found.removed == [4]
    cleaned = found.results[4]
    assert cleaned.label == "tumor", "the detector's word stays"
    assert not cleaned.mask.any() and cleaned.bbox is None and cleaned.contour == []
    assert cleaned.area_mm2 == 0 and cleaned.head_fraction == 0
    assert found.volume_ml == pytest.approx(2.4)
    assert "Small areas that don't continue on a neighboring slice were removed: slice 5." in found.notes


def test_a_stack_is_analyzed_as_its_slices_are_alone(pipe, dicom):
    found = analyze_study(pipe, dicom, clean=False)
    for index, result in enumerate(found.results):
        alone = pipe(found.volume.picture(index), spacing_mm=(0.5, 0.5))
        assert result.tumor_probability == pytest.approx(alone.tumor_probability, abs=1e-6)
        assert (result.mask is None) == (alone.mask is None)
        if alone.mask is not None:
            assert np.array_equal(result.mask, alone.mask)


def test_a_study_of_lone_areas_alone_is_no_tumor_but_uncertain(pipe, tmp_path):
    folder = write_series(tmp_path / "s", series(stack(HEALTHY, HEALTHY, SMALL, HEALTHY)))
    found = analyze_study(pipe, folder)
    assert (found.label, found.uncertain, found.largest) == ("no_tumor", True, 2)
    window = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    clear = write_series(tmp_path / "c", series(stack(HEALTHY, HEALTHY, HEALTHY), **window))
    found = analyze_study(pipe, clear)
    assert (found.label, found.uncertain) == ("no_tumor", False) and found.volume_ml == 0


def test_a_single_slice_is_not_cleaned(pipe, tmp_path):
    (tmp_path / "a.dcm").write_bytes(data(series(stack(SMALL))[0]))
    found = analyze_study(pipe, tmp_path / "a.dcm")
    assert found.label == "tumor" and found.areas_px == [36] and found.volume_ml is None
    assert found.areas_mm2 == pytest.approx([36 * 0.81])


def test_masks_go_back_into_a_dicom_series(pipe, dicom):
    found = analyze_study(pipe, dicom)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(found.mask_nifti()))
    assert np.array_equal(np.asarray(image.dataobj), found.masks.transpose(2, 1, 0))
    assert np.abs(np.linalg.det(image.affine[:3, :3])) == pytest.approx(0.5 * 0.5 * 4, rel=1e-5)
    pngs = zipfile.ZipFile(io.BytesIO(found.mask_png_zip()))
    assert pngs.namelist()[1] == "slice_0002_mask.png" and len(pngs.namelist()) == 6
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pngs.read("slice_0002_mask.png")))), found.masks[1] * 255)


def test_masks_go_back_into_a_nifti_scan(pipe, tmp_path):
    array = PIXELS.transpose(1, 2, 0)[:, ::-1]  # rows first, and mirrored: axes P, R, S
    affine = np.array([[0, 0.5, 0, 10], [-0.5, 0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
    (tmp_path / "a.nii.gz").write_bytes(nifti(np.ascontiguousarray(array), affine))
    found = analyze_study(pipe, tmp_path / "a.nii.gz", clean=False)
    assert np.array_equal(found.volume.slices, PIXELS)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(found.mask_nifti()))
    assert np.allclose(image.affine, affine) and image.shape == array.shape
    assert np.array_equal(np.asarray(image.dataobj) == 1, array > 128)
    assert found.volume_ml == pytest.approx((array > 128).sum() / 1000)


def test_empty_and_refused_slices_are_left_out(tmp_path):
    bright = np.full((120, 100), 200, np.uint8)
    pixels = stack(np.zeros((120, 100), np.uint8), TUMOR, TUMOR, HEALTHY, bright)
    folder = write_series(tmp_path / "s", series(pixels))
    found = analyze_study(make_pipeline(input_check=Recorded()), folder)
    assert found.skipped == {0: EMPTY, 4: REFUSED}
    assert found.results[0] is None and found.results[4] is None
    assert "Not analyzed, because not recognized as a brain MRI: slice 5." in found.notes
    rows = found.to_dict()["results"]
    assert rows[0] == {"slice": 1, "skipped": "empty"} and rows[1]["label"] == "tumor"
    assert analyze_study(make_pipeline(input_check=Recorded()), folder, check_input=False).skipped == {0: EMPTY}


def test_a_stack_of_something_else_is_refused(tmp_path):
    bright = np.full((120, 100), 200, np.uint8)
    folder = write_series(tmp_path / "s", series(stack(bright, bright, bright, TUMOR)))
    with pytest.raises(NotASliceError, match="most of its slices don't look like a slice of a brain MRI"):
        analyze_study(make_pipeline(input_check=Recorded()), folder)


def test_pages_without_spacing(pipe, tmp_path):
    pages = [Image.fromarray(page) for page in PIXELS]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    found = analyze_study(pipe, tmp_path / "a.tif")
    assert found.areas_mm2 is None and found.volume_ml is None and found.areas_px[1] == 1200
    assert analyze_study(pipe, tmp_path / "a.tif", spacing_mm=(0.5, 2)).areas_mm2[1] == pytest.approx(1200)
    with pytest.raises(BthubError, match="can't be written as NIfTI"):
        found.mask_nifti()


def test_a_scan_and_a_plane_can_be_chosen(pipe, tmp_path):
    array = np.ascontiguousarray(PIXELS.transpose(2, 1, 0))
    members = {"a_t1.nii.gz": nifti(array), "b_flair.nii.gz": nifti(array[:, :, :3])}
    study = open_study(write_zip(tmp_path / "s.zip", members))
    assert len(analyze_study(pipe, study).results) == 3
    assert len(analyze_study(pipe, study, scan=0).results) == 6
    with pytest.raises(BthubError, match="there is no scan 3"):
        analyze_study(pipe, study, scan=2)
    with pytest.raises(BthubError, match="6 slices are too many for this server, which takes at most 5"):
        analyze_study(pipe, study, scan=0, max_slices=5)
    assert analyze_study(pipe, study, scan=0, plane="axial").volume.plane == "axial"


def test_progress_and_json(pipe, dicom):
    told = []
    found = analyze_study(pipe, dicom, progress=lambda done, of: told.append((done, of)))
    assert told == [(n, 6) for n in range(1, 7)]
    said = json.loads(json.dumps(found.to_dict()))
    assert said["volume_ml"] == pytest.approx(2.4) and said["largest_slice"] == 2 and said["tumor_slices"] == [2, 3]
    assert said["removed_slices"] == [5] and said["slices"] == 6 and len(said["results"]) == 6
    assert "not a medical device" in said["disclaimer"] and said["models"]["detector"]["id"] == "brightness"


def test_nobody_is_named(pipe, dicom, capfd, caplog):
    caplog.set_level("DEBUG")
    found = analyze_study(pipe, dicom)
    told = json.dumps(found.to_dict()) + repr(found) + repr(vars(found)) + "".join(capfd.readouterr()) + caplog.text
    told += gzip.decompress(found.mask_nifti()).decode("latin-1")
    assert not [secret for secret in (*PATIENT.split("^"), PATIENT_ID) if secret in told]
