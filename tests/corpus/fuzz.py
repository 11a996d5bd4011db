"""Fuzz the readers: whatever bytes come, a picture, a scan, or one sentence.

    pip install atheris
    python tests/corpus/fuzz.py SEEDS FINDS -max_total_time=3600

SEEDS is filled with the corpus where it is empty; what breaks the rule lies in FINDS afterwards. Make each find a case
of the corpus. atheris is guided by which lines of Python run.
"""

import gzip
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bthub", "nibabel", "pydicom", "tifffile"]):
    import numpy as np

    from bthub.errors import BthubError
    from bthub.imaging.image_io import read_image
    from bthub.imaging.intake import open_study

HERE = Path(__file__).parent
SLOW_SECONDS = 20.0
"""More than any file of these sizes may take, on a busy machine too."""


def seed(folder: Path) -> None:
    """The corpus, and a scan of every kind, as files."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import pydicom
    import scans
    from cases import CASES, STACK

    found = [case.content for case in CASES]
    single, many = scans.data(scans.series(STACK)[0]), scans.data(scans.enhanced(STACK))
    packed = folder / "packed"
    scans.write_zip(packed, {f"{number}.dcm": scans.data(one) for number, one in enumerate(scans.series(STACK))})
    found += [single, many, packed.read_bytes(), scans.nifti(STACK), gzip.compress(scans.nifti(STACK))]
    packed.unlink()
    # Of pydicom's own files those that are small: compressed ones, other byte orders, other kinds of objects.
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    found += [file.read_bytes() for file in files if file.stat().st_size < 60_000]
    for number, content in enumerate(found):
        (folder / f"{number:04d}").write_bytes(content)


def check(content: bytes, scratch: Path) -> None:
    """
    Raises:
        Exception: any at all is a find.
    """
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            image = read_image(content)
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        except BthubError as error:
            assert 0 < len(str(error)) < 400 and "\n" not in str(error), error
        # By their bytes, and with the promise of a name.
        for ending in ("", ".nii", ".dcm"):
            file = scratch / f"input{ending}"
            file.write_bytes(content)
            try:
                study = open_study(file)
                for number in range(min(2, len(study.scans))):
                    volume = study.read(number)
                    for index in range(min(2, len(volume))):
                        assert volume.picture(index).dtype == np.uint8
            except BthubError as error:
                assert 0 < len(str(error)) < 400 and "\n" not in str(error), error
    assert not said, said[0].message
    assert time.monotonic() - start < SLOW_SECONDS, f"{time.monotonic() - start:.0f} s"


def main() -> None:
    seeds, finds = Path(sys.argv[1]), Path(sys.argv[2])
    for folder in (seeds, finds):
        folder.mkdir(parents=True, exist_ok=True)
    if not any(seeds.iterdir()):
        seed(seeds)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def one(content: bytes) -> None:
        try:
            check(content, scratch)
        except Exception as error:
            # Each kind of find once, and on: a run of an hour shall bring more than its first.
            last = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}"
            if not (finds / name).exists():
                (finds / name).write_bytes(content)
                (finds / f"{name}.txt").write_text(traceback.format_exc(), encoding="utf-8")

    atheris.Setup(
        [sys.argv[0], str(seeds), "-max_len=200000", "-timeout=120", "-rss_limit_mb=4096", *sys.argv[3:]], one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
