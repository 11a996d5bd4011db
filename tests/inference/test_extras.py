"""What an installation without some extra says."""

import os
from pathlib import Path

import pytest
from fresh import Fresh

from bthub import cli

EXAMPLE = str(next((Path(__file__).parents[2] / "space" / "examples").glob("*.png")))


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["predict", EXAMPLE], "transformers", "torch"),
        (["data", "info", "x"], "datasets", "train"),
        (["compare", "x"], "sklearn", "evaluation"),
        (["train", "resunet", "--help"], "accelerate", "train"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(arguments, missing, extra, fresh: Fresh, tmp_path):
    code = f"import sys\nsys.modules[{missing!r}] = None\nfrom bthub.cli import main\nsys.exit(main({arguments}))"
    done = fresh.run(code, folder=tmp_path, environment=os.environ)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f'{missing}, which isn\'t installed: pip install "bthub[{extra}]"' in done.stderr


@pytest.mark.parametrize("missing", ["torch", "timm", pytest.param("transformers", marks=pytest.mark.slow)])
def test_without_torch_the_extra_is_named(missing, fresh: Fresh, tmp_path):
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "import bthub\n"
        "try: bthub.load_pipeline()\n"
        "except bthub.BthubError as error: print(error)"
    )
    done = fresh.run(code, folder=tmp_path, environment=os.environ)
    assert f"need {missing}" in done.stdout and "bthub[torch]" in done.stdout, done.stderr


def test_on_windows_the_way_is_wsl_and_no_package(monkeypatch, capsys):
    def run(_):
        raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")

    monkeypatch.setattr(cli, "_screen", run)
    assert cli.main(["screen", EXAMPLE, "--out", "found"]) == 2
    err = capsys.readouterr().err
    assert "bthub screen doesn't run on Windows itself: use WSL" in err and "pip install" not in err


def test_every_command_has_an_extra_or_needs_none():
    """So that one whose packages aren't there is told what to install."""
    choices = next(action.choices for action in cli._parser()._actions if action.choices)
    assert set(choices) - set(cli.EXTRAS) == {"migrate"}
