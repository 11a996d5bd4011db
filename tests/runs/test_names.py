"""bthub.runs.names: a run folder with the names of before reads the same, and a command rewrites it."""

import json
import shutil
from pathlib import Path

import pytest

from bthub.cli import main
from bthub.errors import BthubError
from bthub.runs.folder import RunFolder
from bthub.runs.names import MIGRATED, OF_HEAT, RENAMED, migrate

READ = ("training", "metrics", "sources", "gradcam", "onnx_metrics")


def aged(run: Path, folder: Path) -> Path:
    """A copy with the old names."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("figures", "*.onnx", "*.safetensors"))
    for file in (file for pattern in MIGRATED for file in folder.glob(pattern)):
        text = file.read_text(encoding="utf-8")
        head, rest = (text, "") if file.suffix == ".json" else text.split("\n", 1)
        for old, new in (RENAMED | (OF_HEAT if "gradcam" in file.name else {})).items():
            head = head.replace(f'"{new}":', f'"{old}":')
            if rest:
                head = ",".join(
                    name.replace(new, old) if name.removeprefix("validation_") == new else name
                    for name in head.split(",")
                )
        file.write_text(head + ("\n" + rest if rest else ""), encoding="utf-8")
    return folder


def calibration(run: RunFolder) -> object:
    return run.detector_calibration if "classification" in run.task else run.localizer_calibration


def test_an_old_folder_reads_the_same(shipped_runs: tuple[Path, Path], tmp_path: Path):
    """Also one that a shipped run's own files are not: every new name is in one of them, and none of the old ones."""
    names: set[str] = set()
    for path in shipped_runs:
        folder = aged(path, tmp_path / path.name)
        run, old = (RunFolder.open(each, weights=False) for each in (path, folder))
        for what in READ:
            assert getattr(old, what) == getattr(run, what), what
        assert calibration(old) == calibration(run)
        for file in (path / "predictions").glob("*.csv"):
            assert old.rows(f"predictions/{file.name}") == run.rows(f"predictions/{file.name}")
        assert old.rows("history.csv") == run.rows("history.csv")
        texts = [f.read_text() for pattern in MIGRATED for f in path.glob(pattern)]
        names |= {new for new in (RENAMED | OF_HEAT).values() if any(new in text for text in texts)}
        assert migrate(folder) and not migrate(folder)
        for pattern in MIGRATED:
            for file in folder.glob(pattern):
                same = file.read_text(encoding="utf-8"), (path / file.relative_to(folder)).read_text(encoding="utf-8")
                assert same[0] == same[1] or json.loads(same[0]) == json.loads(same[1]), file
    assert names == {*RENAMED.values(), *OF_HEAT.values()}


def test_the_command_says_what_it_rewrote(shipped_runs: tuple[Path, Path], tmp_path: Path, capsys):
    folder = aged(shipped_runs[1], tmp_path / "old")
    assert main(["migrate", str(folder)]) == 0
    assert "metrics.json" in capsys.readouterr().out
    assert main(["migrate", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: up to date\n"
    (folder / "metrics.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BthubError, match="metrics.json isn't UTF-8"):
        migrate(folder)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(BthubError, match="metrics.json isn't valid JSON"):
        migrate(folder)


def test_what_is_no_run_folder_is_refused(shipped_runs: tuple[Path, Path], tmp_path: Path, capsys):
    (tmp_path / "file").write_text("{}")
    for named, words in (
        (tmp_path / "missing", "isn't a local folder"),
        (tmp_path / "file", "isn't a local folder"),
        (tmp_path, "has no config.json"),
        (shipped_runs[0].parent, "is a folder of runs"),
    ):
        assert main(["migrate", str(named)]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.out == ""
