"""The page and the endpoint of a whole scan, with stages of known answers."""

import base64
import gzip
import json
import re
from pathlib import Path
from types import ModuleType

import gradio as gr
import nibabel
import numpy as np
import pytest
from light_stages import blob, make_pipeline
from scans import PATIENT, PATIENT_ID, data, nifti, series, write_series, write_zip
from scripts import script

HEALTHY = blob(120, 100, (0, 0, 0, 0))[..., 0] // 4
TUMOR = blob(120, 100, (30, 40, 60, 80))[..., 0]
NOISE = np.random.default_rng(0).integers(0, 6, (4, 120, 100))
STACK = np.stack([HEALTHY, TUMOR, TUMOR // 2 + 100 * (TUMOR > 100), HEALTHY])
STACK = np.where(STACK > 0, STACK + NOISE, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return script("space/app.py")


@pytest.fixture(scope="module")
def handlers(app: ModuleType) -> dict:
    """The page's own functions by their names."""
    return {event.name: event.fn for event in app.build(make_pipeline()).fns.values()}


def visible(update: dict) -> bool:
    return update.get("visible", True)


def test_a_series_as_many_files(handlers: dict, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", series(STACK, spacing=(0.5, 0.5), gap=4.0))
    page, upload, kept, unchecked, force, choice, plane = handlers["show"](sorted(map(str, folder.iterdir())))
    assert "Tumor suspected" in page and "not a medical device" in page
    assert '<p class="name">4 files</p>' in page
    assert "Outlined on <strong>2 of 4 slices</strong>: 2 to 3" in page
    assert "<dt>Tumor volume</dt><dd>2.4 ml</dd>" in page
    assert (
        "<dt>Largest area</dt><dd>3.0\u00a0cm² <small>as large as a disk 2.0 cm across</small> <small>on slice 2"
        in page
    )
    assert (upload, unchecked) == (None, False) and len(kept) == 4 and not visible(force)
    assert not visible(choice) and visible(plane)

    figures = re.findall(r"<figure( hidden)? data-caption=\"([^\"]*)\"", page)
    assert [bool(hidden) for hidden, _ in figures] == [True, False, True, True], "the largest area is shown first"
    assert figures[1][1].startswith("Slice 2 of 4 · tumor ") and figures[1][1].endswith("3.00\u00a0cm²")
    assert page.count('<path class="layer outline"') == 2 and page.count('<rect class="layer box"') == 2
    assert page.count('<img class="layer fill"') == 2
    assert 'type="range" class="slice" min="1" max="4" value="2"' in page

    links = dict(re.findall(r'<a download="([^"]+)" href="data:[\w/-]+;base64,([^"]+)"', page))
    mask = next(content for name, content in links.items() if name.endswith("_mask.nii.gz"))
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(mask)))
    assert np.asarray(image.dataobj).sum() == 2400
    told = page + json.dumps([choice, plane])
    told += "".join(base64.b64decode(content).decode("latin-1") for content in links.values())
    assert not [secret for secret in (*PATIENT.split("^"), PATIENT_ID) if secret in told]


def test_another_series_is_chosen_from_a_list(app: ModuleType, handlers: dict, tmp_path: Path) -> None:
    first = series(STACK, SeriesNumber=1, SeriesDescription="T1 " + PATIENT)
    second = series(STACK[:2], SeriesNumber=2, SeriesDescription="FLAIR")
    study = write_zip(tmp_path / "s.zip", {f"{i}": data(one) for i, one in enumerate([*first, *second])})
    page, _, kept, _, _, choice, _ = handlers["show"]([str(study)])
    assert "of 2 slices" in page
    assert choice["value"] == 1 and visible(choice)
    assert choice["choices"][0] == ("DICOM, series 1, T1, axial, 4 slices of 100 x 120", 0)
    assert "of 4 slices" in handlers["again"](kept, False, 0, app.AS_SCANNED)[0]
    assert "too small" in handlers["again"](kept, False, 1, "Coronal")[0]
    study.unlink()
    assert app.GONE in handlers["again"](kept, False, 0, app.AS_SCANNED)[0]
    assert app.GONE in handlers["again"](None, False, 0, app.AS_SCANNED)[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.dcm", b"text", "a.dcm: this isn&#x27;t a DICOM file, although its name says so"),
        ("a.zip", b"PK\x05\x06" + bytes(18), "a.zip: the zip is empty"),
        ("a.nii.gz", nifti(np.stack([STACK] * 2, axis=3)), "has 4 dimensions"),
    ],
)
def test_a_bad_scan_is_one_sentence(handlers: dict, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    page, *_ = handlers["show"]([str(tmp_path / name)])
    assert "This scan could not be analyzed" in page and said in page
    assert str(tmp_path) not in page and page.count("<p>") == 1


def test_a_scan_without_a_tumor(app: ModuleType, handlers: dict, tmp_path: Path) -> None:
    window = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    folder = write_series(tmp_path / "s", series(STACK[[0, 3]], **window))
    page, *_ = handlers["show"](sorted(map(str, folder.iterdir())))
    assert "No tumor found" in page and "not an all-clear" in page
    unchecked, *_ = handlers["again"](sorted(map(str, folder.iterdir())), True, 0, app.AS_SCANNED)
    assert ">Unchecked: no tumor found</h2>" in unchecked
    assert "Nothing outlined on 2 slices; highest probability" in page and "Tumor volume" not in page


def test_the_endpoint(app: ModuleType, handlers: dict, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(nifti(STACK.transpose(2, 1, 0)))
    found = handlers["analyze_scan"]([str(tmp_path / "a.nii.gz")], None, None)
    assert json.loads(json.dumps(found))["tumor_slices"] and len(found["results"]) == 4
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found["mask_nifti_base64"])))
    assert image.shape == (100, 120, 4) and np.asarray(image.dataobj).sum() == sum(found["areas_px"])
    with pytest.raises(gr.Error, match="there is no scan 2"):
        handlers["analyze_scan"]([str(tmp_path / "a.nii.gz")], 2, None)
    with pytest.raises(gr.Error, match="send the files of one scan"):
        handlers["analyze_scan"](None, None, None)
    many = np.tile(STACK, (100, 1, 1))
    (tmp_path / "b.nii.gz").write_bytes(nifti(many.transpose(2, 1, 0)))
    with pytest.raises(
        gr.Error, match=f"400 slices are too many for this server, which takes at most {app.MAX_SLICES}"
    ):
        handlers["analyze_scan"]([str(tmp_path / "b.nii.gz")], None, None)
