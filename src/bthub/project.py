"""The names of the project's Hub repos, and where a clone keeps the runs that it ships."""

import os
from pathlib import Path

# A fork publishes its own: whatever names a repo of the project on the Hub takes the organization from here.
# `bthub publish --org` writes this file into the copy of the package that goes with the apps.
ORG_FILE = Path(__file__).with_name("ORG")
ORG = os.environ.get("BTHUB_ORG") or ORG_FILE.read_text(encoding="utf-8").strip()
DEFAULTS = {"detector": "lite0-mri", "localizer": "resunet18-mri"}
DATASET = "lgg-mri-segmentation"
TWO_STAGE = "detect-and-localize-lgg"

# Where a clone keeps the runs it ships. In an installed wheel the folder isn't there, and the Hub is asked.
SHIPPED_RUNS = Path(__file__).parents[2] / "runs"

COMPARISON = "comparison"
"""The folder below it for the runs whose weights don't ship: their records are what is compared."""


def shipped_runs() -> list[Path]:
    """The run folders of the clone: those with weights, then those of the comparison; none outside a clone."""
    return [
        path.parent
        for folder in (SHIPPED_RUNS, SHIPPED_RUNS / COMPARISON)
        for path in sorted(folder.glob("*/config.json"))
    ]


def place_of(name: str) -> Path:
    """Where the clone keeps a run of this name, or would keep it."""
    known = SHIPPED_RUNS / COMPARISON / name
    return known if known.is_dir() else SHIPPED_RUNS / name


def as_named(path: Path) -> str:
    """How a command names a run from the clone's root; `runs/NAME` for a run that isn't the clone's."""
    inside = path.resolve().is_relative_to(SHIPPED_RUNS.resolve())
    below = path.resolve().relative_to(SHIPPED_RUNS.resolve()) if inside else Path(path.name)
    return f"runs/{below.as_posix()}"


def hub_id(name: str, org: str | None = None) -> str:
    """The Hub id of one of the project's own repos, under another organization if that is given."""
    return f"{org or ORG}/{name}"


def default_run(stage: str) -> str:
    """The run folder (in a clone) or Hub id (elsewhere) of the default `detector` or `localizer`."""
    name = DEFAULTS[stage]
    local = SHIPPED_RUNS / name
    return str(local) if (local / "config.json").is_file() else hub_id(name)
