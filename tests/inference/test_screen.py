"""`bthub screen`: every kind of input, shards, merging, and kills that lose and repeat nothing."""

import io
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
from typing import Any

import numpy as np
import pyarrow as pa
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


def test_a_blank_frame_costs_only_itself(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    pixels = scan.pixel_array
    scan.PixelData, scan.NumberOfFrames = np.stack([pixels, 0 * pixels, pixels[::-1]]).tobytes(), 3
    scan.save_as(tmp_path / "IM1")
    screen([str(tmp_path / "IM1")], tmp_path / "out", pipeline=make_pipeline(), workers=1)
    merge(tmp_path / "out")
    assert [row["frame"] for row in rows(tmp_path / "out")] == [0, 2]
    (bad,) = rows(tmp_path / "out", BAD)
    assert bad["frame"] == 1 and bad["reason"].startswith(f"{tmp_path}/IM1, frame 2: the picture is blank")


def test_a_frame_has_the_number_that_its_file_gives_it(tmp_path):
    """Also where the frames lie in another order, and run another way than the slices of an upright volume."""
    pydicom = pytest.importorskip("pydicom")
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    brighter = np.arange(1, 5)[:, None, None] * 500
    stack = np.random.default_rng(0).integers(0, 100, (4, 64, 64)) + brighter
    scan.PixelData, scan.NumberOfFrames = stack.astype(np.uint16).tobytes(), 4
    del scan.ImagePositionPatient
    for name in ("WindowCenter", "WindowWidth"):
        if name in scan:
            del scan[name]
    for places in ((0, 5, 10, 15), (15, 10, 5, 0), (10, 0, 15, 5)):
        for orientation in ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]):
            scan.ImageOrientationPatient = orientation
            scan.PerFrameFunctionalGroupsSequence = []
            for place in places:
                position, frame = pydicom.Dataset(), pydicom.Dataset()
                position.ImagePositionPatient = [0, 0, place]
                frame.PlanePositionSequence = [position]
                scan.PerFrameFunctionalGroupsSequence.append(frame)
            scan.save_as(tmp_path / "scan.dcm")
            (item,) = walk([str(tmp_path / "scan.dcm")])
            found = item.pictures()
            assert [number for number, _ in found] == [0, 1, 2, 3]
            means = [picture.mean() for _, picture in found]
            assert means == sorted(means) and means[3] > means[0] + 100, (places, orientation)


def test_names_that_are_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    Image.fromarray(blob(60, 50, (10, 10, 30, 30))).save(folder / os.fsdecode(b"1-\xe9.png"))
    (folder / os.fsdecode(b"2-\xff.png")).write_bytes(b"nothing")
    with zipfile.ZipFile(folder / os.fsdecode(b"3-\xe9.zip"), "w") as packed:
        packed.writestr("one.png", b"nothing")
    for _ in range(2):  # and again, by the record of the first time
        done = screen([str(folder)], tmp_path / "out", pipeline=make_pipeline())
        assert (done["pictures"], done["bad"]) == (1, 2)
    merge(tmp_path / "out")
    (row,), bad = rows(tmp_path / "out"), rows(tmp_path / "out", BAD)
    assert row["key"] == rf"{tmp_path}/caf\xe9/1-\xe9.png"
    assert [one["key"] for one in bad] == [
        rf"{tmp_path}/caf\xe9/{name}" for name in (r"2-\xff.png", r"3-\xe9.zip!/one.png")
    ]


def test_two_members_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as packed:
        packed.writestr("a.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("a.png", b"second")
    assert [item.content() for item in walk([str(tmp_path / "twice.zip")])] == [b"first", b"second"]


def parquet_set(folder: Path, **columns: Any) -> Path:
    """A folder that looks like a built data set."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A set", encoding="utf-8")
    parquet.write_table(pa.table(columns), folder / "data" / "test.parquet")
    return folder


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_rows_without_a_picture_are_bad_rows(tmp_path):
    content = png(blob(60, 50, (10, 10, 30, 30)))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [None, {"bytes": None, "path": "x.png"}, {"bytes": content, "path": "x.png"}]
    structs = parquet_set(tmp_path / "structs", image=pa.array(images, kind), file=["a", "b", "c"])
    plain = parquet_set(tmp_path / "plain", image=pa.array([content, None], pa.binary()))
    screen([str(structs), str(plain)], tmp_path / "out", pipeline=make_pipeline())
    merge(tmp_path / "out")
    assert [row["key"] for row in rows(tmp_path / "out")] == [f"{structs}#c", f"{plain}#test.parquet/0/0"]
    bad = rows(tmp_path / "out", BAD)
    assert [row["key"] for row in bad] == [f"{structs}#a", f"{structs}#b", f"{plain}#test.parquet/0/1"]
    assert all("the row has no picture" in row["reason"] for row in bad)


def test_a_damaged_row_group_is_bad_rows(tmp_path):
    content = [png(blob(60, 50, (10, 10, 30, 30 + number))) for number in range(3)]
    folder = parquet_set(tmp_path / "set", image=content)
    file = folder / "data" / "test.parquet"
    damaged = bytearray(file.read_bytes())
    damaged[4:64] = b"\xff" * 60
    file.write_bytes(damaged)
    done = screen([str(folder)], tmp_path / "out", pipeline=make_pipeline())
    assert (done["pictures"], done["bad"]) == (0, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n", "pointer of Git LFS"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
        ({"text": ["a"]}, "its columns are text; expected a column image"),
        ({"image": ["a"]}, "expected a column image with the bytes"),
        ({"image": [{"path": "a"}]}, "expected a column image with the bytes"),
    ],
)
def test_what_is_no_data_set_is_refused_before_anything_is_done(content, words, tmp_path):
    folder = parquet_set(tmp_path / "set", image=[png(blob(60, 50, (10, 10, 30, 30)))])
    last = folder / "data" / "train.parquet"
    last.write_bytes(content) if isinstance(content, bytes) else parquet.write_table(pa.table(content), last)
    with pytest.raises(BthubError, match=words):
        screen([str(folder)], tmp_path / "out", pipeline=make_pipeline())
    assert not (tmp_path / "out").exists()


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


def whole(out: Path) -> tuple[list[dict], list[dict]]:
    merge(out)
    return rows(out), rows(out, BAD)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def test_a_lost_or_damaged_part_is_named_and_done_again(archive, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(number, 2))
    before = whole(out)
    for name, loses in (
        ("part-000000.parquet", Path.unlink),
        ("part-000001.parquet", cut),
        ("part-000001.bad.parquet", Path.unlink),
        ("part-000000.bad.parquet", lambda file: file.write_bytes(b"")),
    ):
        loses(out / Shard(2, 2).name / name)
        with pytest.raises(BthubError, match=f"{name} is (missing|damaged): run the command of shard 2/2 again"):
            merge(out)
        screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(2, 2))
    assert whole(out) == before


def test_parts_that_dont_match_each_other_or_the_record(archive, tmp_path):
    out = tmp_path / "out"
    screen([str(archive)], out, pipeline=make_pipeline())
    before = whole(out)
    folder = out / Shard(1, 1).name
    shutil.copyfile(folder / "part-000000.parquet", folder / "part-000001.parquet")
    with pytest.raises(BthubError, match="isn't the one that|hold .* pictures, screen.json says"):
        merge(out)
    (folder / "part-000001.parquet").unlink()
    screen([str(archive)], out, pipeline=make_pipeline())
    assert whole(out) == before
    content = bytearray((folder / "part-000001.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (folder / "part-000001.parquet").write_bytes(content)
    with pytest.raises(BthubError, match="part-000001.parquet is damaged: remove it, and run"):
        merge(out)


def test_a_damaged_record_is_told(archive, tmp_path):
    out = tmp_path / "out"
    screen([str(archive)], out, pipeline=make_pipeline())
    record = out / Shard(1, 1).name / "screen.json"
    for content in (b"", b"[]", b"null", b"{}", b'{"inputs": [', b"\xff\xfe{", b'{"inputs": 3}'):
        record.write_bytes(content)
        for again in (merge, lambda out: screen([str(archive)], out, pipeline=make_pipeline())):
            with pytest.raises(BthubError, match="screen.json is damaged .*remove .*shard-0001-of-0001 and run"):
                again(out)


def test_what_is_refused(archive, tmp_path, capsys):
    out = tmp_path / "out"
    screen([str(archive)], out, pipeline=make_pipeline())
    with pytest.raises(BthubError, match="other settings"):
        screen([str(archive)], out, pipeline=make_pipeline(), check_input=False)
    Image.fromarray(blob(60, 50, (10, 10, 30, 30))).save(archive / "aa.png")
    with pytest.raises(BthubError, match="other inputs"):
        screen([str(archive)], out, pipeline=make_pipeline())
    with pytest.raises(BthubError, match="in 1 shard, but this would be shard 2 of 3: .*example --shard 1/1"):
        screen([str(archive)], out, pipeline=make_pipeline(), shard=Shard(2, 3))
    merge(out)  # what is finished stays so
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([], "expected at least one input"),
        ([str(tmp_path / "empty")], "nothing in it"),
        ([str(tmp_path / "missing")], "no such file"),
        ([""], "an input is empty"),
        ([str(archive), ""], "an input is empty"),
        ([str(archive), "--shard", "0/4"], "i/n"),
        ([str(archive), "--shard", "5/4"], "i/n"),
        ([str(archive), "--shard", "1/" + "9" * 5000], "i/n"),
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
        ({"RANK": "", "WORLD_SIZE": ""}, Shard(1, 1)),
        ({"RANK": "3"}, Shard(1, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(2, 2)),
    ],
)
def test_the_shard_of_an_array_job(environment, expected):
    assert parse_shard(None, environment) == expected
    assert parse_shard("2/9", environment) == Shard(2, 9)


def test_the_shards_of_an_array_with_steps():
    """sbatch --array=1-8:2"""
    job = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"}
    shards = [parse_shard(None, {**job, "SLURM_ARRAY_TASK_ID": str(number)}) for number in (1, 3, 5, 7)]
    assert shards == [Shard(number, 4) for number in (1, 2, 3, 4)]
    for number in ("2", "9", "0", "", "x"):
        with pytest.raises(BthubError, match=f"SLURM_ARRAY_TASK_ID={number} .*SLURM_ARRAY_TASK_STEP=2: .*--shard"):
            parse_shard(None, {**job, "SLURM_ARRAY_TASK_ID": number})


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": ""},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "two"},
    ],
)
def test_variables_that_name_no_shard(environment):
    said = " ".join(f"{name}={value}" for name, value in environment.items())
    with pytest.raises(BthubError, match=f"^{said}: these variables don't say .*--shard"):
        parse_shard(None, environment)


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
