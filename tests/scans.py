"""Scans built by code from the slices in tests/data: DICOM series, NIfTI volumes and what isn't a scan."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT, PATIENT_ID, BIRTHDAY = "MUSTERMANN^ERIKA", "ID-4711-0815", "19640812"
"""Who must not be found anywhere."""

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_A, _B = np.cos(np.radians(17)), np.sin(np.radians(17))
_C, _D = np.cos(np.radians(9)), np.sin(np.radians(9))
OBLIQUE = (_A, _B * _D, -_B * _C, 0.0, _C, _D)  # axial, turned about two axes


def slices(kaggle: Path, patient: str = "TCGA_CS_6188_20010812", channel: int = 1) -> np.ndarray:
    """The FLAIR channel of a patient's slices in their order: uint8 (n, 256, 256)."""
    files = [file for file in (kaggle / patient).glob("*.tif") if not file.stem.endswith("_mask")]
    files.sort(key=lambda file: int(file.stem.rpartition("_")[2]))
    return np.stack([np.asarray(Image.open(file))[..., channel] for file in files])


def series(
    pixels: np.ndarray,
    *,
    orientation: tuple[float, ...] | None = AXIAL,
    spacing: tuple[float, float] = (0.9, 0.9),
    gap: float = 5.0,
    origin: tuple[float, float, float] = (-110.0, -120.0, -40.0),
    uid: str | None = None,
    study: str | None = None,
    **tags: object,
) -> list[Dataset]:
    """Single-frame MR files of the slices (n, h, w), in their order along the normal; 16 bits, no window."""
    uid, study = uid or generate_uid(), study or "1.2.3.4"
    files = []
    for index, picture in enumerate(pixels.astype(np.uint16)):
        file = _file(MRImageStorage, "MR", uid, study)
        file.InstanceNumber, file.SeriesNumber = index + 1, 4
        file.PixelSpacing = list(spacing)
        if orientation is not None:
            normal = np.cross(orientation[:3], orientation[3:])
            file.ImageOrientationPatient = [round(v, 9) for v in orientation]
            file.ImagePositionPatient = [round(float(v), 6) for v in np.array(origin) + index * gap * normal]
        set_pixels(file, picture)
        for keyword, value in tags.items():
            setattr(file, keyword, value)
        files.append(file)
    return files


def set_pixels(file: Dataset, pixels: np.ndarray) -> None:
    """Put uint8 or uint16 pixels (h, w) or (frames, h, w) into a file, uncompressed."""
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    file["PixelData"].VR = "OB" if bits == 8 else "OW"


def _file(kind: str, modality: str, uid: str, study: str) -> Dataset:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = kind
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = study, uid, modality
    file.PatientName, file.PatientID, file.PatientBirthDate = PATIENT, PATIENT_ID, BIRTHDAY
    file.ReferringPhysicianName = file.InstitutionName = PATIENT
    file.StudyDescription = f"head of {PATIENT}"
    file.SeriesDescription = f"ax FLAIR {PATIENT} {PATIENT_ID}"
    return file


def other(kind: str, modality: str) -> Dataset:
    """A file of another class, without pixels."""
    return _file(kind, modality, generate_uid(), "1.2.3.4")


def enhanced(pixels: np.ndarray, gap: float = 5.0) -> Dataset:
    """One enhanced MR file with a frame a slice; the frames lie in the file in reverse."""
    file = _file("1.2.840.10008.5.1.4.1.1.4.1", "MR", generate_uid(), "1.2.3.4")
    set_pixels(file, pixels[::-1].astype(np.uint16))
    shared, frames = Dataset(), []
    measures, plane, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices = [0.8, 0.8], gap
    plane.ImageOrientationPatient = list(AXIAL)
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2.0, 10.0, "US"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    for index in reversed(range(len(pixels))):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [-100.0, -110.0, -30.0 + index * gap]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    file.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return file


def data(file: Dataset) -> bytes:
    """A DICOM file's bytes."""
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_series(folder: Path, files: Iterable[Dataset], shuffle: bool = True) -> Path:
    """Write files into a folder, under names that say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = list(files)
    order = np.random.default_rng(0).permutation(len(files)) if shuffle else range(len(files))
    for name, index in enumerate(order):
        (folder / f"IM{name:04d}").write_bytes(data(files[index]))
    return folder


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def nifti(array: np.ndarray, affine: np.ndarray | None = None, **header: object) -> bytes:
    """A .nii.gz's bytes; without an affine, of voxels of 0.9 x 0.9 x 5 mm along R, A, S."""
    image = nibabel.Nifti1Image(array, np.diag((0.9, 0.9, 5.0, 1.0)) if affine is None else affine)
    image.header["descrip"] = f"{PATIENT} {PATIENT_ID}"[:79]
    for key, value in header.items():
        image.header[key] = value
    buffer = io.BytesIO()
    image.to_stream(buffer)
    import gzip

    return gzip.compress(buffer.getvalue())
