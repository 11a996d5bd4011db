"""`bthub screen`: every kind of input, shards, merging, and kills that lose and repeat nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from light_stages import DarkCorners, blob, make_pipeline
from PIL import Image

from bthub import cli
from bthub.errors import BthubError
from bthub.inference import screen as module
from bthub.inference.screen import BAD, PART, RESULTS, Shard, merge, parse_shard, screen
from bthub.inference.screen_inputs import walk


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 4)


@pytest.fixture
def archive(tmp_path) -> Path:
    """Two folders, a zip, a DICOM file without a suffix, and files that are bad in their own ways."""
    pydicom = pytest.importorskip("pydicom")
    root = tmp_path / "archive"
    (root / "b").mkdir(parents=True)
    for number in range(11):
        picture = blob(60, 50, (10 + number, 10, 30, 30 + number))
        Image.fromarray(picture // (2 if number % 3 else 1)).save(root / "b" / f"slice-{number:02d}.png")
    (root / "b" / "slice-00_mask.tif").write_bytes(b"a mask is left out")
    (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("RGB", (64, 64), (90, 90, 90)).save(root / "blank.png")
    Image.fromarray(blob(40, 40, (1, 1, 5, 5)) + 30).save(root / "no-slice.png")
    with zipfile.ZipFile(root / "more.zip", "w") as packed:
        packed.write(root / "b" / "slice-03.png", "inner/one.png")
        packed.writestr("inner/two.png", b"nothing")
        packed.writestr("__MACOSX/inner/._one.png", b"nothing")
    (root / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    scan.save_as(root / "IM0001")
    return root


def rows(folder: Path, name: str = RESULTS) -> list[dict]:
    return sorted(parquet.read_table(folder / name).to_pylist(), key=lambda row: (row["index"], row["frame"]))


def test_an_archive(archive, tmp_path):
    out = tmp_path / "out"
    pipe = make_pipeline(input_check=DarkCorners())
    done = screen([str(archive)], out, pipeline=pipe, batch_size=3, workers=2)
    merge(out)
    found, bad = rows(out), rows(out, BAD)
    keys = [item.key.removeprefix(f"{archive}/") for item in walk([str(archive)])]
    assert keys == [item.key.removeprefix(f"{archive}/") for item in walk([str(archive)])]
    assert len(set(keys)) == len(keys) == done["entries"] == 18
    assert [keys[row["index"]] for row in found] == [row["key"].removeprefix(f"{archive}/") for row in found]
    assert {row["key"].removeprefix(f"{archive}/") for row in bad} == {
        "a.png", "blank.png", "no-slice.png", "more.zip!/inner/two.png", "broken.zip", "IM0001",
    } - ({"IM0001"} if any(row["key"].endswith("IM0001") for row in found) else set())  # fmt: skip
    reasons = {Path(row["key"]).name: row["reason"] for row in bad}
    assert "doesn't look like a slice" in reasons["no-slice.png"] and "blank" in reasons["blank.png"]
    assert "damaged" in reasons["a.png"] and "zip is damaged" in reasons["broken.zip"]
    for row in found:
        if row["key"].endswith(".png") and "!" not in row["key"]:
            result = pipe(row["key"])
            assert row["tumor_probability"] == pytest.approx(result.tumor_probability, abs=1e-6)
            assert (row["label"], row["area_px"], row["bbox"]) == (result.label, result.area_px, result.bbox)
            assert row["mask_png"] == (result.mask_png() if result.area_px else None)
    assert {row["label"] for row in found} == {"tumor", "no_tumor"}


def test_what_is_left_out_is_counted_and_named(archive, tmp_path, capsys):
    for name in ("X_MASK.PNG", "b/slice-01_overlay.png", "scan.nii.gz", "notes.txt", ".hidden.png"):
        (archive / name).write_bytes(b"x")
    far = tmp_path / "far"
    far.mkdir()
    (archive / "a.png").rename(far / "a.png")
    (archive / "linked").symlink_to(far)
    (archive / "loop").symlink_to(archive)
    said: list[str] = []
    keys = [item.key.removeprefix(f"{archive}/") for item in walk([str(archive)], said.append)]
    assert len(keys) == 18 and "linked/a.png" in keys
    assert said == [
        f"{archive}: left out hidden: 2 (._one.png, .hidden.png), links to files already included: 1 (loop),"
        " files named as masks: 2 (X_MASK.PNG, slice-00_mask.tif), files of other kinds: 2 (notes.txt, scan.nii.gz),"
        " files named as overlays: 1 (slice-01_overlay.png)"
    ]
    screen([str(archive)], tmp_path / "out", pipeline=make_pipeline())
    told = capsys.readouterr().err.splitlines()
    assert f"bthub: {said[0]}" in told and "\r" not in "".join(told)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a_mask.png").write_bytes(b"x")
    with pytest.raises(BthubError, match="nothing in it can be read.*it has files named as masks: 1"):
        next(walk([str(tmp_path / "masks")]))


def test_dicom_frames(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    pixels = scan.pixel_array
    scan.PixelData, scan.NumberOfFrames = np.stack([pixels, pixels[::-1]]).tobytes(), 2
    (tmp_path / "tree").mkdir()
    scan.save_as(tmp_path / "tree" / "IM1")
    done = screen([str(tmp_path / "tree")], tmp_path / "out", pipeline=make_pipeline(), workers=1)
    merge(tmp_path / "out")
    assert done["entries"] == 1 and [row["frame"] for row in rows(tmp_path / "out")] == [0, 1]


def test_a_built_data_set(tiny_lgg, tmp_path):
    screen([str(tiny_lgg)], tmp_path / "out", pipeline=make_pipeline(), workers=2)
    merge(tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) + len(rows(tmp_path / "out", BAD)) == 20
    assert len({row["key"] for row in found}) == len(found)


@pytest.mark.parametrize("of", [1, 3, 7, 25])
def test_shards_give_what_one_gives(archive, tmp_path, of):
    screen([str(archive)], tmp_path / "whole", pipeline=make_pipeline(), workers=2)
    merge(tmp_path / "whole")
    for number in range(1, of + 1):
        screen([str(archive)], tmp_path / "parts", pipeline=make_pipeline(), shard=Shard(number, of), workers=2)
    merge(tmp_path / "parts")
    for name in (RESULTS, BAD):
        one, many = rows(tmp_path / "whole", name), rows(tmp_path / "parts", name)
        assert [row["key"] for row in one] == [row["key"] for row in many]
        for a, b in zip(one, many, strict=True):
            assert a.pop("tumor_probability", 0) == pytest.approx(b.pop("tumor_probability", 0), abs=1e-6)
            assert a == b


def test_merging_refuses(archive, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BthubError, match="no shards"):
        merge(out)
    screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(1, 3))
    screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(3, 3))
    with pytest.raises(BthubError, match="lacks shard 2/3"):
        merge(out)
    other = make_pipeline()
    other.models = {**other.models, "detector": {"id": "another", "revision": "1"}}
    screen([str(archive)], out, pipeline=other, shard=Shard(2, 3))
    with pytest.raises(BthubError, match="differ in models"):
        merge(out)
    shutil.rmtree(out / Shard(2, 3).name)
    screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(2, 3))
    record = out / Shard(2, 3).name / "screen.json"
    written = json.loads(record.read_text())
    record.write_text(json.dumps({key: value for key, value in written.items() if key != "complete"}))
    with pytest.raises(BthubError, match="isn't finished"):
        merge(out)


def test_what_is_refused(archive, tmp_path, capsys):
    out = tmp_path / "out"
    screen([str(archive)], out, pipeline=make_pipeline())
    with pytest.raises(BthubError, match="other settings"):
        screen([str(archive)], out, pipeline=make_pipeline(), check_input=False)
    Image.fromarray(blob(60, 50, (10, 10, 30, 30))).save(archive / "aa.png")
    with pytest.raises(BthubError, match="other inputs"):
        screen([str(archive)], out, pipeline=make_pipeline())
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([], "expected at least one input"),
        ([str(tmp_path / "empty")], "nothing in it"),
        ([str(tmp_path / "missing")], "no such file"),
        ([str(archive), "--shard", "0/4"], "i/n"),
        ([str(archive), "--shard", "5/4"], "i/n"),
        ([str(archive), str(tmp_path / "missing")], "no such file"),
        (["--merge", str(archive)], "takes no inputs"),
    ):
        assert cli.main(["screen", *arguments, "--out", str(tmp_path / "new")]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("bthub: ") and words in told
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shard(1, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}, Shard(3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}, Shard(1, 8)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Shard(4, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(2, 2)),
    ],
)
def test_the_shard_of_an_array_job(environment, expected):
    assert parse_shard(None, environment) == expected
    assert parse_shard("2/9", environment) == Shard(2, 9)


def test_the_list_is_walked_not_held(tmp_path):
    """A million entries of one zip are not read to give the first."""
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as packed:
        for number in range(3):
            packed.writestr(f"{number}.png", b"x")
    items = walk([str(tmp_path / "many.zip"), str(tmp_path / "not there")])
    assert [next(items).key[-5:] for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(BthubError, match="no such file"):
        next(items)


KILLED = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from light_stages import DarkCorners, make_pipeline
    from bthub.inference import screen as module
    module.PART = 4
    pipe = make_pipeline(input_check=DarkCorners())
    print("ready", flush=True)
    module.screen([{archive!r}], Path({out!r}), pipeline=pipe, batch_size=2, workers=2)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_and_repeat_nothing(archive, tmp_path, kills):
    for number in range(11, 60):
        Image.fromarray(blob(60, 50, (10, 10, 30, 31 + number % 20))).save(archive / "b" / f"slice-{number}.png")
    screen([str(archive)], tmp_path / "whole", pipeline=make_pipeline(input_check=DarkCorners()), workers=2)
    merge(tmp_path / "whole")
    out = tmp_path / "out"
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parents[1]), archive=str(archive), out=str(out))
    rng = random.Random(kills)
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ}
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed > 0
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    merge(out)
    assert not list(out.rglob("*.tmp"))
    for name in (RESULTS, BAD):
        one, other = rows(tmp_path / "whole", name), rows(out, name)
        assert [row["key"] for row in one] == [row["key"] for row in other]
        assert [row.get("area_px") for row in one] == [row.get("area_px") for row in other]


@pytest.mark.slow
def test_memory_is_that_of_a_part_however_long_the_input(tmp_path):
    picture = tmp_path / "one.png"
    Image.fromarray(blob(60, 50, (10, 10, 30, 30))).save(picture)
    peaks = []
    for count in (150, 150, 1500):  # the first also loads what is loaded once
        folder = tmp_path / f"in-{count}"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            shutil.copyfile(picture, folder / f"{number:05d}.png")
        tracemalloc.start()
        done = screen([str(folder)], tmp_path / f"out-{len(peaks)}", pipeline=make_pipeline(), workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert done["pictures"] == count
    # Names of one folder are sorted, so they are held: some hundred bytes each, and no pictures.
    assert peaks[2] < 1.2 * peaks[1] + 1500 * 500


def test_a_zip_is_listed_once_not_for_each_member(tmp_path, monkeypatch):
    picture = tmp_path / "one.png"
    Image.fromarray(blob(60, 50, (10, 10, 30, 30))).save(picture)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as packed:
        for number in range(20):
            packed.write(picture, f"{number}.png")
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *arguments: opened.append(arguments) or real(*arguments))
    done = screen([str(tmp_path / "many.zip")], tmp_path / "out", pipeline=make_pipeline(), workers=2)
    assert done["pictures"] == 20 and len(opened) < 8


def test_two_processes_dont_share_a_shard(archive, tmp_path):
    folder = tmp_path / "out" / Shard(1, 1).name
    folder.mkdir(parents=True)
    with module._alone(folder), pytest.raises(BthubError, match="another process"):
        screen([str(archive)], tmp_path / "out", pipeline=make_pipeline())
    screen([str(archive)], tmp_path / "out", pipeline=make_pipeline())


def test_parts_are_small_enough_to_lose():
    assert PART <= 1024


@pytest.mark.parametrize("option", ["--batch-size=0", "--batch-size=-1", "--workers=0", "--workers=-1"])
def test_numbers_out_of_range_are_told_before_anything_is_written(option, archive, tmp_path, capsys):
    assert cli.main(["screen", str(archive), "--out", str(tmp_path / "out"), option]) == 2
    err = capsys.readouterr().err
    assert err.startswith("bthub: the ") and "must be from 1 to 65,536" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
