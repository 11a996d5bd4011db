"""What the project's own repos are called, and where a clone keeps the runs that it ships."""

import os
from pathlib import Path

# A fork publishes its own: whatever names a repo of the project on the Hub takes the organisation from here.
# `bthub publish --org` writes this file into the copy of the package that goes with the apps.
ORG_FILE = Path(__file__).with_name("ORG")
ORG = os.environ.get("BTHUB_ORG") or ORG_FILE.read_text().strip()
DEFAULTS = {"detector": "resnet18-lgg", "localizer": "resunet18-lgg"}
DATASET = "lgg-mri-segmentation"
TWO_STAGE = "detect-and-localize-lgg"

# Where a clone keeps the runs it ships. In an installed wheel the folder isn't there, and the Hub is asked.
SHIPPED_RUNS = Path(__file__).parents[2] / "runs"


def hub_id(name: str, org: str | None = None) -> str:
    """The Hub id of one of the project's own repos, under another organisation if that is given."""
    return f"{org or ORG}/{name}"


def default_run(stage: str) -> str:
    """The run folder (in a clone) or Hub id (elsewhere) of the default `detector` or `localizer`."""
    name = DEFAULTS[stage]
    local = SHIPPED_RUNS / name
    return str(local) if (local / "config.json").is_file() else hub_id(name)
