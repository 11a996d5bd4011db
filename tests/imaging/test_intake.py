"""What a person may bring: what is read; every bad file gets one sentence, nothing is kept and nobody is named."""

import gzip
import io
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scans import (
    BIRTHDAY,
    PATIENT,
    PATIENT_ID,
    data,
    enhanced,
    nifti,
    other,
    series,
    set_pixels,
    slices,
    write_series,
    write_zip,
)

from bthub.errors import BthubError
from bthub.imaging import intake
from bthub.imaging.intake import is_study, open_study
from bthub.imaging.pages import read_tiff

SECRETS = (PATIENT, "MUSTERMANN", "ERIKA", PATIENT_ID, "4711", BIRTHDAY)
STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.fixture(scope="module")
def pixels(kaggle) -> np.ndarray:
    """Five real slices, uint8 (5, 256, 256)."""
    return slices(kaggle)


@pytest.fixture(scope="module")
def one(pixels) -> bytes:
    """A DICOM file of one slice."""
    return data(series(pixels[2:3])[0])


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary files would go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def refused(tmp_path, temporary, capfd, caplog):
    """Reads what must be refused; gives the sentence, after what holds of all of them was checked."""

    def refused(content: bytes | Path, name: str = "scan.dcm") -> str:
        path = content
        if isinstance(content, bytes):
            path = tmp_path / name
            path.write_bytes(content)
        with pytest.raises(BthubError) as caught:
            open_study(path).read()
        text = str(caught.value)
        assert text.startswith(f"{path}") and "\n" not in text and len(text) < 400
        assert caught.value.__cause__ is None
        said = text.replace(str(tmp_path), "") + "".join(capfd.readouterr()) + caplog.text
        assert not [secret for secret in SECRETS if secret in said]
        assert list(temporary.iterdir()) == []
        return text

    return refused


# -- what is read


def test_one_file_of_each_kind(tmp_path, pixels, one):
    files = {
        "slice.dcm": (one, 1, "DICOM"),
        "no-suffix": (one, 1, "DICOM"),
        "volume.nii.gz": (nifti(pixels.transpose(2, 1, 0)), 5, "NIfTI"),
        "volume.nii": (gzip.decompress(nifti(pixels.transpose(2, 1, 0))), 5, "NIfTI"),
        "enhanced": (data(enhanced(pixels)), 5, "DICOM"),
    }
    for name, (content, count, kind) in files.items():
        (tmp_path / name).write_bytes(content)
        assert is_study(tmp_path / name)
        found = open_study(tmp_path / name).read()
        assert (len(found), found.kind) == (count, kind)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_pages_of_a_tiff(tmp_path, pixels, compression):
    pages = [Image.fromarray(page) for page in pixels]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    assert is_study(tmp_path / "a.tif")
    found = open_study(tmp_path / "a.tif").read()
    assert np.array_equal(found.slices, pixels) and found.pixel_mm is None and found.kind == "TIFF"


def test_three_sequences_stay_three(tmp_path, kaggle):
    color = np.stack([slices(kaggle, channel=channel) for channel in range(3)], axis=3)
    tifffile.imwrite(tmp_path / "a.tif", color, photometric="rgb")
    found = open_study(tmp_path / "a.tif").read()
    assert np.array_equal(found.slices, color) and np.array_equal(found.picture(2), color[2])


def test_deep_pages_share_a_window(tmp_path, pixels):
    deep = pixels.astype(np.uint16) * 13 + 7
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="minisblack")
    low, high = np.percentile(deep, (0.1, 99.9))
    expected = np.clip((deep - low) / (high - low), 0, 1) * 255
    assert np.abs(open_study(tmp_path / "a.tif").read().slices - expected).max() <= 1


@pytest.mark.parametrize("pages", ["separate", "behind the first"])
def test_imagej_says_how_large_a_pixel_is(tmp_path, pixels, pages):
    options = {
        "imagej": True,
        "resolution": (1 / 0.5, 1 / 0.5),
        "metadata": {"spacing": 3.0, "unit": "mm", "axes": "ZYX"},
    }
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint16), **options)
    if pages == "separate":  # and as tools write it that end the chain of pages after the first
        content = bytearray((tmp_path / "a.tif").read_bytes())
        count = int.from_bytes(content[8:10], "little")
        assert content[:4] == b"II*\0"
        content[10 + 12 * count : 14 + 12 * count] = bytes(4)
        (tmp_path / "a.tif").write_bytes(content)
    assert is_study(tmp_path / "a.tif")
    found = open_study(tmp_path / "a.tif").read()
    assert np.array_equal(found.slices, pixels)
    assert found.pixel_mm == pytest.approx((0.5, 0.5)) and found.slice_mm == 3


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"])
def test_pages_of_any_type_are_read_rightly_or_refused(tmp_path, pixels, dtype, compression, order, capfd):
    factor = {"i1": 1, "u4": 2**24, "u8": 2**56, "i8": 2**54, "f8": 1e200}.get(dtype, 100)
    samples = (pixels.astype(np.dtype(dtype[0] + "8")) - 128 * (dtype == "i1")) * factor
    options = {"photometric": "minisblack", "compression": compression, "byteorder": order}
    tifffile.imwrite(tmp_path / "a.tif", samples.astype(order + dtype), **options)
    expected = np.clip(pixels / np.percentile(pixels, 99.9), 0, 1) * 255
    try:
        found = open_study(tmp_path / "a.tif").read()
    except BthubError as error:
        assert compression and (dtype[1] == "8" or dtype == "f2" or order + dtype == ">u4")
        assert "cannot be read, save it as 8" in str(error)
    else:
        assert np.abs(found.slices - expected).max() <= 1
    assert capfd.readouterr() == ("", "")


def test_pages_in_which_white_is_zero_share_a_level(tmp_path, pixels):
    deep = pixels.astype(np.uint16) * 100
    pages = [page + np.uint16(500) for page in deep.max() - deep]  # of which each has its own largest sample
    tifffile.imwrite(tmp_path / "a.tif", np.stack(pages), photometric="miniswhite")
    expected = np.clip(pixels / np.percentile(pixels, 99.9), 0, 1) * 255
    assert np.abs(open_study(tmp_path / "a.tif").read().slices - expected).max() <= 1


def test_what_is_transparent_in_pages_is_black(tmp_path, pixels):
    clear = np.stack([pixels] * 3 + [np.full_like(pixels, 255)], axis=3)
    clear[:, :20, :20] = 255, 255, 255, 0
    tifffile.imwrite(tmp_path / "a.tif", clear, photometric="rgb", extrasamples=["unassalpha"])
    found = open_study(tmp_path / "a.tif").read().slices
    assert not found[:, :20, :20].any() and np.array_equal(found[:, 20:], pixels[:, 20:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"imagej": True, "metadata": {"axes": "ZCYX"}}, "2 channels x 5 slices"),
        ({"imagej": True, "metadata": {"axes": "TZYX"}}, "2 times x 5 slices"),
        ({"ome": True, "metadata": {"axes": "CZYX"}}, "2 channels x 5 slices"),
        ({"ome": True, "metadata": {"axes": "TZYX"}}, "2 times x 5 slices"),
        ({}, "2 x 5"),
        ({"metadata": {"axes": "CZYX"}}, "2 channels x 5 slices"),
    ],
)
def test_pages_of_several_channels_or_times_are_no_scan(refused, tmp_path, pixels, options, said):
    samples = np.stack([pixels, 255 - pixels]).astype(np.uint16)
    if options.get("metadata", {}).get("axes") == "ZCYX":
        samples = samples.swapaxes(0, 1)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", **options)
    assert f"its pages are {said}, expected the slices of one scan" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{"ome": True, "metadata": {"axes": "ZYX"}}, {"metadata": {"axes": "ZYX"}}])
def test_pages_that_say_they_are_slices(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    assert np.array_equal(open_study(tmp_path / "a.tif").read().slices, pixels)


def test_a_single_picture_is_no_study(tmp_path, pixels):
    Image.fromarray(pixels[0]).save(tmp_path / "a.tif")
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    assert not is_study(tmp_path / "a.tif") and not is_study(tmp_path / "a.png")
    assert not is_study(tmp_path / "missing.png") and not is_study(tmp_path)
    assert len(open_study(tmp_path / "a.png").read()) == 1


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_study_with_what_lies_about_in_it(tmp_path, pixels, packed):
    folder = write_series(tmp_path / PATIENT / "deeper", series(pixels)).parent
    (folder / "DICOMDIR").write_bytes(data(other("1.2.840.10008.1.3.10", "")))
    (folder / "report").write_bytes(data(other(STORAGE + "88.11", "SR")))
    (folder / "readme.txt").write_text(PATIENT)
    Image.fromarray(pixels[0]).save(folder / "preview.jpg")
    (folder / ".DS_Store").write_bytes(b"junk")
    source = folder
    if packed:
        shutil.make_archive(str(tmp_path / "study"), "zip", folder)
        source = tmp_path / "study.zip"
    study = open_study(source)
    assert len(study.scans) == 1 and np.array_equal(study.read().slices, pixels)
    assert sorted(study.notes[0].removeprefix("Left out: ").rstrip(".").split("; ")) == [
        "1 file: a DICOMDIR, a table of contents without pictures",
        "1 file: a single picture",
        "1 file: a structured report",
        "1 file: hidden",
        "1 file: no file that can be read",
    ]
    assert not [secret for secret in SECRETS if secret in repr(study).replace(str(folder), "")]


def test_a_zip_of_volumes_leaves_the_masks_out(tmp_path, pixels):
    array = pixels.transpose(2, 1, 0)
    members = {f"case/{PATIENT}_{kind}.nii.gz": nifti(array) for kind in ("t1", "t1ce", "flair")}
    members[f"case/{PATIENT}_seg.nii.gz"] = nifti((array > 90).astype(np.uint8))
    study = open_study(write_zip(tmp_path / "case.zip", members))
    assert [scan.label for scan in study.scans] == [
        "NIfTI, file 1 of 3, FLAIR",
        "NIfTI, file 2 of 3, T1",
        "NIfTI, file 3 of 3, T1CE",
    ]
    assert study.default == 0 and len(study.read(2)) == 5
    assert study.notes == ("Left out: 1 file: a file named as a mask.",)


def test_a_name_of_endless_digits(tmp_path, pixels):
    """Python refuses to make a number of more than 4,300."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "PNG")
    names = (f"{'1' * 5000}.png", "2.png", "10.png")
    study = open_study(write_zip(tmp_path / "long.zip", dict.fromkeys(names, buffer.getvalue())))
    assert len(study.read()) == 3
    assert sorted(names, key=intake.natural)[:2] == ["2.png", "10.png"]


def test_a_zip_of_pictures_leaves_masks_and_overlays_out(tmp_path, pixels):
    def png(picture: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()

    members = {f"{i}{kind}.png": png(picture) for kind in ("", "_overlay", "_mask") for i, picture in enumerate(pixels)}
    study = open_study(write_zip(tmp_path / "all.zip", members))
    assert len(study.read()) == len(pixels)
    many = f"{len(pixels)} files"
    assert study.notes == (f"Left out: {many}: a file named as a mask; {many}: a file named as an overlay.",)
    masks = {name: content for name, content in members.items() if "_mask" in name}
    with pytest.raises(BthubError, match=f"this holds no scan, but {many}: a file named as a mask"):
        open_study(write_zip(tmp_path / "masks.zip", masks))


def test_a_folder_of_pictures_in_their_order(tmp_path, kaggle):
    source = kaggle / "TCGA_CS_6188_20010812"
    study = open_study(source)
    assert np.array_equal(study.read().slices[..., 1], slices(kaggle))
    assert study.scans[0].label == "5 pictures in the order of their names"
    with pytest.raises(BthubError, match="no plane can be chosen"):
        study.read(plane="axial")


# -- what is refused


@pytest.mark.parametrize(
    ("kind", "modality", "said"),
    [
        ("1.2.840.10008.1.3.10", "", "is a DICOMDIR"),
        (STORAGE + "88.11", "SR", "is a structured report"),
        (STORAGE + "88.33", "SR", "is a structured report"),
        (STORAGE + "11.1", "PR", "is a presentation state"),
        (STORAGE + "66.4", "SEG", "is a segmentation, a mask and not a scan"),
        (STORAGE + "104.1", "DOC", "is a document"),
        (STORAGE + "2", "CT", "is a CT scan"),
        (STORAGE + "4", "MR", "is a DICOM file without a picture"),
    ],
)
def test_files_that_are_no_scan(refused, kind, modality, said):
    text = refused(data(other(kind, modality)))
    assert said in text and text.endswith("expected slices of an MR scan")


def test_a_color_ultrasound(refused, pixels):
    file = other(STORAGE + "6.1", "US")
    set_pixels(file, pixels[0])
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
    file.PixelData = np.repeat(pixels[0][..., None], 3, axis=2).tobytes()
    assert "is an ultrasound picture" in refused(data(file))
    file.Modality, file.SOPClassUID = "OT", STORAGE + "7"
    assert "is a picture in color" in refused(data(file))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file(refused, one, share):
    text = refused(one[: int(len(one) * share)])
    assert "truncated" in text or "isn't a DICOM file" in text or "without a picture" in text


def test_a_truncated_file_in_a_series_is_not_passed_over(refused, tmp_path, pixels):
    folder = write_series(tmp_path / "s", series(pixels))
    content = (folder / "IM0002").read_bytes()
    (folder / "IM0002").write_bytes(content[:-500])
    assert refused(folder).endswith("s, file 3: the DICOM file is truncated or damaged")


def test_a_file_without_a_study_belongs_to_the_others(tmp_path, pixels):
    files = series(pixels)
    del files[2].StudyInstanceUID
    assert len(open_study(write_series(tmp_path / "s", files)).read()) == 5


@pytest.mark.parametrize("name", ["scan.dcm", "scan.nii.gz", "scan.nii", "study.zip", "SCAN.DCM"])
@pytest.mark.parametrize("content", [b"plain text " * 99, b"\x89PNG\r\n\x1a\n" + bytes(999)], ids=["text", "picture"])
def test_a_wrong_file_with_the_right_name(refused, name, content):
    assert re.search("isn't a (DICOM file|NIfTI file|zip), although its name says so", refused(content, name))


def test_a_scan_with_the_name_of_a_picture(refused, one):
    assert "isn't a picture, although its name says so" in refused(one, "scan.png")


def test_a_right_file_with_the_wrong_name(refused, one, pixels):
    assert "isn't a NIfTI file" in refused(one, "scan.nii.gz")
    assert "isn't a DICOM file" in refused(nifti(pixels.transpose(2, 1, 0)), "scan.dcm")


def test_files_of_no_kind(refused, tmp_path):
    assert "the file is empty" in refused(b"")
    assert "isn't a file that can be read, expected DICOM, NIfTI" in refused(b"%PDF-1.7 ...", "report.pdf")
    for magic, kind in ((b"Rar!\x1a\x07", "RAR"), (b"7z\xbc\xaf\x27\x1c", "7z")):
        assert f"is a {kind} archive, which isn't read; pack the study as a zip" in refused(magic + bytes(99), "study")
    assert "no such file" in refused(tmp_path / "missing.dcm")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_zips_that_hold_nothing(refused):
    assert "the zip is empty" in refused(packed({}), "a.zip")
    assert "the zip is empty" in refused(packed({"folder/": b"", "__MACOSX/._a": b"x", ".DS_Store": b"x"}), "a.zip")
    assert "none of its 2 files can be read" in refused(packed({f"{PATIENT}.txt": b"x", "b.txt": b"y"}), "a.zip")
    report = data(other(STORAGE + "88.11", "SR"))
    text = refused(packed({f"{PATIENT}/1": report, f"{PATIENT}/2": report, "b.txt": b"x"}), "a.zip")
    assert "holds no scan, but 2 files: a structured report; expected slices" in text


def test_an_entry_without_a_name(refused, one, tmp_path):
    """Python's own reader takes names for granted; likewise in `data build` and `bthub screen`."""
    from bthub.data.archive import Source
    from bthub.inference.screen_inputs import walk

    content = bytearray(packed({"a.dcm": one, "b": b"x"}))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 28 : entry + 32] = bytes([0, 0, 1, 0])  # its name has no letter; the one it had is more metadata
    content = bytes(content)
    assert "the zip is truncated or damaged" in refused(content, "a.zip")
    (tmp_path / "nameless.zip").write_bytes(content)
    with pytest.raises(BthubError, match="neither a folder nor a readable zip"):
        Source(tmp_path / "nameless.zip")
    (item,) = walk([str(tmp_path / "nameless.zip")])
    with pytest.raises(BthubError, match="the zip is damaged"):
        item.content()


def test_a_zip_in_a_zip(refused, one):
    inner = packed({"a.dcm": one})
    assert "holds another zip, which isn't opened" in refused(packed({"a.dcm": one, "b.zip": inner}), "a.zip")
    assert "holds another zip" in refused(packed({"b": inner}), "a.zip")


@pytest.mark.parametrize("name", ["../a.dcm", "x/../../a.dcm", "/etc/a.dcm", "C:\\a.dcm", "..\\a.dcm", "\\\\host\\a"])
def test_a_path_that_climbs_out(refused, one, name):
    assert "a path in the zip leads out of it" in refused(packed({"ok.dcm": one, name: one}), "a.zip")


def test_a_link_in_a_zip(refused):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("scan.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "leads out of it" in refused(buffer.getvalue(), "a.zip")


def test_a_zip_that_unpacks_to_too_much(refused, monkeypatch):
    bomb = packed({f"{index}.dcm": bytes(20 * 2**20) for index in range(2)})
    assert re.search(r"unpacks from 0\.0 MB to 40 MB, which is too much", refused(bomb, "a.zip"))
    monkeypatch.setattr(intake, "MAX_FILES", 3)
    assert "more than 3 files" in refused(packed({f"{index}": b"x" for index in range(4)}), "a.zip")


def test_a_zip_whose_sizes_lie(refused, one):
    content = bytearray(packed({"a.dcm": one}))
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")  # says that it unpacks to 100 bytes
    text = refused(bytes(content), "a.zip")
    assert "truncated or damaged" in text or "isn't a DICOM file" in text


def test_a_truncated_or_locked_zip(refused, one):
    content = packed({f"{PATIENT}.dcm": one})
    assert "the zip is truncated or damaged" in refused(content[: len(content) // 2], "a.zip")
    damaged = bytearray(content)
    damaged[2000] ^= 0xFF
    assert "damaged" in refused(bytes(damaged), "a.zip")
    locked = bytearray(content)
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    assert "locked with a password" in refused(bytes(locked), "a.zip")


def test_limits_hold_before_anything_is_decoded(refused, pixels, monkeypatch):
    def never(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.as_array", never)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.iter_array", never)
    file = series(pixels[:1])[0]
    file.Rows = file.Columns = 60000
    assert "too large, 1 x 60000 x 60000 voxels" in refused(data(file))
    file.Rows = file.Columns = 256
    file.NumberOfFrames = 100_000
    assert "too large" in refused(data(file))
    file.NumberOfFrames = 1500
    assert "1,500 slices are too many, at most 1,024" in refused(data(file))
    file.NumberOfFrames = 1
    file.Rows = 4
    assert "256 x 4 pixels are too small" in refused(data(file))
    monkeypatch.setattr(intake, "MAX_STUDY_BYTES", 1000)
    assert "the file is too large" in refused(data(file))


def test_folders_with_links(refused, tmp_path, pixels):
    files = sorted(write_series(tmp_path / "scan", series(pixels)).iterdir())
    far = tmp_path / "far"
    far.mkdir()
    for file in files[3:]:
        file.rename(far / file.name)
    (tmp_path / "scan" / "rest").symlink_to("../far")
    (tmp_path / "scan" / "nowhere.dcm").symlink_to("missing.dcm")
    (tmp_path / "scan" / "again.dcm").symlink_to(files[0].name)
    (tmp_path / "scan" / ".DS_Store").write_bytes(b"x")
    study = open_study(tmp_path / "scan")
    assert len(study.read()) == len(pixels)
    assert study.notes == (
        "Left out: 1 file: hidden; 1 file: a link to a file already included; 1 file: a link that leads nowhere.",
    )
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to("../scan")
    assert len(open_study(tmp_path / "links").read()) == len(pixels)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.dcm").symlink_to("missing.dcm")
    assert "empty but for 1 file: a link that leads nowhere" in refused(tmp_path / "none")


def test_tiffs_that_are_no_stack(refused, tmp_path, pixels):
    pages = [Image.fromarray(page) for page in pixels]
    pages[1] = pages[1].resize((100, 100))
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "its pages differ in size" in refused(tmp_path / "a.tif")
    Image.fromarray(pixels[0]).save(
        tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(page) for page in pixels[1:]]
    )
    content = (tmp_path / "b.tif").read_bytes()
    text = refused(content[: len(content) * 2 // 3], "b.tif")
    assert "truncated or damaged" in text
    tifffile.imwrite(tmp_path / "c.tif", (pixels > 90).astype(np.uint8) * 255, photometric="minisblack")
    assert "is a mask and not a scan" in refused(tmp_path / "c.tif")


def test_a_tiff_whose_pages_never_end(refused, tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels[:2], photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        first, second = (page.offset for page in tiff.pages)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = second + 2 + 12 * int.from_bytes(content[second : second + 2], "little")
    content[at : at + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    assert "truncated or damaged" in refused(tmp_path / "a.tif")


def test_a_tiff_cut_off_anywhere_is_never_read_in_part(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    content = (tmp_path / "a.tif").read_bytes()
    for end in range(70_000, len(content), 9970):
        with pytest.raises(BthubError, match="truncated or damaged"):
            read_tiff(content[:end], "a.tif")


def test_pictures_of_different_sizes(refused, tmp_path, pixels):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "1.png")
    Image.fromarray(pixels[1]).resize((100, 90)).save(folder / "2.png")
    assert "its pictures differ in size" in refused(folder)


def test_no_name_leaves_a_good_file(tmp_path, pixels, temporary, capfd, caplog):
    caplog.set_level("DEBUG")
    study = open_study(write_series(tmp_path / "s", series(pixels)))
    found = study.read()
    said = repr(study) + repr(found) + repr(vars(found)) + "".join(capfd.readouterr()) + caplog.text
    said += repr([cell.cell_contents for cell in study.scans[0].read.__closure__])
    assert not [secret for secret in SECRETS if secret in said]
    assert list(temporary.iterdir()) == []
