"""The pair of LGG alone in place of the default one, for modules whose tests know its names and files."""

from pathlib import Path

import pytest

from bthub.project import DEFAULTS, SHIPPED_RUNS


@pytest.fixture(autouse=True)
def default_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULTS, "detector", "resnet18-lgg")
    monkeypatch.setitem(DEFAULTS, "localizer", "resunet18-lgg")


@pytest.fixture(scope="session")
def shipped_runs() -> tuple[Path, Path]:
    return SHIPPED_RUNS / "resnet18-lgg", SHIPPED_RUNS / "resunet18-lgg"
