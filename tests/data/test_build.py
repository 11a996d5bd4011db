"""`bthub data build` on the Kaggle tree: what it writes, what it refuses, and that it leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import yaml
from PIL import Image

from bthub.data import lgg
from bthub.data.archive import Source
from bthub.data.build import build
from bthub.data.dataset import load_split
from bthub.data.splits import BENCHMARK_PATIENTS, PROTOCOLS, patient_split, slice_split
from bthub.errors import BthubError

TREE = Path(__file__).parents[1] / "data" / "kaggle_3m"
PATIENT = "TCGA_HT_7680_19970202"  # train; slices 4 to 8
FIRST, MIDDLE = f"{PATIENT}/{PATIENT}_4", f"{PATIENT}/{PATIENT}_6"
COLUMNS = {
    "image": datasets.Image(),
    "mask": datasets.Image(),
    "label": datasets.ClassLabel(names=["no_tumor", "tumor"]),
    "patient_id": datasets.Value("string"),
    "institution": datasets.Value("string"),
    "slice_index": datasets.Value("int32"),
    "slice_count": datasets.Value("int32"),
    "tumor_pixels": datasets.Value("int32"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return shutil.copytree(TREE, tmp_path / "kaggle_3m")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "lgg"
    build(TREE, out)
    return out


def expected_slices(tree: Path = TREE) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Image and mask of every slice, read without the code under test."""
    slices = {}
    for path in tree.glob("*/*_mask.tif"):
        patient, index = re.fullmatch(r"(.+)_(\d+)_mask\.tif", path.name).groups()
        image = path.with_name(f"{patient}_{index}.tif")
        slices[patient, int(index)] = np.array(Image.open(image)), np.array(Image.open(path))
    return slices


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def zip_folder(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + str(file.relative_to(folder.parent)))
    return path


def refusal(source: Path, out: Path) -> str:
    """The message of a build that is refused, after checking that it left nothing behind."""
    around = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(BthubError) as caught:
        build(source, out)
    assert not out.exists()
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else None) == around
    return str(caught.value)


def save(path: Path, array: np.ndarray, **options: object) -> None:
    Image.fromarray(array).save(path, "TIFF", **options)


# What it writes


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_dataset_gives_the_pixels_of_the_tiffs_in_the_committed_splits(built, protocol, streaming):
    expected = expected_slices()
    loaded = datasets.load_dataset(str(built), protocol, streaming=streaming)
    assert set(loaded) == {"train", "validation", "test"}
    seen = set()
    for split, rows in loaded.items():
        assert rows.features == COLUMNS
        for row in rows:
            key = row["patient_id"], row["slice_index"]
            assert key not in seen
            seen.add(key)
            image, mask = expected[key]
            assert row["image"].mode == "RGB" and row["mask"].mode == "L"
            np.testing.assert_array_equal(np.array(row["image"]), image)
            np.testing.assert_array_equal(np.array(row["mask"]), mask)
            assert row["tumor_pixels"] == (mask == 255).sum()
            assert row["label"] == (mask == 255).any()
            assert row["institution"] == key[0][5:7]
            assert row["slice_count"] == 5
            assert split == (patient_split(key[0]) if protocol == "patient" else slice_split(*key))
    assert seen == set(expected)


def test_patient_is_the_default_protocol(built):
    default = datasets.load_dataset(str(built), split="test")
    assert set(default["patient_id"]) == {"TCGA_HT_8018_19970411"} and len(default) == 5


def test_pixels_are_stored_once_in_files_partitioned_by_both_protocols(built):
    keys, pixels = [], set()
    for path in built.rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            key = row["patient_id"], row["slice_index"]
            keys.append(key)
            pixels.add(row["image"]["bytes"])
            place = f"data/patient-{patient_split(key[0])}/slice-{slice_split(*key)}.parquet"
            assert path.relative_to(built).as_posix() == place
    assert len(keys) == len(set(keys)) == len(pixels) == 20


def test_rows_are_sorted_and_the_schema_alone_carries_the_features(built):
    for path in built.rglob("*.parquet"):
        # Without the card: the Parquet file by itself.
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train")
        assert rows.features == COLUMNS
        keys = list(zip(rows["patient_id"], rows["slice_index"], strict=True))
        assert keys == sorted(keys)


def test_stored_images_are_png(built):
    for path in built.rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert row["image"]["bytes"].startswith(b"\x89PNG") and row["mask"]["bytes"].startswith(b"\x89PNG")
            assert row["mask"]["path"] == f"{row['patient_id']}_{row['slice_index']}_mask.png"


def test_the_card_names_only_splits_that_exist_and_counts_what_is_there(built):
    _, metadata, text = (built / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["license"] == "cc-by-nc-sa-4.0"
    assert metadata["task_categories"] == ["image-segmentation", "image-classification"]
    assert {c["config_name"]: [f["split"] for f in c["data_files"]] for c in metadata["configs"]} == {
        "patient": ["train", "validation", "test"],
        "slice": ["train", "validation", "test"],
    }
    assert metadata["configs"][0]["default"] is True
    tumor = sum(mask.any() for _, mask in expected_slices().values())
    assert f"4 of 110 patients, 20 of 3,929 slices, {tumor} of 1,373 tumor slices" in text
    areas = sorted(int((mask == 255).sum()) for _, mask in expected_slices().values() if mask.any())
    assert f"{areas[0]} to {areas[-1]} pixels" in text
    for words in (
        "pre-contrast, FLAIR, post-contrast",
        "10.1016/j.compbiomed.2019.05.002",
        "10.1007/s11060-017-2420-1",
        "TCGA-LGG",
        "not a medical device",
        "| validation | CS | 1 | 5 | 4 | 80.0% |",
        "None of them is in this copy",
    ):
        assert words in text
    assert "{{" not in text and "{%" not in text and str(TREE) not in text


def test_the_card_counts_patients_whose_missing_sequence_was_filled_with_flair(tree, tmp_path):
    for path in tree.glob(f"{PATIENT}/*[0-9].tif"):
        image = np.array(Image.open(path))
        image[..., 2] = image[..., 1]
        save(path, image)
    other = tree / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif"
    image = np.array(Image.open(other))
    image[..., 0] = image[..., 1]
    save(other, image)  # one slice of five: not a missing sequence
    filled = {}
    for name, source in (("before", TREE), ("after", tree)):
        build(source, tmp_path / name)
        text = (tmp_path / name / "README.md").read_text()
        filled[name] = [int(re.search(rf"^- {c}-contrast: (\d+)", text, re.M)[1]) for c in ("pre", "post")]
    assert filled["after"] == [filled["before"][0], filled["before"][1] + 1]


def test_benchmark_patients_form_a_split_of_their_own_under_both_protocols(tree, tmp_path):
    patient = BENCHMARK_PATIENTS[0]
    folder = tree / patient
    folder.mkdir()
    for path in (tree / PATIENT).iterdir():
        shutil.copy(path, folder / path.name.replace(PATIENT, patient))
    build(tree, tmp_path / "out")
    for protocol in PROTOCOLS:
        splits = datasets.load_dataset(str(tmp_path / "out"), protocol)
        assert set(splits["benchmark"]["patient_id"]) == {patient} and len(splits["benchmark"]) == 5
        assert all(patient not in splits[name]["patient_id"] for name in splits if name != "benchmark")


def test_two_builds_are_the_same_bytes(built, tmp_path):
    build(TREE, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built)


def test_uncompressed_tiffs_as_kaggle_ships_them_give_the_same_bytes(built, tree, tmp_path):
    for path in tree.rglob("*.tif"):
        tifffile.imwrite(path, np.array(Image.open(path)))
    assert os.path.getsize(tree / f"{FIRST}.tif") > 256 * 256 * 3
    build(tree, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(built)


# Where it reads from


def test_zip_and_folders_above_give_the_same_bytes(built, tree, tmp_path):
    above = tmp_path / "download"
    above.mkdir()
    tree = tree.rename(above / "kaggle_3m")
    for i, source in enumerate([above, zip_folder(tree, tmp_path / "archive.zip")]):
        build(source, tmp_path / f"out{i}")
        assert contents(tmp_path / f"out{i}") == contents(built)


def test_kaggles_nested_copy_is_read_once(built, tree, tmp_path):
    archive = zip_folder(tree, tmp_path / "archive.zip")
    with zipfile.ZipFile(archive, "a") as appended:
        for file in sorted(tree.rglob("*.tif")):
            appended.write(file, f"lgg-mri-segmentation/{file.relative_to(tree.parent)}")
    build(archive, tmp_path / "zipped")
    assert contents(tmp_path / "zipped") == contents(built)

    shutil.copytree(tree, tree / "lgg-mri-segmentation" / "kaggle_3m")
    build(tree, tmp_path / "unzipped")
    assert contents(tmp_path / "unzipped") == contents(built)


def test_a_nested_copy_that_differs_is_refused(tree, tmp_path):
    nested = shutil.copytree(tree, tree / "lgg-mri-segmentation" / "kaggle_3m")
    for suffix in (".tif", "_mask.tif"):
        (nested / f"{FIRST}{suffix}").unlink()
    message = refusal(tree, tmp_path / "out")
    assert str(nested) in message and "remove the other" in message


def test_one_patient_folder_and_linked_folders_are_fine(tree, tmp_path):
    build(tree / PATIENT, tmp_path / "one")
    assert len(load_split(tmp_path / "one", "train")) == 5
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / PATIENT).symlink_to(tree / PATIENT)
    (linked / "loop").symlink_to(linked)
    build(linked, tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_csv_readme_and_operating_system_litter_are_ignored(built, tree, tmp_path):
    for name in ("data.csv", "README.md", ".DS_Store", f"{PATIENT}/._{PATIENT}_4.tif", "Thumbs.db"):
        (tree / name).write_bytes(b"not an image")
    (tree / "__MACOSX").mkdir()
    (tree / "__MACOSX" / "TCGA_odd.tif").write_bytes(b"not an image")
    build(tree, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(built)


# What it refuses: each case damages the tree and names the file and the words of the mend


def remove(name: str) -> Callable[[Path], None]:
    return lambda tree: (tree / name).unlink()


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda tree: (tree / old).rename(tree / new)


def write(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda tree: save(tree / name, array)


def remove_slice(tree: Path) -> None:
    for suffix in (".tif", "_mask.tif"):
        (tree / f"{MIDDLE}{suffix}").unlink()


def two_pages(tree: Path) -> None:
    page = Image.fromarray(np.zeros((256, 256), np.uint8))
    page.save(tree / f"{FIRST}_mask.tif", save_all=True, append_images=[page])


def unknown_patient(tree: Path) -> None:
    folder = (tree / PATIENT).rename(tree / "TCGA_ZZ_0000_20200101")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace(PATIENT, folder.name))


def unknown_slice(tree: Path) -> None:
    # As many slices as it takes to leave the range of the committed table without a gap.
    for index in range(9, 60):
        for suffix in (".tif", "_mask.tif"):
            shutil.copy(tree / f"{FIRST}{suffix}", tree / PATIENT / f"{PATIENT}_{index}{suffix}")


def second_suffix(tree: Path) -> None:
    shutil.copy(tree / f"{FIRST}.tif", tree / f"{FIRST}.tiff")


RGB, GRAY = np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256), np.uint8)
REFUSALS = {
    "mask without image": (remove(f"{FIRST}.tif"), f"{FIRST}_mask.tif", "restore the image"),
    "image without mask": (remove(f"{FIRST}_mask.tif"), f"{FIRST}.tif", "restore the mask"),
    "mask not binary": (write(f"{FIRST}_mask.tif", GRAY + 7), f"{FIRST}_mask.tif", "found [7]; restore"),
    "mask of 0 and 1": (write(f"{FIRST}_mask.tif", GRAY + 1), f"{FIRST}_mask.tif", "found [1]; restore"),
    "mask of another size": (
        write(f"{FIRST}_mask.tif", GRAY[:128]),
        f"{FIRST}_mask.tif",
        "256x128 pixels, its image 256x256; restore",
    ),
    "gray image": (write(f"{FIRST}.tif", GRAY), f"{FIRST}.tif", "mode L, 8 bits, 1 page(s), expected RGB"),
    "image with alpha": (
        write(f"{FIRST}.tif", np.zeros((256, 256, 4), np.uint8)),
        f"{FIRST}.tif",
        "mode RGBA, 8 bits, 1 page(s), expected RGB (color), 8 bits, 1 page; restore",
    ),
    "16-bit image": (
        lambda tree: tifffile.imwrite(tree / f"{FIRST}.tif", RGB.astype(np.uint16), photometric="rgb"),
        f"{FIRST}.tif",
        "mode RGB, 16 bits",
    ),
    "color mask": (write(f"{FIRST}_mask.tif", RGB), f"{FIRST}_mask.tif", "mode RGB, 8 bits, 1 page(s), expected L"),
    "1-bit mask": (write(f"{FIRST}_mask.tif", GRAY > 0), f"{FIRST}_mask.tif", "mode 1, 1 bits"),
    "two pages": (two_pages, f"{FIRST}_mask.tif", "several page(s)"),
    "huge image": (
        lambda tree: save(tree / f"{FIRST}.tif", np.zeros((1, 5000, 3), np.uint8)),
        f"{FIRST}.tif",
        "5000x1 pixels, expected 256x256; download it again",
    ),
    "png named tif": (
        lambda tree: Image.fromarray(RGB).save(tree / f"{FIRST}.tif", "PNG"),
        f"{FIRST}.tif",
        "not a readable TIFF",
    ),
    "empty file": (
        lambda tree: (tree / f"{FIRST}.tif").write_bytes(b""),
        f"{FIRST}.tif",
        "download it again",
    ),
    "name does not parse": (
        rename(f"{FIRST}.tif", f"{PATIENT}/slice4.tif"),
        f"{PATIENT}/slice4.tif",
        "rename the file",
    ),
    "number with a leading zero": (
        rename(f"{FIRST}.tif", f"{PATIENT}/{PATIENT}_04.tif"),
        f"{PATIENT}/{PATIENT}_04.tif",
        "rename the file",
    ),
    "wrong folder": (
        rename(f"{FIRST}.tif", f"TCGA_DU_A5TU_19980312/{PATIENT}_4.tif"),
        f"TCGA_DU_A5TU_19980312/{PATIENT}_4.tif",
        f"move it to a folder named {PATIENT}",
    ),
    "loose file": (rename(f"{FIRST}.tif", f"{PATIENT}_4.tif"), f"{PATIENT}_4.tif", f"folder named {PATIENT}"),
    "gap": (remove_slice, PATIENT, f"restore {PATIENT}_6.tif"),
    "twice": (second_suffix, f"{FIRST}.tiff", "remove one of the two"),
    "unknown patient": (unknown_patient, "TCGA_ZZ_0000_20200101", "remove the folder"),
    "unknown slice": (unknown_slice, f"{PATIENT}/{PATIENT}_22.tif", "remove the file"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_file_and_the_mend(tree, tmp_path, case):
    damage, path, mend = REFUSALS[case]
    damage(tree)
    message = refusal(tree, tmp_path / "out")
    assert str(tree / path) in message and mend in message
    assert "\n" not in message


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [1, 6, 200, 0.5, -1])
def test_truncated_tiffs_are_refused(tmp_path, kept, compressed, zipped):
    folder = shutil.copytree(TREE / PATIENT, tmp_path / "kaggle_3m" / PATIENT)
    path = folder / f"{PATIENT}_6.tif"
    if not compressed:
        # Kaggle's layout: the directory in front, the pixels to the end of the file.
        tifffile.imwrite(path, np.array(Image.open(path)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] if kept == 0.5 else data[:kept])
    source = zip_folder(folder.parent, tmp_path / "archive.zip") if zipped else folder.parent
    message = refusal(source, tmp_path / "out")
    assert f"{PATIENT}/{PATIENT}_6.tif: truncated or damaged" in message and "download it again" in message


def test_damaged_bytes_are_read_or_refused_but_nothing_else(tmp_path):
    folder = tmp_path / PATIENT
    folder.mkdir()
    for suffix in (".tif", "_mask.tif"):
        shutil.copy(TREE / f"{FIRST}{suffix}", folder)
    path = folder / f"{PATIENT}_4.tif"
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    with Source(folder) as source:
        [entry] = lgg.find_slices(source)
        for _ in range(150):
            data = bytearray(sound)
            # The directory stands in the last bytes of these files, the header in the first.
            for position in [*rng.integers(0, 8, 1), *rng.integers(len(data) - 200, len(data), 3)]:
                data[position] = rng.integers(256)
            path.write_bytes(data)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow's, on tags that make no sense
                    lgg.read_slice(source, entry)
            except BthubError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["kaggle_3m", "anything"])
def test_an_empty_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    message = refusal(tmp_path / name, tmp_path / "out")
    assert str(tmp_path / name) in message and "LGG MRI Segmentation" in message


def test_pictures_named_like_slices_of_lgg_are_told(tmp_path):
    (tmp_path / "set" / "tumor").mkdir(parents=True)
    Image.new("L", (32, 32)).save(tmp_path / "set" / "tumor" / f"{PATIENT}_4.png")
    message = refusal(tmp_path / "set", tmp_path / "out")
    assert "named like LGG MRI Segmentation" in message and "if this is an image-folder set, rename" in message


@pytest.mark.parametrize(
    "shares", [(None, float("nan")), (float("nan"), None), (0.5, 0.5), (0.0, None), (-0.1, None), (float("inf"), None)]
)
def test_shares_that_cannot_be_held_out_are_refused(shares, tmp_path):
    with pytest.raises(BthubError, match="can't hold out .*expected fractions"):
        build(tmp_path / "never read", tmp_path / "out", *shares)


def test_a_missing_source_and_one_that_is_no_zip_are_refused(tmp_path):
    assert "no such folder or zip" in refusal(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "text.zip").write_text("not a zip")
    message = refusal(tmp_path / "text.zip", tmp_path / "out")
    assert str(tmp_path / "text.zip") in message and "download it again" in message


def test_a_pipe_in_the_tree_is_refused_instead_of_waited_for(tree, tmp_path):
    (tree / f"{FIRST}.tif").unlink()
    os.mkfifo(tree / f"{FIRST}.tif")
    message = refusal(tree, tmp_path / "out")
    assert str(tree / f"{FIRST}.tif") in message and "remove it" in message


@pytest.mark.parametrize("member", ["../evil.tif", "/evil.tif", "C:/evil.tif", "a/../../evil.tif", "a\nb.tif"])
def test_odd_names_in_a_zip_are_refused(tree, tmp_path, member):
    archive = zip_folder(tree, tmp_path / "archive.zip")
    with zipfile.ZipFile(archive, "a") as appended:
        appended.writestr(member, b"")
    message = refusal(archive, tmp_path / "out")
    assert str(archive) in message and repr(member) in message and "download the zip again" in message


def test_a_zip_with_a_member_twice_is_refused(tree, tmp_path):
    archive = zip_folder(tree, tmp_path / "archive.zip")
    with zipfile.ZipFile(archive, "a") as appended, pytest.warns(UserWarning, match="Duplicate name"):
        appended.write(tree / f"{FIRST}.tif", f"kaggle_3m/{FIRST}.tif")
    message = refusal(archive, tmp_path / "out")
    assert f"kaggle_3m/{FIRST}.tif" in message and "twice" in message


def test_a_zip_with_a_damaged_member_is_refused(tree, tmp_path):
    archive = zip_folder(tree, tmp_path / "archive.zip")
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo(f"kaggle_3m/{MIDDLE}.tif").header_offset
    data = bytearray(archive.read_bytes())
    data[start + 1000 : start + 1100] = bytes(100)
    archive.write_bytes(data)
    message = refusal(archive, tmp_path / "out")
    assert f"{archive}/kaggle_3m/{MIDDLE}.tif" in message and "download it again" in message


def test_a_zip_cut_short_is_refused(tree, tmp_path):
    archive = zip_folder(tree, tmp_path / "archive.zip")
    archive.write_bytes(archive.read_bytes()[:-2000])
    assert "download it again" in refusal(archive, tmp_path / "out")


def test_an_absurdly_large_member_is_refused_before_it_is_unpacked(tree, tmp_path):
    (tree / f"{FIRST}.tif").unlink()
    archive = zip_folder(tree, tmp_path / "archive.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as appended:
        appended.writestr(f"kaggle_3m/{FIRST}.tif", bytes(65 * 2**20))
    message = refusal(archive, tmp_path / "out")
    assert f"{FIRST}.tif" in message and "too large" in message


# What it leaves behind


def test_an_output_folder_with_content_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(BthubError, match="not empty; remove it or give another"):
        build(TREE, out)
    assert contents(out) == {"mine.txt": b"kept"}
    with pytest.raises(BthubError, match="not empty"):
        build(TREE, out / "mine.txt")


def test_an_empty_output_folder_is_used(built, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    build(TREE, out)
    assert contents(out) == contents(built)
    assert out.stat().st_mode == built.parent.joinpath("lgg").stat().st_mode
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_made_on_the_way_to_the_output_go_again_on_failure(tree, tmp_path):
    (tree / f"{FIRST}.tif").write_bytes(b"damaged")
    refusal(tree, tmp_path / "a" / "b" / "out")
    assert not (tmp_path / "a").exists()


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refusal(TREE, tmp_path / "file" / "out")
    assert str(tmp_path / "file" / "out") in message and "give another path" in message


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    # A real signal to a real process; reading is slowed down so that it arrives in the middle.
    script = """
import signal, sys, time
from pathlib import Path
from bthub.data import lgg
from bthub.data.build import build
# Some launchers start their children deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
read = lgg.read_slice
def slow(*args):
    time.sleep(0.2)
    return read(*args)
lgg.read_slice = slow
build(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", script, str(TREE), str(out)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".out.partial-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr and process.returncode != 0
    assert list(tmp_path.iterdir()) == []


# load_split


def test_load_split_gives_rows_in_order_of_patient_and_slice(built):
    rows = load_split(built, "train")
    keys = list(zip(rows["patient_id"], rows["slice_index"], strict=True))
    assert keys == [("TCGA_DU_A5TU_19980312", i) for i in range(9, 14)] + [(PATIENT, i) for i in range(4, 9)]
    np.testing.assert_array_equal(np.array(rows[6]["image"]), expected_slices()[PATIENT, 5][0])
    by_slice = load_split(str(built), "validation", protocol="slice")
    keys = list(zip(by_slice["patient_id"], by_slice["slice_index"], strict=True))
    assert keys == sorted(k for k in expected_slices() if slice_split(*k) == "validation")


def test_load_split_refuses_what_is_not_there(built, tree, tmp_path):
    with pytest.raises(BthubError, match="no split 'benchmark'; choose one of train, validation, test"):
        load_split(built, "benchmark")
    with pytest.raises(BthubError, match="unknown protocol 'patients'; choose one of patient, slice"):
        load_split(built, "train", protocol="patients")
    with pytest.raises(BthubError, match="no such folder"):
        load_split(tmp_path / "missing", "train")
    with pytest.raises(BthubError, match="data/nothing isn't there: write it with `bthub data build DOWNLOAD"):
        load_split("data/nothing", "train")
    with pytest.raises(BthubError, match=f"{tree}: not a built data set.*bthub data build"):
        load_split(tree, "train")


def test_load_split_refuses_a_damaged_file(built, tmp_path):
    copy = shutil.copytree(built, tmp_path / "copy")
    for path in copy.rglob("patient-test/*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BthubError, match=f"{copy}: cannot be read as a data set"):
        load_split(copy, "test")


def test_the_cache_never_gives_another_build_of_the_same_name(tree, tmp_path):
    outs = [tmp_path / place / "lgg" for place in ("a", "b")]
    build(tree, outs[0])
    assert np.array(load_split(outs[0], "train")[9]["mask"]).max() == 0
    save(tree / f"{PATIENT}/{PATIENT}_8_mask.tif", GRAY + 255)
    shutil.rmtree(outs[0])
    for out in outs:
        build(tree, out)
        assert 256 * 256 in datasets.load_dataset(str(out), split="train")["tumor_pixels"]
        assert np.array(load_split(out, "train")[9]["mask"]).min() == 255


# The whole set


@pytest.mark.slow
@pytest.mark.skipif("BTHUB_LGG" not in os.environ, reason="BTHUB_LGG does not name the Kaggle folder")
def test_the_whole_tree(tmp_path):
    source = Path(os.environ["BTHUB_LGG"])
    masks = sorted(source.glob("TCGA_*/*_mask.tif"))
    tumor = sum(tifffile.imread(path).any() for path in masks)
    patients = len({path.parent for path in masks})
    if patients == 100:
        assert (len(masks), tumor) == (3574, 1231)
    if patients == 110:
        assert (len(masks), tumor) == (3929, 1373)
    build(source, tmp_path / "out")
    for protocol in PROTOCOLS:
        splits = datasets.load_dataset(str(tmp_path / "out"), protocol)
        assert sum(map(len, splits.values())) == len(masks)
        assert sum(sum(rows["label"]) for rows in splits.values()) == tumor
    rows = load_split(tmp_path / "out", "validation")
    for row in rows:
        path = source / row["patient_id"] / f"{row['patient_id']}_{row['slice_index']}.tif"
        np.testing.assert_array_equal(np.array(row["image"]), tifffile.imread(path))
        assert row["slice_count"] == len(list(path.parent.glob("*_mask.tif")))
