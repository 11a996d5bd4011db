"""DICOM series: order, gray levels, transfer syntaxes, geometry, and that nobody's name comes in."""

import gzip
import warnings

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.pixels import apply_windowing
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless
from scans import CORONAL, OBLIQUE, SAGITTAL, data, enhanced, series, set_pixels, slices, write_series

from bthub.errors import BthubError
from bthub.imaging.intake import open_study
from bthub.imaging.nifti import mask_nifti
from bthub.imaging.volume import Volume


@pytest.fixture(scope="module")
def pixels(kaggle) -> np.ndarray:
    """Five real slices, uint8 (5, 256, 256)."""
    return slices(kaggle)


@pytest.fixture
def read(tmp_path):
    def read(files: list[Dataset], **options: object) -> Volume:
        return open_study(write_series(tmp_path / "series", files)).read(**options)

    return read


def decoded(volume: Volume) -> np.ndarray:
    return volume.slices.astype(int)


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1.0, 0), CORONAL, SAGITTAL, OBLIQUE], ids=str)
def test_a_series_is_sorted_by_place_whatever_its_files_are_called(read, pixels, orientation):
    files = series(pixels, orientation=orientation)
    for file in files:
        file.InstanceNumber = 9 - file.InstanceNumber  # numbers that run against the places
    volume = read(files)
    assert np.array_equal(volume.slices, pixels)
    assert volume.pixel_mm == pytest.approx((0.9, 0.9)) and volume.slice_mm == pytest.approx(5)
    assert volume.kind == "DICOM" and volume.notes == ()


@pytest.mark.parametrize(("orientation", "plane"), [(CORONAL, "coronal"), (SAGITTAL, "sagittal"), (OBLIQUE, "axial")])
def test_planes_are_named(read, pixels, orientation, plane):
    assert read(series(pixels, orientation=orientation)).plane == plane


def test_slices_stored_upside_down_are_shown_upright(read, pixels):
    # Columns run to the patient's right and rows to the front: both against what is shown.
    files = series(pixels[:, ::-1, ::-1], orientation=(-1.0, 0, 0, 0, -1.0, 0))
    assert np.array_equal(read(files).slices, pixels)


def test_without_places_the_numbers_decide(read, pixels):
    files = series(pixels, orientation=None)
    volume = read(files)
    assert np.array_equal(volume.slices, pixels)
    assert volume.slice_mm is None and volume.plane is None and volume.grid is None
    assert "sorted by their numbers" in volume.notes[0]
    with pytest.raises(BthubError, match="no position or orientation for its slices"):
        mask_nifti(volume, np.zeros(pixels.shape, bool))


def test_a_missing_slice_is_said_and_gives_no_volume(read, pixels):
    files = series(pixels)
    del files[2]
    volume = read(files)
    assert len(volume) == 4 and volume.slice_mm is None and volume.grid is None
    assert volume.pixel_mm == pytest.approx((0.9, 0.9))
    assert "missing or not evenly spaced" in volume.notes[0]


def test_a_file_that_is_there_twice_counts_once(read, pixels):
    files = series(pixels)
    assert len(read([*files, files[1], files[3]])) == 5


@pytest.mark.parametrize("lacking", [(), ("ImagePositionPatient",), ("ImagePositionPatient", "InstanceNumber")])
def test_files_with_one_identifier_are_all_there(read, pixels, lacking):
    """Some anonymizers write the same into all; a copy is still a copy."""
    files = series(pixels, SOPInstanceUID="1.2.3")
    for file in files:
        for keyword in lacking:
            delattr(file, keyword)
    assert sorted(one.sum() for one in read([*files, files[1]]).slices) == sorted(one.sum() for one in pixels)


@pytest.mark.parametrize("instance", ["1.2.3", ""])
def test_two_series_of_one_place_are_both_there(tmp_path, pixels, instance):
    """Two sequences of one head have the same positions and numbers; and so have two echoes of one series."""
    files = series(pixels, uid="1.2.7") + series(255 - pixels, uid="1.2.8")
    echoes = series(pixels, uid="1.2.9", EchoTime=20) + series(pixels // 2, uid="1.2.9", EchoTime=90)
    for file in (*files, *echoes):
        file.SOPInstanceUID = instance
    study = open_study(write_series(tmp_path / "s", [*files, *echoes]))
    assert [len(study.read(scan)) for scan in range(len(study.scans))] == [5, 5, 5, 5]


def test_frames_that_share_one_place_are_one_stack(read, pixels):
    """A file with several frames and one position: that of the first."""
    (file,) = series(pixels[:1])
    set_pixels(file, pixels.astype(np.uint16))
    volume = read([file])
    assert np.array_equal(volume.slices, pixels) and volume.slice_mm is None


# -- gray levels


def test_without_a_window_deep_pixels_go_from_the_percentiles(read, pixels):
    deep = pixels.astype(np.uint16) * 13 + 40
    volume = read(series(deep))
    low, high = np.percentile(deep, (0.1, 99.9))
    expected = np.clip((deep - low) / (high - low), 0, 1) * 255
    assert np.abs(decoded(volume) - expected).max() <= 1


def test_rescaling_then_window_then_inversion(read, pixels):
    deep = pixels.astype(np.uint16) * 13
    tags = {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "2000", "WindowWidth": "3000"}
    expected = np.clip((deep * 2.0 - 100 - 1999.5) / 2999 + 0.5, 0, 1) * 255
    assert np.abs(decoded(read(series(deep, **tags))) - expected).max() <= 1


def test_monochrome1_is_inverted(read, pixels, tmp_path):
    files = series(255 - pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter="127.5", WindowWidth="255")
    for file in files:
        file.VOILUTFunction = "LINEAR_EXACT"
    assert np.abs(decoded(read(files)) - pixels).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(read, pixels, function):
    files = series(pixels.astype(np.uint16) * 4, WindowCenter="300", WindowWidth="400", VOILUTFunction=function)
    expected = np.stack([apply_windowing(file.pixel_array, file) for file in files]) / 65535 * 255
    assert np.abs(decoded(read(files)) - expected).max() <= 1


def test_one_window_holds_for_the_whole_series(read, pixels):
    deep = pixels.astype(np.uint16) * 10
    files = series(deep)
    for file, width in zip(files, (1000, 2000, 1800, 1900, 30000), strict=True):
        file.WindowCenter, file.WindowWidth = width / 2, width
    volume = read(files)
    expected = np.clip((deep - 949.5) / 1899 + 0.5, 0, 1) * 255  # the medians: 950 and 1900
    assert np.abs(decoded(volume) - expected).max() <= 1


def test_a_window_that_shows_nothing_is_not_used(read, pixels):
    volume = read(series(pixels.astype(np.uint16) * 10, WindowCenter="60000", WindowWidth="10"))
    assert volume.slices.std() > 20


@pytest.mark.parametrize(("center", "width"), [(900, 300), (300, 2000)])
def test_a_window_in_which_most_is_white_is_not_used(read, pixels, center, width):
    """The head would be a white area, and what is in it lost."""
    deep = pixels.astype(np.uint16) * 40 + 1200 * (pixels > 20)
    volume = read(series(deep, WindowCenter=str(center), WindowWidth=str(width)))
    assert np.array_equal(volume.slices, read(series(deep)).slices)
    assert "hardly shows its values" in volume.notes[0]


@pytest.mark.parametrize("width", [8192, 65535, 1e12])
def test_a_window_far_wider_than_the_values_is_not_used(read, pixels, width):
    """Through it a tumor would be a gray among grays."""
    deep = pixels.astype(np.uint16) * 5
    volume = read(series(deep, WindowCenter=str(width / 2), WindowWidth=str(width)))
    assert np.array_equal(volume.slices, read(series(deep)).slices)
    assert volume.notes == ("The file's window hardly shows its values, so brightness is set from the values instead.",)


@pytest.mark.parametrize("windowed", [True, False])
def test_each_slice_is_inverted_where_its_file_says_so(read, pixels, windowed):
    files = series(pixels)
    for file in files[1::2]:
        file.PixelData = (255 - pixels[files.index(file)]).astype(np.uint16).tobytes()
        file.PhotometricInterpretation = "MONOCHROME1"
    for file in files if windowed else []:
        file.WindowCenter, file.WindowWidth, file.VOILUTFunction = "127.5", "255", "LINEAR_EXACT"
    assert np.abs(decoded(read(files)) - pixels).max() <= 1


def test_tables_of_the_modality_and_of_the_window(read, pixels):
    files = series(pixels)
    table = np.minimum(np.arange(256) * 12, 4095).astype(np.uint16)
    for file in files:
        item = Dataset()
        item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [256, 0, 16], table.tolist(), "US"
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        file.ModalityLUTSequence = Sequence([item])
        file.WindowCenter, file.WindowWidth, file.VOILUTFunction = 1500, 3000, "LINEAR_EXACT"
    expected = np.clip(table[pixels] / 3000, 0, 1) * 255
    assert np.abs(decoded(read(files)) - expected).max() <= 1


def test_a_table_as_window(read, pixels):
    files = series(pixels)
    table = (np.arange(256) ** 2 // 16).astype(np.uint16)  # 12 bits
    for file in files:
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [256, 0, 12], table.tolist()
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        file.VOILUTSequence = Sequence([item])
    assert np.abs(decoded(read(files)) - table[pixels] / 4095 * 255).max() <= 1


def test_padding_is_background(read, pixels):
    deep = pixels.astype(np.uint16) * 4 + 500
    deep[:, :, :40] = 60000
    volume = read(series(deep, PixelPaddingValue=60000))
    assert volume.slices[:, :, :40].max() == 0 and volume.slices.max() == 255
    assert volume.slices.std() > 20


def test_signed_pixels(read, pixels):
    signed = pixels.astype(np.int16) * 8 - 900
    files = series(pixels)
    for file, picture in zip(files, signed, strict=True):
        set_pixels(file, picture)
    low, high = np.percentile(signed, (0.1, 99.9))
    assert np.abs(decoded(read(files)) - np.clip((signed - low) / (high - low), 0, 1) * 255).max() <= 1


# -- transfer syntaxes


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_lossless_compression(read, pixels, syntax):
    files = series(pixels.astype(np.uint16) * 13)
    plain = read(files)
    for file in files:
        file.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(read(files).slices, plain.slices)


def test_damaged_compression_is_one_sentence_and_nothing_on_standard_error(read, pixels, capfd):
    """Past Python, too: where a library in C finds the damage."""
    files = series(pixels[:1])
    files[0].compress(JPEG2000Lossless, generate_instance_uid=False)
    content = bytearray(files[0].PixelData)
    place = content.index(b"\xff\x52")  # the coding style, JPEG 2000's COD marker
    content[place + 4 : place + 12] = b"\xff" * 8
    files[0].PixelData = bytes(content)
    with pytest.raises(BthubError, match="truncated or damaged"):
        read(files)
    assert capfd.readouterr() == ("", "")


def test_lossless_jpeg_and_baseline_through_gdcm(read, pixels):
    gdcm = pytest.importorskip("gdcm")
    files = series(pixels)
    for file, picture in zip(files, pixels, strict=True):
        set_pixels(file, picture)
    for kind, uid, tolerance in (
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, "1.2.840.10008.1.2.4.70", 0),
        (gdcm.TransferSyntax.JPEGBaselineProcess1, "1.2.840.10008.1.2.4.50", 40),
    ):
        packed = []
        for file in files:
            packed.append(_recompressed(gdcm, file, kind))
            assert packed[-1].file_meta.TransferSyntaxUID == UID(uid)
        assert np.abs(decoded(read(packed)) - pixels).max() <= tolerance


def _recompressed(gdcm, file: Dataset, kind: int) -> Dataset:
    import tempfile
    from pathlib import Path

    import pydicom

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        before.write_bytes(data(file))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return pydicom.dcmread(after, defer_size=None)


def test_implicit_and_big_endian_and_without_preamble(read, pixels, tmp_path):
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ImplicitVRLittleEndian

    files = series(pixels)
    for file in files:
        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert np.array_equal(read(files).slices, pixels)
    folder = tmp_path / "bare"
    folder.mkdir()
    for index, file in enumerate(series(pixels)):
        del file.file_meta
        dcmwrite(folder / f"{index}", file, implicit_vr=True, little_endian=True)
    assert np.array_equal(open_study(folder).read().slices, pixels)


def test_a_picture_that_unpacks_to_more_than_its_header_says_is_refused(read, pixels):
    files = series(pixels[:1])
    files[0].compress(JPEG2000Lossless, generate_instance_uid=False)
    files[0].Rows, files[0].Columns = 16, 16
    with pytest.raises(BthubError, match="truncated or damaged"):
        read(files)
    files = series(pixels[:1])
    files[0].compress(RLELossless, generate_instance_uid=False)
    files[0].Rows, files[0].Columns = 64, 64
    with pytest.raises(BthubError, match="truncated or damaged"):
        read(files)


def test_samples_in_the_upper_bits_are_refused(read, pixels):
    """Their lower bits would be taken for them."""
    files = series(pixels.astype(np.uint16) * 16)
    for file in files:
        file.BitsStored, file.HighBit = 12, 15
    with pytest.raises(BthubError, match="its samples lie in the upper bits"):
        read(files)


def test_more_pictures_than_the_header_says_are_refused(read, pixels):
    scan = enhanced(pixels)
    scan.NumberOfFrames -= 1
    (one,) = series(pixels[:1])
    one.PixelData *= 2
    for file in (scan, one):
        with pytest.raises(BthubError, match="holds more pictures than its header says"):
            read([file])
    (padded,) = series(pixels[:1])
    padded.PixelData += bytes(100)
    assert read([padded]).slices.shape == pixels[:1].shape


def test_a_missing_decoder_names_the_extra(read, pixels, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    files = series(pixels)
    for file in files:
        file.compress(JPEGLSLossless, generate_instance_uid=False)
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(BthubError, match=r'JPEG-LS Lossless.* pip install "bthub\[dicom\]"'):
        read(files)


# -- several in one


def test_an_enhanced_file(tmp_path, pixels):
    (tmp_path / "e.dcm").write_bytes(data(enhanced(pixels)))
    volume = open_study(tmp_path / "e.dcm").read()
    deep = pixels * 2.0 + 10
    low, high = np.percentile(deep, (0.1, 99.9))
    assert np.abs(decoded(volume) - np.clip((deep - low) / (high - low), 0, 1) * 255).max() <= 1
    assert volume.pixel_mm == pytest.approx((0.8, 0.8)) and volume.slice_mm == pytest.approx(5)


def test_a_study_lists_its_series_and_takes_the_flair(tmp_path, pixels):
    t1 = series(pixels[:4], SeriesNumber=2, EchoTime=10, RepetitionTime=500, SeriesDescription="T1 post")
    flair = series(pixels[:3], SeriesNumber=3, EchoTime=120, RepetitionTime=9000, InversionTime=2500)
    scout = series(pixels[:1], SeriesNumber=1, uid="9.8.7") + series(
        pixels[:1], SeriesNumber=1, uid="9.8.7", orientation=SAGITTAL
    )
    study = open_study(write_series(tmp_path / "s", [*t1, *flair, *scout]))
    labels = [scan.label for scan in study.scans]
    assert labels[2:] == [
        "DICOM, series 2, T1 POST, axial, 4 slices of 256 x 256, TR/TE/TI 500/10/- ms",
        "DICOM, series 3, AX FLAIR, axial, 3 slices of 256 x 256, TR/TE/TI 9,000/120/2,500 ms",
    ]
    assert [len(study.read(index)) for index in range(4)] == [1, 1, 4, 3]
    assert {"axial", "sagittal"} == {study.read(index).plane for index in (0, 1)}
    assert study.default == 3 and len(study.read()) == 3
    with pytest.raises(BthubError, match="there is no scan 5, choose from 1 to 4"):
        study.read(4)


def test_two_echoes_in_one_series_are_two_stacks(tmp_path, pixels):
    first = series(pixels, uid="1.2.3", EchoTime=20)
    second = series(255 - pixels, uid="1.2.3", EchoTime=90)
    study = open_study(write_series(tmp_path / "s", [x for pair in zip(second, first, strict=True) for x in pair]))
    assert len(study.scans) == 2
    assert np.array_equal(study.read(0).slices, pixels)
    assert np.array_equal(study.read(1).slices, 255 - pixels)


def test_two_studies_are_refused(tmp_path, pixels):
    files = series(pixels[:2], study="1.1") + series(pixels[:2], study="1.2")
    with pytest.raises(BthubError, match="holds 2 studies, give one at a time"):
        open_study(write_series(tmp_path / "s", files))


# -- masks back


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1.0, 0), CORONAL, SAGITTAL, OBLIQUE], ids=str)
def test_masks_lie_in_the_scans_own_grid(read, pixels, orientation):
    origin, gap = (-110.0, -120.0, -40.0), 4.0
    volume = read(series(pixels, orientation=orientation, origin=origin, gap=gap, spacing=(0.8, 0.78)))
    masks = np.random.default_rng(0).random(pixels.shape) > 0.7
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, masks)))
    # The pixel at (row, column) of slice k lies where DICOM says, with x and y to the left and back.
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for k, r, c in ((0, 0, 0), (2, 10, 200), (4, 255, 31)):
        place = np.array(origin) + k * gap * np.cross(row, column) + c * 0.78 * row + r * 0.8 * column
        assert image.affine @ (c, r, k, 1) == pytest.approx((-place[0], -place[1], place[2], 1), abs=1e-3)
        assert image.dataobj[c, r, k] == masks[k, r, c]
    assert np.array_equal(np.asarray(image.dataobj), masks.transpose(2, 1, 0))


def test_a_tilted_gantry_keeps_its_lean(read, pixels):
    files = series(pixels)
    for index, file in enumerate(files):
        x, y, z = file.ImagePositionPatient
        file.ImagePositionPatient = [x, y + index * 1.5, z]
    volume = read(files)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_nifti(volume, np.zeros(pixels.shape, bool))))
    assert image.affine[:3, 2] == pytest.approx((0, -1.5, 5), abs=1e-4)
    assert volume.slice_mm == pytest.approx(5)


def test_no_warning_leaves_the_reader(tmp_path, pixels):
    files = series(pixels)
    for file in files:
        file.PatientBirthDate = "19640812"
        file["PatientBirthDate"]._value = "not a date at all"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_study(write_series(tmp_path / "s", files)).read()
