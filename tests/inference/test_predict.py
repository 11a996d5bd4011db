"""`bthub predict`: what is printed, written and refused, and the exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from light_stages import DarkCorners, blob
from PIL import Image
from scans import PATIENT, PATIENT_ID, data, nifti, series, write_series, write_zip
from stages import make_pipeline

from bthub import cli
from bthub.imaging.image_io import read_image
from bthub.inference.loading import load_pipeline

TUMOR = blob(120, 100, (30, 40, 60, 80))
HEALTHY = blob(120, 100, (0, 0, 0, 0)) // 4
SMALL = blob(120, 100, (40, 50, 46, 56))
# With some noise, so that it isn't taken for a mask.
STACK = np.stack([one[..., 0] for one in (HEALTHY, TUMOR, TUMOR, HEALTHY, SMALL)])
STACK = np.where(STACK > 0, STACK + np.random.default_rng(0).integers(0, 6, STACK.shape), 0).astype(np.uint8)


@pytest.fixture(autouse=True)
def known_stages(monkeypatch):
    """The stages of stages.py in place of the shipped runs; the subprocess tests load real folders."""
    monkeypatch.setattr("bthub.inference.loading.load_pipeline", lambda *_, **__: make_pipeline())


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(TUMOR).save(folder / "b_10.tif")
    Image.fromarray(HEALTHY).save(folder / "b_2.tif")
    Image.fromarray(TUMOR[..., 0]).save(folder / "deeper" / "c.PNG")
    Image.fromarray(TUMOR[..., 0]).save(folder / "b_10_mask.tif")  # left out, as the hidden and the text file are
    Image.fromarray(TUMOR).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def predict(*arguments: object) -> int:
    return cli.main(["predict", *map(str, arguments)])


def test_human_lines(pictures, capsys):
    assert predict(pictures) == 0
    out, err = capsys.readouterr()
    healthy, tumor, deeper = out.splitlines()
    assert healthy.startswith(f"{pictures}/b_2.tif  no tumor  p=0.") and "(threshold 0.5)" in healthy
    assert tumor.startswith(f"{pictures}/b_10.tif  tumor  p=0.9") and "  area 1,200 px (" in tumor
    assert "% of the head)  box 30,40-60,80" in tumor
    assert deeper.startswith(f"{pictures}/deeper/c.PNG  tumor")
    assert err == (
        f"bthub: {pictures}: left out files named as masks: 1 (b_10_mask.tif), hidden: 1 (.hidden.png), "
        "files of other kinds: 1 (notes.txt)\n"
    )


def test_what_lies_below_a_folder_is_read_once_and_the_rest_is_named(pictures, tmp_path, capsys):
    (pictures / ".ipynb_checkpoints").mkdir()
    Image.fromarray(TUMOR).save(pictures / ".ipynb_checkpoints" / "b_2-checkpoint.png")
    Image.fromarray(TUMOR).save(pictures / "D_MASK.PNG")
    Image.fromarray(TUMOR).save(pictures / "photo.jfif", "JPEG")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(TUMOR).save(elsewhere / "e.bmp")
    (pictures / "linked").symlink_to(elsewhere, target_is_directory=True)
    (pictures / "linked-again").symlink_to(elsewhere, target_is_directory=True)
    (pictures / "up").symlink_to(tmp_path, target_is_directory=True)
    (pictures / "same.tif").symlink_to(pictures / "b_2.tif")
    (pictures / "broken.png").symlink_to(tmp_path / "gone.png")
    for _ in range(2):  # the second time over what the first has left there
        assert predict(pictures, "--out", pictures / "found") == 1
        out, err = capsys.readouterr()
        names = [Path(line.split("  ")[0]).relative_to(pictures).as_posix() for line in out.splitlines()]
        assert names == ["b_2.tif", "b_10.tif", "deeper/c.PNG", "linked/e.bmp", "photo.jfif"]
        assert f"{pictures}/broken.png: no such file" in err
        assert "hidden: 2 (.hidden.png, .ipynb_checkpoints)" in err
        assert "links to files already included: 3 (linked-again, same.tif, up)" in err
        assert "D_MASK.PNG" in err and "notes.txt" in err
    assert "files named as overlays: 5 (b_10_overlay.png, " in err and "files named as masks: 6 (" in err
    assert "results.jsonl" not in err


def test_a_password_in_a_url_is_said_nowhere(tmp_path, capsys):
    assert predict("http://me:pass%20word@127.0.0.1:1/a b.png", "--json") == 2
    out, err = capsys.readouterr()
    assert "pass" not in out + err and "http://127.0.0.1:1/a b.png: the download failed" in err


def test_what_is_uncertain_is_said(pictures, capsys, monkeypatch):
    monkeypatch.setattr(
        "bthub.inference.loading.load_pipeline", lambda *_, **__: make_pipeline(referral_band=(0.0, 0.9))
    )
    assert predict(pictures / "b_2.tif", pictures / "b_10.tif") == 0
    healthy, tumor = capsys.readouterr().out.splitlines()
    assert "  uncertain from 0 to 0.9, a person should look" in healthy and "a person" not in tumor
    assert predict(pictures / "b_2.tif", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["uncertain"] is True and row["referral_band"] == [0.0, 0.9]


def test_a_refused_picture_does_not_stop_the_others(pictures, tmp_path, capsys, monkeypatch):
    asked = []

    def load(detector, localizer, *, check_input, **_):
        asked.append(check_input)
        return make_pipeline(input_check=DarkCorners())

    monkeypatch.setattr("bthub.inference.loading.load_pipeline", load)
    Image.fromarray(255 - TUMOR).save(tmp_path / "inverted.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    arguments = (tmp_path / "inverted.png", pictures / "b_2.tif", tmp_path / "bad.png", pictures / "b_10.tif")
    assert predict(*arguments, "--out", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == [str(arguments[1]), str(arguments[3])]
    first, second = err.splitlines()
    assert first.startswith(f"bthub: {tmp_path}/inverted.png: this doesn't look like a slice of a brain MRI")
    assert first.endswith("; --no-input-check analyzes it all the same")
    assert "bad.png: this is not a picture" in second
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2
    assert predict(tmp_path / "inverted.png", "--no-input-check") == 0
    assert asked == [True, False]


def test_json_lines(pictures, capsys):
    assert predict(pictures, "--json", "--spacing", "0.5", "2") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["b_2.tif", "b_10.tif", "c.PNG"]
    assert [row["label"] for row in rows] == ["no_tumor", "tumor", "tumor"]
    assert rows[1]["bbox"] == [30, 40, 60, 80] and rows[1]["area_mm2"] == 1200
    assert rows[0]["mask_png_base64"] is None and rows[1]["mask_png_base64"]


def test_the_reading_time_is_that_of_the_file(pictures, capsys, monkeypatch):
    def slow(file):
        time.sleep(0.05)
        return read_image(file)

    monkeypatch.setattr("bthub.inference.pipeline.read_image", slow)
    assert predict(pictures, "--json") == 0
    for line in capsys.readouterr().out.splitlines():
        times = json.loads(line)["milliseconds"]
        assert times["read"] > 50
        assert times.pop("total") == pytest.approx(sum(times.values()), abs=0.01)


def test_a_long_name_of_wide_characters_is_shortened(tmp_path, capsys):
    """85 characters of three bytes each are all that a file system takes; the overlay's name must be shorter."""
    picture = tmp_path / f"{'脳' * 82}.png"
    Image.fromarray(TUMOR).save(picture)
    Image.fromarray(TUMOR).save(tmp_path / "z.png")
    assert predict(tmp_path, "--out", tmp_path / "out") == 0
    saved = sorted(path.name for path in (tmp_path / "out").glob("*_overlay.png"))
    assert len(saved) == 2 and saved[1].startswith("脳" * 33 + "_")


def test_every_file_is_read_once(pictures, capsys, monkeypatch):
    read = []
    monkeypatch.setattr("bthub.inference.pipeline.read_image", lambda file: read.append(file) or read_image(file))
    assert predict(pictures) == 0
    assert len(read) == len(set(read)) == 3


def test_what_can_not_be_saved_does_not_stop_the_others(pictures, tmp_path, capsys, monkeypatch):
    save = Image.Image.save

    def full(image, path, *arguments, **options):
        if "b_2_overlay" in str(path):
            raise OSError(28, "No space left on device")
        save(image, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    assert predict(pictures, "--out", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "b_2.tif: the results can't be written" in err and "No space left" in err
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2


def test_always_localize(tmp_path, capsys):
    Image.fromarray(HEALTHY).save(tmp_path / "a.png")
    assert predict(tmp_path / "a.png", "--always-localize") == 0
    assert "no tumor" in (out := capsys.readouterr().out) and "no area outlined" in out


def test_out_folder(pictures, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert predict(pictures, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "b_10_mask.png",
        "b_10_overlay.png",
        "b_2_overlay.png",
        "c_mask.png",
        "c_overlay.png",
        "results.jsonl",
    ]
    mask = np.asarray(Image.open(out / "b_10_mask.png"))
    expected = np.zeros((120, 100), np.uint8)
    expected[40:80, 30:60] = 255
    np.testing.assert_array_equal(mask, expected)
    assert Image.open(out / "b_10_overlay.png").size == (100, 120)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["overlay"], row["mask"]) for row in rows] == [
        ("b_2_overlay.png", None),
        ("b_10_overlay.png", "b_10_mask.png"),
        ("c_overlay.png", "c_mask.png"),
    ]
    assert "mask_png_base64" not in rows[1]


def test_nothing_in_the_out_folder_is_overwritten(tmp_path, capsys):
    out = tmp_path / "out"
    for folder, picture in (("a", TUMOR), ("b", HEALTHY)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "slice.png")
    assert predict(tmp_path / "a", tmp_path / "b", "--out", out) == 0
    assert predict(tmp_path / "a" / "slice.png", "--out", out) == 0
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).parent.name, row["overlay"], row["mask"]) for row in rows] == [
        ("a", "slice_overlay.png", "slice_mask.png"),
        ("b", "slice-2_overlay.png", None),
        ("a", "slice-3_overlay.png", "slice-3_mask.png"),
    ]


def test_a_bad_picture_does_not_stop_the_others(pictures, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes((pictures / "deeper" / "c.PNG").read_bytes()[:60])
    arguments = (tmp_path / "bad.png", pictures / "b_2.tif", tmp_path / "cut.png", pictures / "b_10.tif")
    assert predict(*arguments, "--batch-size", "1") == 1
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == [str(arguments[1]), str(arguments[3])]
    assert len(err.splitlines()) == 2
    assert f"bthub: {arguments[0]}: this is not a picture" in err and f"{arguments[2]}: the picture is truncated" in err


def test_nothing_readable(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", tmp_path / "missing.png", "--out", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert out == "" and "no pictures in this folder" in err and "missing.png: no such file" in err
    assert len(err.splitlines()) == 2 and not (tmp_path / "out").exists()


def test_an_empty_folder_beside_a_picture(pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", pictures / "b_2.tif") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and len(err.splitlines()) == 1


def test_problems_that_are_not_a_pictures(pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert predict(pictures, "--out", tmp_path / "file") == 2
    assert "the output folder cannot be made" in capsys.readouterr().err
    assert predict(pictures, "--batch-size", "0") == 2
    assert "batch size must be at least 1" in capsys.readouterr().err
    assert predict(pictures, "--spacing", "0", "1") == 2
    assert "spacing must be" in capsys.readouterr().err


def test_an_empty_name_is_not_the_current_folder(pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    assert predict("") == 2
    assert capsys.readouterr().err.startswith("bthub: a picture has no name")
    assert predict("", "b_2.tif") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and len(err.splitlines()) == 1


def test_odd_names_stay_on_their_line(tmp_path, capsys):
    path = tmp_path / "a\nb\x1b[31m é.png"
    Image.fromarray(TUMOR).save(path)
    assert predict(path, "--out", tmp_path / "out") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "a\\nb\\x1b[31m é.png  tumor" in line
    assert (tmp_path / "out" / "a_b__31m_é_mask.png").is_file()
    assert predict(path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(path)


def test_progress_for_many(tmp_path, capsys):
    for i in range(12):
        Image.fromarray(HEALTHY).save(tmp_path / f"{i}.png")
    assert predict(tmp_path) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 12 and "12/12" in err
    assert predict(tmp_path / "1.png") == 0
    assert capsys.readouterr().err == ""


def test_a_missing_run_is_one_sentence(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bthub.inference.loading.load_pipeline", load_pipeline)
    assert predict(pictures, "--detector", tmp_path / "nothing") == 2
    out, err = capsys.readouterr()
    left_out, error = err.splitlines()
    assert out == "" and ": left out " in left_out and str(tmp_path / "nothing") in error


def test_a_closed_pipe_ends_quietly(pictures, capsys, monkeypatch):
    """As in `bthub predict ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert predict(pictures, "--batch-size", "1") == 1
    assert ": left out " in capsys.readouterr().err


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bthub.cli", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_on_a_real_slice_and_a_bad_file(tiny_runs, kaggle, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # real folders
    detector, localizer = tiny_runs
    path = sorted(kaggle.rglob("*[0-9].tif"))[0]
    (tmp_path / "bad.tif").write_bytes(path.read_bytes()[:5000])
    assert predict(path, tmp_path / "bad.tif", "--json", "--detector", detector, "--localizer", localizer) == 1
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    row = json.loads(line)
    assert row["label"] == "tumor" and (row["width"], row["height"]) == (256, 256)
    assert said.err == f"bthub: {tmp_path}/bad.tif: the picture is truncated or damaged and cannot be decoded\n"


def test_the_command_on_nothing_but_bad_files(tmp_path):
    (tmp_path / "page.png").write_text("<html></html>")
    Image.new("RGB", (64, 64), (5, 5, 5)).save(tmp_path / "blank.png")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(65 * 2**20)
    done = run(*sorted(tmp_path.iterdir()))
    assert done.returncode == 2 and done.stdout == ""
    blank, huge, page = done.stderr.splitlines()
    assert "blank.png: the picture is blank" in blank
    assert "huge.png: the file is too large" in huge
    assert "page.png: this is not a picture" in page


# -- studies


def test_a_folder_with_a_dicom_series_is_one_study(tmp_path, capsys):
    folder = write_series(tmp_path / "study", series(STACK, spacing=(0.5, 0.5), gap=4.0))
    assert predict(folder, "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert out == (
        f"{folder}  tumor  volume 2.4 ml  outlined on 2 of 5 slices: 2 to 3"
        "  largest on slice 2: 1,200 px = 3.0 cm\u00b2\n"
    )
    assert err == f"bthub: {folder}: Small areas that don't continue on a neighboring slice were removed: slice 5.\n"

    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"results.jsonl", "study_overlay.png", "study_mask.nii.gz", "study_slices"}
    slices = sorted(path.name for path in (tmp_path / "out" / "study_slices").iterdir())
    masks = [f"slice_000{n}_mask.png" for n in range(1, 6)]
    assert slices == sorted([*masks, "slice_0002_overlay.png", "slice_0003_overlay.png"])
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert row["mask"] == "study_mask.nii.gz" and row["overlay"] == "study_overlay.png"
    assert (
        row["results"][1]["mask"] == "study_slices/slice_0002_mask.png" and "mask_png_base64" not in row["results"][1]
    )
    image = nibabel.load(tmp_path / "out" / "study_mask.nii.gz")
    assert np.asarray(image.dataobj).sum() == 2400
    assert not [secret for secret in (*PATIENT.split("^"), PATIENT_ID) if secret in json.dumps(row) + out + err]

    assert predict(folder, "--out", tmp_path / "out", "--no-cleaning") == 0
    assert (tmp_path / "out" / "study-2_mask.nii.gz").is_file()
    assert np.asarray(nibabel.load(tmp_path / "out" / "study-2_mask.nii.gz").dataobj).sum() == 2436


def test_a_folder_with_a_dicom_series_and_other_files(tmp_path, capsys):
    """Each is analyzed, once: the series, and what is a picture, a volume or a zip by its name."""
    folder = write_series(tmp_path / "study", series(STACK))
    Image.fromarray(TUMOR).save(folder / "plain.png")
    (folder / "flair.nii.gz").write_bytes(nifti(STACK.transpose(2, 1, 0)))
    write_zip(folder / "other.zip", {f"{i}": data(file) for i, file in enumerate(series(STACK[:3]))})
    (folder / ".hidden").write_bytes(b"x")
    assert predict(folder, "--json") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["study", "flair.nii.gz", "other.zip", "plain.png"]
    assert [row.get("kind") for row in rows] == ["DICOM", "NIfTI", "DICOM", None]
    assert [len(row.get("areas_px", [])) for row in rows] == [5, 5, 3, 0]
    assert err.lower().count("left out") == 1 and "hidden" in err  # said once


def test_a_volume_a_zip_and_pictures_together(tmp_path, pictures, capsys):
    (tmp_path / "volume.nii.gz").write_bytes(nifti(STACK.transpose(2, 1, 0)))
    study = [data(file) for file in series(STACK)]
    write_zip(tmp_path / "study.zip", {f"{index}": content for index, content in enumerate(study)})
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    arguments = [pictures / "b_2.tif", tmp_path / "volume.nii.gz", tmp_path / "bad.zip", tmp_path / "study.zip"]
    assert predict(*arguments, pictures / "b_10.tif", "--json") == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["b_2.tif", "volume.nii.gz", "study.zip", "b_10.tif"]
    assert rows[1]["kind"] == "NIfTI" and rows[2]["kind"] == "DICOM" and rows[1]["areas_px"] == rows[2]["areas_px"]
    assert f"bthub: {tmp_path}/bad.zip: this isn't a zip, although its name says so" in err


def test_a_folder_of_pictures_and_volumes(tmp_path, pictures, capsys):
    (pictures / "case.nii.gz").write_bytes(nifti(STACK.transpose(2, 1, 0)))
    (pictures / "case_mask.nii.gz").write_bytes(b"left out")
    pages = [Image.fromarray(page) for page in STACK]
    pages[0].save(pictures / "pages.tif", save_all=True, append_images=pages[1:])
    assert predict(pictures) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split("  ")[0]).name for line in lines] == [
        "b_2.tif",
        "b_10.tif",
        "case.nii.gz",
        "c.PNG",
        "pages.tif",
    ]


def test_a_series_and_a_plane_are_chosen(tmp_path, capsys):
    first = series(STACK, SeriesNumber=1, SeriesDescription="T1")
    second = series(STACK[:3], SeriesNumber=2, SeriesDescription="FLAIR")
    folder = write_series(tmp_path / "study", [*first, *second])
    assert predict(folder) == 0
    out, err = capsys.readouterr()
    assert "outlined on 2 of 3 slices" in out
    assert "analyzed series 2 of 2: DICOM, series 2, FLAIR, axial, 3 slices of 100 x 120." in err
    assert "Others: --series 1: DICOM, series 1, T1, axial, 5 slices of 100 x 120." in err
    assert predict(folder, "--series", 1) == 0
    assert "outlined on 2 of 5 slices" in capsys.readouterr().out
    assert predict(folder, "--series", 3) == 2
    assert "there is no scan 3, choose from 1 to 2" in capsys.readouterr().err
    Image.fromarray(TUMOR).save(tmp_path / "plain.png")
    assert predict(folder, tmp_path / "plain.png", "--series", 1) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "1 plain picture analyzed without them" in err
    assert predict(folder, "--plane", "coronal") == 2  # five rows of pixels
    assert "too small" in capsys.readouterr().err


def test_a_link_with_a_pictures_name_stands_for_a_file_without_one(pictures, tmp_path, capsys):
    """A cache of the Hub holds the files by their digests, and links with their names to them."""
    cache = tmp_path / "cache"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "1").mkdir(parents=True)
    content = blob(60, 50, (10, 10, 30, 30))
    Image.fromarray(content).save(cache / "blobs" / "8f3e", "PNG")
    for name in ("a.png", "b.png"):
        (cache / "snapshots" / "1" / name).symlink_to("../../blobs/8f3e")
    assert cli.main(["predict", str(cache)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "/snapshots/1/a.png" in out
    assert "links to files already included: 1 (b.png)" in err and "8f3e" not in err
