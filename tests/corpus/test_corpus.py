"""Every file of the corpus through Python, the command line, `data build` and the app: read, or one sentence."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests are imported by file

from cases import CASES, Case  # noqa: E402
from table import PAGE, page  # noqa: E402

from bthub import cli  # noqa: E402
from bthub.errors import BthubError  # noqa: E402
from bthub.imaging.image_io import read_image  # noqa: E402
from bthub.imaging.intake import is_study, open_study  # noqa: E402

names = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def said(action, *arguments: object) -> str:
    """The sentence that refuses something, "" where nothing does; without a word or a warning of anyone else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            action(*arguments)
        except BthubError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            return str(error)
    return ""


def check(sentence: str, expected: str) -> None:
    assert bool(sentence) == bool(expected) and expected in sentence, f"{sentence!r}, expected {expected!r}"


def test_the_corpus_is_large_and_its_table_is_in_step():
    assert len(CASES) >= 100 and len({case.name for case in CASES}) == len({case.what for case in CASES}) == len(CASES)
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/corpus/table.py"


@names
def test_through_python(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / case.name
    path.write_bytes(case.content)
    check(said(read_image, path), case.says)
    check(said(read_image, io.BytesIO(case.content)), case.says)
    assert capfd.readouterr() == ("", "")
    if not case.says:
        image = read_image(case.content)
        assert image.dtype == np.uint8 and image.shape[2] == 3 and np.ptp(image) > 50


@names
def test_through_the_intake(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """As the apps ask of any upload: a scan, or one sentence, whatever the picture's reader says of it."""
    path = tmp_path / case.name
    path.write_bytes(case.content)
    is_study(path)
    if not said(lambda: open_study(path).read()):
        assert open_study(path).read().picture(0).dtype == np.uint8
    assert capfd.readouterr() == ("", "")


@names
def test_through_data_build(case: Case, capfd: pytest.CaptureFixture[str]):
    from bthub.data.image_folder import decode

    check(said(decode, case.content, case.name), case.says if case.builds is None else case.builds)
    assert capfd.readouterr() == ("", "")


def test_through_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch):
    from stages import make_pipeline

    monkeypatch.setattr("bthub.inference.loading.load_pipeline", lambda *_, **__: make_pipeline())
    for case in CASES:
        (tmp_path / case.name).write_bytes(case.content)
    # Stacks and zips are scans to this command: tests of the intake have them.
    cases = [case for case in CASES if not is_study(tmp_path / case.name)]
    paths = [tmp_path / case.name for case in cases]
    assert cli.main(["predict", *map(str, paths), "--out", str(tmp_path / "out")]) == 1
    out, err = capfd.readouterr()
    answered = {line.split("  ")[0] for line in out.splitlines()}
    assert answered == {str(path) for path, case in zip(paths, cases, strict=True) if not case.says}
    refusals = [line for line in err.splitlines() if line.startswith("bthub: ")]
    for case in cases:
        found = [line for line in refusals if f"/{case.name}: " in line]
        assert len(found) == bool(case.says) and all(case.says in line for line in found), case.name
    assert len(refusals) == sum(bool(case.says) for case in cases) and "Traceback" not in err


def test_through_the_app(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    import gradio as gr
    from scripts import script
    from stages import make_pipeline

    app = script("space/app.py")
    demo = app.build(make_pipeline())
    (analyze,) = (function.fn for function in demo.fns.values() if function.api_name == "analyze")
    capfd.readouterr()
    for case in CASES:
        path = tmp_path / case.name
        path.write_bytes(case.content)
        try:
            overlay, found = analyze(str(path))
        except gr.Error as error:
            check(str(error.message), case.says)
            assert str(tmp_path) not in str(error.message)
        else:
            assert not case.says and Path(overlay).is_file() and found["label"]
    assert capfd.readouterr() == ("", "")
