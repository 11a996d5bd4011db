"""Whatever encoding the surroundings have: every text file is UTF-8, and output never ends a batch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from light_stages import blob
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(path for name in ("src", "space", "dashboard", "train") for path in (REPOSITORY / name).rglob("*.py"))
# Classes and modules whose `open` opens no text.
OTHERS = {"RunFolder", "Image", "cls", "os", "opener", "fitz", "archive", "tarfile", "self._zip", "inputs[0]"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_text_file_is_opened_as_utf_8(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(key.arg == "encoding" for key in node.keywords):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        modes = [a.value for a in (*node.args, *(key.value for key in node.keywords)) if isinstance(a, ast.Constant)]
        if name in ("read_text", "write_text") or (name == "open" and owner not in OTHERS):
            assert any(isinstance(mode, str) and "b" in mode for mode in modes), (
                f"{path}:{node.lineno} says no encoding"
            )


CODE = """
import sys
sys.path.insert(0, "tests")
import bthub.inference.loading
from light_stages import make_pipeline
bthub.inference.loading.load_pipeline = lambda *_, **__: make_pipeline()
from bthub import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gbk", "ascii", "utf-8"))]
)
def test_output_under_any_encoding(encoding, tmp_path):
    names = ["café.png", "脳.png", "пример.png", "z.png"]
    for name in names:
        Image.fromarray(blob(120, 100, (30, 40, 60, 80))).save(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", CODE, "predict", str(tmp_path), str(tmp_path / "не.png"), "--spacing", "1", "1"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 1, done.stderr
    lines, said = done.stdout.decode(encoding).splitlines(), done.stderr.decode(encoding)
    assert len(lines) == len(names) and all("mm" in line for line in lines)
    assert "no such file" in said and "Traceback" not in said


def test_a_recipe_with_any_letters_under_a_c_locale(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("# Größe der Läsion, 病灶\nepochs: 0\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RECIPE, "--config", str(recipe), "--output", str(tmp_path / "x")],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and "epochs" in done.stderr, done.stderr[-1500:]
    assert not (tmp_path / "x").exists()


# What `bthub train` does with it before it loads anything else.
RECIPE = """
import dataclasses, sys
from bthub import errors
from bthub.training.config import parse_config
@dataclasses.dataclass
class Config:
    epochs: int = 1
sys.exit(errors.report_errors(lambda: parse_config(Config, "")))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        (
            "> /dev/full",
            2,
            "bthub: the output can't be written (No space left on device): free space, or redirect it\n",
        ),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("| head -n 1", 1, ""),
        ("not.png 2>&-", 2, ""),
        ("not.png >&-", 2, "bthub: not.png: no such file\n"),
        ("not.png 2> /dev/full", 2, ""),
    ],
)
def test_output_that_is_closed_or_full(shell, code, said, buffered):
    """Of what prints as every command does; a picture that isn't there is told without loading anything."""
    command = [sys.executable, "-c", PRINTS]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command],
        env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stderr) == (code, said)


PRINTS = """
import sys
from bthub import cli, errors
def action():
    for _ in range(10_000):
        print("x" * 100)
sys.exit(cli.main(["predict", *sys.argv[1:]]) if sys.argv[1:] else errors.report_errors(action))
"""
