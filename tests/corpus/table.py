"""docs/pictures.md from the corpus: `python tests/corpus/table.py` writes it."""

from pathlib import Path

from cases import CASES, DAMAGED, NOT

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"

TEXT = """# Pictures that are read

This page says what `bthub.load_pipeline()` and `bthub data build` do with a single picture file. `bthub predict` and
the app read the same pictures, and also scans: DICOM, NIfTI, zips and TIFFs of several pages. See
[Scans](inputs.md) for those.

The content of a picture decides, not its name: a PNG named `.jpg` or `.txt` is read. `predict` and the app make one
exception: a picture named like a scan, such as `.dcm`, `.nii.gz` or `.zip`, is refused.

`python tests/corpus/table.py` writes this page from `tests/corpus/cases.py`, and the tests check every row. Research
software, not a medical device.

In short: PNG, TIFF, JPEG, BMP, WebP and GIF are read if they hold one gray or color picture with sides of 16 pixels or
more, at most 67 million pixels and 64 MB. 8-bit samples are used as they are; deeper ones are windowed from the 0.1th
to the 99.9th percentile. The EXIF orientation is applied, and transparency is put on black. Anything else is refused
with one sentence; the exit code is 2, or 1 if other pictures were read. In a folder, `predict` skips hidden files,
files named `*_mask` or `*_overlay`, and other kinds of files, and says so.

From Python, a picture is a path, an `os.PathLike`, an http or https address, an open binary file (also an upload of
Streamlit or Starlette), `bytes`, a `bytearray` or `memoryview`, a PIL image, or an array of bool, integers or floats.

| file | what happens | in `data build` |
| --- | --- | --- |
"""


def answer(says: str) -> str:
    """What the table says of a case."""
    return "read" if not says else f"refused: {says.removeprefix(NOT).removesuffix('; expected')}"


def page() -> str:
    """The page as it should be."""
    rows = []
    for case in CASES:
        says = "damaged" if case.says == DAMAGED else case.says
        builds = case.says if case.builds is None else case.builds
        rows.append(f"| {case.what} | {answer(says)} | {'same' if builds == case.says else answer(builds)} |")
    return TEXT + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
