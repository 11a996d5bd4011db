"""docs/pictures.md from the corpus: `python tests/corpus/table.py` writes it."""

from pathlib import Path

from cases import CASES, DAMAGED, NOT

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"

TEXT = """# Pictures that are read

What `bthub predict`, `bthub.load_pipeline()`, the app and `bthub data build` do with a file. A file's content
decides, never its name. This page is written by `python tests/corpus/table.py` from the files of
`tests/corpus/cases.py`, and the tests hold each of them to it. Research software, not a medical device.

In short: PNG, TIFF, JPEG, BMP, WebP and GIF of one gray or color picture, each side 16 pixels or more, 67 million
pixels and 64 MB at most. 8 bits are read as they are, deeper samples are windowed from the 0.1th to the 99.9th
percentile. Orientation is applied, alpha is put on black. What can't be read rightly is refused in one sentence, with
exit code 2 or, among others that were read, 1. `predict` leaves out of a folder what is hidden, named `*_mask` or
`*_overlay`, or of another kind, and says so.

A program may hand over a path, an `os.PathLike`, an http or https address, an open file (binary; also an upload of
Streamlit or Starlette), `bytes`, a `bytearray` or `memoryview`, a PIL image, or an array of bool, integers or floats.

| a file | what happens | in `data build` |
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
        rows.append(f"| {case.what} | {answer(says)} | {'as there' if builds == case.says else answer(builds)} |")
    return TEXT + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
