"""DICOM SEG: read back by highdicom, voxel by voxel, and made only where the uploaded files are at hand."""

import io
import warnings

import highdicom
import numpy as np
import pytest
from PIL import Image
from practice_help import BOTH, picture, png
from pydicom.uid import generate_uid
from scans import AXIAL, CORONAL, OBLIQUE, PATIENT, PATIENT_ID, SAGITTAL, data, enhanced, series

FRAME = "1.2.826.0.1.3680043.8.498.1"


def pixels(boxes: dict[int, tuple[int, int, int, int]], count: int = 6) -> np.ndarray:
    """Slices as a scanner stores them: a disk with noise, bright in the box of each slice that has one."""
    return np.stack([np.asarray(Image.open(io.BytesIO(picture(boxes.get(i), seed=i)))) for i in range(count)])


BOXES = {1: (20, 24, 40, 44), 2: (18, 20, 44, 30), 3: (30, 34, 36, 50)}


def send(browser, files, **form) -> str:
    """Upload DICOM files in a shuffled order, as a browser gives a folder; returns the examination's id."""
    import re

    parts = [("files", (f"study/{i:03d}", data(file), "application/octet-stream")) for i, file in enumerate(files)]
    np.random.default_rng(1).shuffle(parts)
    answer = browser.post("/analyze", files=parts, **form)
    id = browser.wait(re.search(r"/examinations/(\w+)", str(answer.url))[1])
    assert browser.get(f"/examinations/{id}/status").json()["state"] == "done"
    return id


def read(content: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return highdicom.seg.segread(io.BytesIO(content))


def masks_by_instance(content: bytes, files) -> np.ndarray:
    """The SEG's mask (bool) on each source file, in the order of the files."""
    found = read(content).get_pixels_by_source_instance(
        [file.SOPInstanceUID for file in files],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,
    )
    return found.astype(bool)


@pytest.mark.parametrize(
    ("orientation", "spacing"),
    [(AXIAL, (0.9, 0.9)), (CORONAL, (0.9, 0.9)), (SAGITTAL, (0.9, 0.9)), (OBLIQUE, (0.9, 0.9)), (OBLIQUE, (0.5, 1.0))],
    ids=["axial", "coronal", "sagittal", "oblique", "stretched"],
)
def test_the_seg_is_the_mask_voxel_by_voxel(serve_sqlite, orientation, spacing):
    browser = serve_sqlite().begin()
    stack = pixels(BOXES)
    files = series(stack, orientation=orientation, spacing=spacing, FrameOfReferenceUID=FRAME)
    id = send(browser, files)
    answer = browser.get(f"/examinations/{id}/mask.dcm")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/dicom", answer.text[:300]
    got = masks_by_instance(answer.content, files)
    bright = stack > 128
    if spacing[0] == spacing[1]:
        assert (got == bright).all()
    else:  # shown and outlined on stretched slices, and back to the nearest pixel: only the border may differ
        assert [bool(one.any()) for one in got] == [bool(one.any()) for one in bright]
        assert (got & bright).sum() * 2 / (got.sum() + bright.sum()) > 0.9
    seg = read(answer.content)
    assert seg.FrameOfReferenceUID == FRAME and seg.PatientID == PATIENT_ID and seg.PatientName == PATIENT
    assert seg.StudyInstanceUID == files[0].StudyInstanceUID and seg.SeriesInstanceUID != files[0].SeriesInstanceUID
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "bright-pixels"
    assert "not for diagnosis" in seg.ContentDescription
    # The planes lie where the scan's slices lie.
    places = {
        tuple(np.round(np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), 3))
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert places == {tuple(np.round(np.array(files[i].ImagePositionPatient, float), 3)) for i in BOXES}


def test_a_correction_is_in_the_seg_and_the_same_masks_give_the_same_file_names(serve_sqlite):
    browser = serve_sqlite().begin(full_name="Ada \\ Lovelace^")
    stack = pixels(BOXES)
    files = series(stack, FrameOfReferenceUID=FRAME)
    id = send(browser, files)
    first = read(browser.get(f"/examinations/{id}/mask.dcm").content)
    assert first.SOPInstanceUID == read(browser.get(f"/examinations/{id}/mask.dcm").content).SOPInstanceUID
    page = f"/examinations/{id}"
    slices = browser.slices(page)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[5:9, 50:60] = 255
    empty = next(found for found in slices if not found["area_px"])
    headers = {"x-form-token": browser.token("/cases"), "accept": "application/json"}
    sent = browser.client.post(f"/slices/{empty['id']}/correction", content=png(drawn), headers=headers)
    assert sent.status_code == 200
    content = browser.get(f"/examinations/{id}/mask.dcm").content
    seg = read(content)
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert str(seg.ContentCreatorName) == "Ada   Lovelace"
    assert seg.SOPInstanceUID != first.SOPInstanceUID and seg.SeriesInstanceUID == first.SeriesInstanceUID
    got = masks_by_instance(content, files)
    # Upright axial slices of this orientation are the stored ones.
    place = slices.index(empty)
    assert got[place].sum() == 40 and got.sum() == (stack > 128).sum() + 40
    assert (got[place] == (drawn > 0)).all()


def test_slices_that_are_missing_leave_the_others_in_their_places(serve_sqlite):
    browser = serve_sqlite().begin()
    stack = pixels(BOXES)
    files = series(stack, FrameOfReferenceUID=FRAME)
    del files[4]
    id = send(browser, files)
    assert browser.get(f"/examinations/{id}/mask.nii.gz").status_code == 409  # no grid with a gap in it
    got = masks_by_instance(browser.get(f"/examinations/{id}/mask.dcm").content, files)
    assert (got == np.delete(stack, 4, axis=0).astype(np.uint8).__gt__(128)).all()


def test_frames_of_one_file_are_referred_to(serve_sqlite):
    browser = serve_sqlite().begin()
    stack = pixels(BOXES)
    file = enhanced(stack)
    file.FrameOfReferenceUID = FRAME
    id = send(browser, [file])
    answer = browser.get(f"/examinations/{id}/mask.dcm")
    assert answer.status_code == 200, answer.text[:400]
    got = read(answer.content).get_pixels_by_source_frame(
        file.SOPInstanceUID,
        list(range(1, len(stack) + 1)),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,
    )
    assert (got.astype(bool) == (stack[::-1] > 128)).all()  # the file's frames lie in reverse


@BOTH
def test_it_is_made_while_the_upload_is_at_hand_or_was_kept(serve):
    browser = serve().begin()
    files = series(pixels(BOXES), FrameOfReferenceUID=FRAME)
    dropped = send(browser, files)
    page = browser.get(f"/examinations/{dropped}").text
    assert "mask.dcm" in page and "name and numbers" in page
    page = browser.post(f"/examinations/{dropped}/save", pseudonym="P-1").text
    assert "mask.dcm" not in page and "There is no DICOM SEG" in page
    answer = browser.get(f"/examinations/{dropped}/mask.dcm")
    assert answer.status_code == 409 and "keep the files" in answer.text
    kept = send(browser, files)
    page = browser.post(f"/examinations/{kept}/save", pseudonym="P-2", keep="yes")
    assert "mask.dcm" in page.text
    assert read(browser.get(f"/examinations/{kept}/mask.dcm").content).PatientID == PATIENT_ID
    # The zip of the case is for those who get the label alone.
    assert PATIENT_ID.encode() not in browser.get(f"{page.url.path}/export.zip").content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "FrameOfReferenceUID"),
        ({"orientation": None, "FrameOfReferenceUID": FRAME}, "the positions of the slices"),
    ],
)
def test_what_lacks_a_place_is_a_sentence(serve_sqlite, change, words):
    browser = serve_sqlite().begin()
    id = send(browser, series(pixels(BOXES), **change))
    answer = browser.get(f"/examinations/{id}/mask.dcm")
    assert answer.status_code in (409, 500) and words in answer.text and PATIENT_ID not in answer.text


def test_nothing_outlined_and_pictures(serve_sqlite):
    browser = serve_sqlite().begin()
    id = send(browser, series(pixels({}), FrameOfReferenceUID=FRAME, WindowCenter=128, WindowWidth=256))
    answer = browser.get(f"/examinations/{id}/mask.dcm")
    assert answer.status_code == 409 and "Nothing is outlined" in answer.text
    answer = browser.get(f"/examinations/{browser.analyze(picture())}/mask.dcm")
    assert answer.status_code == 409 and "of a DICOM scan" in answer.text


def test_headers_that_lack_half_of_it_are_enough(serve_sqlite):
    browser = serve_sqlite().begin()
    files = series(pixels(BOXES), FrameOfReferenceUID=FRAME, uid=generate_uid())
    for file in files:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "ReferringPhysicianName", "SeriesNumber"):
            del file[keyword]
    id = send(browser, files)
    assert read(browser.get(f"/examinations/{id}/mask.dcm").content).PatientID == ""
