"""Stacks: a slider's slices, a volume in milliliters, masks in the scan's own grid."""

import gzip
import io
import json
import re
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image
from practice_help import BOTH, picture, png

from bthub.errors import BthubError
from bthub.practice import analysis


def scan(tmp_path, spacing=(1.0, 1.0, 5.0)) -> bytes:
    """Eight slices with a bright block on four of them, as NIfTI."""
    slices = [
        np.asarray(Image.open(io.BytesIO(picture((20, 24, 40, 44) if 2 <= i < 6 else None, seed=i)))) for i in range(8)
    ]
    array = np.stack([np.asarray(one)[::-1].T for one in slices], axis=-1).astype(np.int16)
    affine = np.diag([*spacing, 1.0])
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path.read_bytes()


def upload(browser, name: str, content: bytes) -> str:
    answer = browser.post("/analyze", files=[("files", (name, content, "application/octet-stream"))])
    return browser.wait(re.search(r"/examinations/(\w+)", str(answer.url))[1])


@BOTH
def test_a_nifti_from_the_upload_to_a_corrected_mask_in_its_own_grid(serve, tmp_path):
    browser = serve().begin()
    content = scan(tmp_path)
    id = upload(browser, "scan.nii.gz", content)
    page = browser.get(f"/examinations/{id}").text
    assert "Tumor suspected" in page and "8.0 ml" in page and 'type="range" data-slider' in page
    # Four slices of 20 x 20 pixels, 1 mm each way and 5 mm apart.
    assert page.count('class="bar"') == 4 and page.count('class="hit"') == 8
    answer = browser.post(f"/examinations/{id}/save", pseudonym="P", examined_on="2026-01-01")
    got = nibabel.Nifti1Image.from_bytes(gzip.decompress(browser.get(f"/examinations/{id}/mask.nii.gz").content))
    source = nibabel.load(tmp_path / "scan.nii.gz")
    assert got.shape == source.shape and np.allclose(got.affine, source.affine)
    assert ((np.asarray(got.dataobj) == 1) == (np.asarray(source.dataobj) > 128)).all()
    # A correction is in the volume, the report and the mask.
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', answer.text, re.DOTALL)[1])
    mask = np.zeros((64, 64), np.uint8)
    headers = {"x-form-token": browser.token("/cases"), "accept": "application/json"}
    sent = browser.client.post(f"/slices/{data['slices'][2]['id']}/correction", content=png(mask), headers=headers)
    assert sent.status_code == 200
    assert "6.0 ml" in browser.get(answer.url.path).text
    got = nibabel.Nifti1Image.from_bytes(gzip.decompress(browser.get(f"/examinations/{id}/mask.nii.gz").content))
    assert int(np.asarray(got.dataobj).sum()) == 1200
    report = browser.post(f"/examinations/{id}/reports").url.path
    assert browser.get(f"{report}/report.json").json()["verdict"]["volume_ml"] == pytest.approx(6.0)
    # Back to the model's outline, the volume is the model's too.
    browser.client.post(f"/slices/{data['slices'][2]['id']}/revert", headers=headers)
    assert browser.get(f"{report}/report.json").json()["verdict"]["volume_ml"] == pytest.approx(8.0)


def test_slices_that_were_not_analyzed_are_not_counted(serve_sqlite, tmp_path):
    scan(tmp_path)
    array = np.asarray(nibabel.load(tmp_path / "scan.nii.gz").dataobj)
    array = np.concatenate([np.zeros_like(array[..., :1]), array], axis=-1).astype(np.int16)
    browser = serve_sqlite().begin()
    content = gzip.compress(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 5.0, 1.0])).to_bytes())
    id = upload(browser, "blank.nii.gz", content)
    assert "4 of 8" in browser.post(f"/examinations/{id}/save", pseudonym="P").text
    report = browser.post(f"/examinations/{id}/reports").url.path
    content = browser.get(f"{report}/report.json").json()
    assert (content["examination"]["slices"], content["examination"]["total"]) == (8, 9)
    assert "Not analyzed: 1 of 9 slices. It is outlined on 4 of 8 slices." in content["findings"]
    assert "1 of 9 slices were not analyzed" in browser.get(report).text


def test_a_zip_of_two_scans_offers_the_other(serve_sqlite, tmp_path):
    browser = serve_sqlite().begin()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("study/flair.nii.gz", scan(tmp_path))
        files.writestr("study/t1.nii.gz", scan(tmp_path, (2.0, 2.0, 5.0)))
    id = upload(browser, "study.zip", archive.getvalue())
    page = browser.get(f"/examinations/{id}").text
    assert "Scans in this study" in page and page.count("<option value=") >= 2 and "8.0 ml" in page
    browser.post(f"/examinations/{id}/again", scan="1")
    browser.wait(id)
    assert "32.0 ml" in browser.get(f"/examinations/{id}").text
    assert browser.post(f"/examinations/{id}/again", scan="7").status_code == 404
    # What was drawn by hand goes only if somebody says so.
    assert 'name="sure"' not in browser.get(f"/examinations/{id}").text
    drawn = browser.slices(f"/examinations/{id}")[2]
    headers = {"x-form-token": browser.token("/cases"), "accept": "application/json"}
    mask = png(np.full((64, 64), 255, np.uint8))
    assert browser.client.post(f"/slices/{drawn['id']}/correction", content=mask, headers=headers).status_code == 200
    answer = browser.post(f"/examinations/{id}/again", scan="0")
    assert answer.status_code == 409 and "corrected by hand" in answer.text
    assert browser.slices(f"/examinations/{id}")[2]["by_hand"]
    browser.client.post(f"/slices/{drawn['id']}/revert", headers=headers)  # the history is what was drawn, too
    assert 'name="sure"' in browser.get(f"/examinations/{id}").text
    assert browser.post(f"/examinations/{id}/again", scan="0").status_code == 409
    assert browser.post(f"/examinations/{id}/again", scan="0", sure="yes").status_code == 200
    browser.wait(id)
    assert "8.0 ml" in browser.get(f"/examinations/{id}").text


def test_a_labeled_study_offers_its_other_scan_even_after_a_failure(serve_sqlite, tmp_path, monkeypatch):
    browser = serve_sqlite().begin()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("study/flair.nii.gz", scan(tmp_path))
        files.writestr("study/t1.nii.gz", scan(tmp_path, (2.0, 2.0, 5.0)))
    files = [("files", ("study.zip", archive.getvalue(), "application/zip"))]
    id = browser.wait(browser.post("/analyze", files=files, pseudonym="P").url.path.rpartition("/")[2])
    page = browser.get(f"/examinations/{id}")
    assert page.url.path.startswith("/cases/") and "Scans in this study" in page.text and "a day after" in page.text

    def fail(*_, **__):
        raise BthubError("t1.nii.gz: this can't be read")

    with monkeypatch.context() as patch:
        patch.setattr(analysis, "analyze_study", fail)
        browser.post(f"/examinations/{id}/again", scan="1")
        browser.wait(id)
    page = browser.get(f"/examinations/{id}").text
    assert "could not be analyzed" in page and "Scans in this study" in page and "8.0 ml" not in page
    browser.post(f"/examinations/{id}/again", scan="0")
    browser.wait(id)
    assert "8.0 ml" in browser.get(f"/examinations/{id}").text
    # Saved by somebody who has seen it, only the result is kept.
    browser.post(f"/examinations/{id}/save", pseudonym="P")
    assert "Scans in this study" not in browser.get(f"/examinations/{id}").text


def test_pictures_have_no_grid(serve_sqlite):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    assert browser.get(f"/examinations/{id}/mask.nii.gz").status_code == 409


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scan.nii.gz", b"\x1f\x8b" + b"0" * 50),
        ("study.zip", b"PK\x03\x04 broken"),
        ("scan.dcm", b"\0" * 128 + b"DICM" + b"broken"),
        ("scan.nii", b"x" * 400),
    ],
)
def test_a_broken_study_is_a_sentence(serve_sqlite, sqlite_settings, name, content):
    browser = serve_sqlite().begin()
    id = upload(browser, name, content)
    page = browser.get(f"/examinations/{id}").text
    assert "could not be analyzed" in page and str(sqlite_settings.folder) not in page and "/tmp" not in page
    assert name in page
    # Another analysis of it, without the check or with it, would end the same.
    assert "/again" not in page and "Choose other files" in page


def test_an_archive_that_climbs_writes_nothing(serve_sqlite, sqlite_settings, tmp_path):
    browser = serve_sqlite().begin()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("../../evil.nii.gz", scan(tmp_path))
        files.writestr("/etc/evil.nii.gz", b"x")
    upload(browser, "study.zip", archive.getvalue())
    assert not list(sqlite_settings.folder.parent.rglob("*evil*"))
