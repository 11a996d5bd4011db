"""The Kaggle "LGG MRI Segmentation" tree (or its zip) as rows of a dataset.

The tree holds one folder per patient, ``TCGA_CS_4941_19960909``, with for each slice an RGB TIFF
``TCGA_CS_4941_19960909_7.tif`` (pre-contrast, FLAIR, post-contrast) and its mask ``..._7_mask.tif``.
"""

import io
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageChops
from PIL.TiffImagePlugin import BITSPERSAMPLE

from bthub.data.archive import Source, pick_root
from bthub.errors import BthubError
from bthub.imaging.checks import without_warnings
from bthub.imaging.tiff import read_directory, silence_libtiff

LABELS = ["no_tumor", "tumor"]
FEATURES = Features(
    {
        "image": ImageFeature(),
        "mask": ImageFeature(),
        "label": ClassLabel(names=LABELS),
        "patient_id": Value("string"),
        "institution": Value("string"),
        "slice_index": Value("int32"),
        "slice_count": Value("int32"),
        "tumor_pixels": Value("int32"),
    }
)
# What the published set holds, to say how much of it a download has.
FULL_SET = {"patients": 110, "slices": 3929, "tumor slices": 1373}
# The channels that hold a copy of FLAIR where a patient's sequence is missing.
FILLED = ("pre-contrast", "post-contrast")

_PATIENT = re.compile(r"TCGA_[A-Z0-9]{2}_[A-Z0-9]{4}_\d{8}")
_FILE = re.compile(rf"(?P<patient>{_PATIENT.pattern})_(?P<index>[1-9]\d{{0,3}})(?P<mask>_mask)?")
_TIFF = (".tif", ".tiff")
_MAX_SIDE = 4096
# Level 4 is twice as fast as Pillow's default 6 here and the files come out no larger.
_PNG_LEVEL = 4


@dataclass(frozen=True)
class Slice:
    """One slice of a patient: its number and where its two files are in the source."""

    patient_id: str
    index: int
    count: int
    image: str
    mask: str

    @property
    def institution(self) -> str:
        """The TCGA code of the submitting institution, e.g. "CS"."""
        return self.patient_id.split("_")[1]


@dataclass(frozen=True)
class ReadSlice:
    """A slice that passed all checks.

    Attributes:
        row: as FEATURES stores it; image: PNG of uint8 RGB (H, W, 3), mask: PNG of uint8 (H, W), 0 or 255.
        size: width and height in pixels.
        filled: for each of FILLED whether it is a copy of FLAIR here.
    """

    row: dict[str, Any]
    size: tuple[int, int]
    filled: dict[str, bool]


def is_lgg(source: Source) -> bool:
    """Whether a source is meant to be the Kaggle tree, sound or not, by the names in it."""
    paths = [PurePosixPath(source.path.resolve().name), *map(PurePosixPath, source.names)]
    return any(
        part == "kaggle_3m" or _PATIENT.match(part) or part.lower().endswith(("_mask.tif", "_mask.tiff"))
        for path in paths
        for part in path.parts
    )


def find_slices(source: Source) -> list[Slice]:
    """All slices of a source, sorted by patient and number. Nothing is read yet, only names are checked.

    Raises:
        BthubError: there is none, a name does not parse or stands in another patient's folder, a mask has no
            image or an image no mask, a slice is there twice, or a patient's numbers have a gap.
    """
    roots: dict[str, list[str]] = defaultdict(list)
    parsed: dict[str, tuple[str, int, str]] = {}
    for name in source.names:
        path = PurePosixPath(name)
        if path.suffix.lower() in _TIFF:
            parsed[name] = _parse(source, path)
            roots[str(path.parent.parent)].append(name)
        else:
            source.left_out.setdefault("files not named as TIFF", []).append(name)
    if not roots:
        raise BthubError(
            f"{source.path}: named like LGG MRI Segmentation (kaggle_3m, TCGA_... or _mask.tif), but no TIFF found; "
            "give its folder kaggle_3m as downloaded, or its zip; if this is an image-folder set, rename these files"
        )

    found: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in roots[pick_root(source, roots, "patients")]:
        patient, index, kind = parsed[name]
        pair = found[patient][index]
        if kind in pair:
            raise BthubError(
                f"{source.where(name)}: the same {kind} as {source.where(pair[kind])}; remove one of the two"
            )
        pair[kind] = name

    slices = []
    for patient, by_index in sorted(found.items()):
        previous = None
        for index, pair in sorted(by_index.items()):
            if "image" not in pair:
                raise BthubError(
                    f"{source.where(pair['mask'])}: a mask without its image; restore the image "
                    f"{patient}_{index}.tif or remove the mask"
                )
            if "mask" not in pair:
                raise BthubError(
                    f"{source.where(pair['image'])}: an image without its mask; restore the mask "
                    f"{patient}_{index}_mask.tif or remove the image"
                )
            if previous is not None and index != previous + 1:
                folder = PurePosixPath(pair["image"]).parent
                raise BthubError(
                    f"{source.where(str(folder))}: no slice {previous + 1} between {previous} and {index}; "
                    f"restore {patient}_{previous + 1}.tif and its mask"
                )
            previous = index
            slices.append(Slice(patient, index, len(by_index), pair["image"], pair["mask"]))
    return slices


def _parse(source: Source, path: PurePosixPath) -> tuple[str, int, str]:
    """Patient, slice number and "image" or "mask" from a file's name, which must agree with its folder."""
    where = source.where(str(path))
    match = _FILE.fullmatch(path.stem)
    if match is None:
        raise BthubError(
            f"{where}: the name does not parse, expected PATIENT_NUMBER.tif or PATIENT_NUMBER_mask.tif "
            "such as TCGA_CS_4941_19960909_7.tif; rename the file as in the original set"
        )
    folder = path.parent.name or source.path.resolve().name
    if folder != match["patient"]:
        raise BthubError(
            f"{where}: a file of patient {match['patient']} in the folder {folder!r}; "
            f"move it to a folder named {match['patient']}"
        )
    return match["patient"], int(match["index"]), "mask" if match["mask"] else "image"


def _open_tiff(source: Source, name: str, mode: str, what: str) -> Image.Image:
    where = source.where(name)
    data = source.read(name)
    try:
        directory = read_directory(data)
        silence_libtiff()
        with without_warnings():
            picture = Image.open(io.BytesIO(directory.pillow), formats=["TIFF"])
            size, pages = picture.size, "several" if directory.several else "1"
            # Of 16 bits Pillow would keep the high eight and say nothing. The tag's default is 1.
            bits = set(directory.numbers(BITSPERSAMPLE, (1,)))
            if max(size) <= _MAX_SIDE:
                picture.load()
    except Exception as error:
        # Pillow raises anything from SyntaxError to struct.error on damaged files, so no narrower net holds.
        raise BthubError(f"{where}: truncated or damaged, not a readable TIFF ({error}); download it again") from error
    if max(size) > _MAX_SIDE:
        raise BthubError(f"{where}: {size[0]}x{size[1]} pixels, expected 256x256; download it again")
    if picture.mode != mode or bits != {8} or pages != "1":
        raise BthubError(
            f"{where}: mode {picture.mode}, {'/'.join(map(str, sorted(bits)))} bits, {pages} page(s), "
            f"expected {mode} ({what}), 8 bits, 1 page; restore the original file"
        )
    return picture


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # A copy without the TIFF's tags, so that the PNG holds pixels only and is the same for the same pixels.
    clean = Image.frombytes(picture.mode, picture.size, picture.tobytes())
    clean.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def read_slice(source: Source, entry: Slice) -> ReadSlice:
    """Reads, checks and encodes one slice.

    Raises:
        BthubError: a file is damaged, has a wrong mode, or the mask is not binary or of another size.
    """
    image = _open_tiff(source, entry.image, "RGB", "color")
    mask = _open_tiff(source, entry.mask, "L", "gray")
    where = source.where(entry.mask)
    if mask.size != image.size:
        raise BthubError(
            f"{where}: the mask has {mask.width}x{mask.height} pixels, "
            f"its image {image.width}x{image.height}; restore the original mask"
        )
    histogram = mask.histogram()
    other = [value for value in range(1, 255) if histogram[value]]
    if other:
        raise BthubError(
            f"{where}: the mask is not binary, expected only 0 and 255 but found {other[:5]}; restore the original mask"
        )
    tumor_pixels = histogram[255]
    pre, flair, post = image.split()
    file = f"{entry.patient_id}_{entry.index}"
    row = {
        "image": {"bytes": _png(image), "path": f"{file}.png"},
        "mask": {"bytes": _png(mask), "path": f"{file}_mask.png"},
        "label": int(tumor_pixels > 0),
        "patient_id": entry.patient_id,
        "institution": entry.institution,
        "slice_index": entry.index,
        "slice_count": entry.count,
        "tumor_pixels": tumor_pixels,
    }
    same = [ImageChops.difference(channel, flair).getbbox() is None for channel in (pre, post)]
    return ReadSlice(row, image.size, dict(zip(FILLED, same, strict=True)))
