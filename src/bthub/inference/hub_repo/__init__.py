"""The two-stage repo: one Hub repo that names its detector and its localizer by id and revision.

    detect-and-localize/
        config.json               `detector` and `localizer`, each with `id` and `revision`
        *_detect_and_localize.py  remote code: configuration, model, pipeline
        errors.py regions.py head.py image_io.py input_check.py result.py pipeline.py
                                  remote code: the very modules of bthub, so that the results are the same
        README.md                 its card

The repo has no weights of its own. transformers fetches remote code one flat file at a time, so bthub's modules
stand side by side there and import each other relatively; `remote_code` is that translation.
"""

import re
from pathlib import Path

from bthub.runs.folder import CONFIG, write_json

TASK = "detect-and-localize"
_SOURCE = Path(__file__).parents[2]
_MODULES = (
    "errors.py",
    "imaging/regions.py",
    "imaging/head.py",
    "imaging/checks.py",
    "imaging/fetch.py",
    "imaging/formats.py",
    "imaging/tiff.py",
    "imaging/image_io.py",
    "imaging/kinds.py",
    "models/input_check.py",
    "runs/operating_point.py",
    "inference/result.py",
    "inference/pipeline.py",
    "inference/hub_repo/configuration_detect_and_localize.py",
    "inference/hub_repo/modeling_detect_and_localize.py",
    "inference/hub_repo/pipeline_detect_and_localize.py",
)


def remote_code() -> dict[str, str]:
    """File name -> text of the modules that travel with the repo."""
    code = {}
    for module in _MODULES:
        text = (_SOURCE / module).read_text(encoding="utf-8")
        code[Path(module).name] = re.sub(r"^from bthub\.(?:\w+\.)*(\w+) import", r"from .\1 import", text, flags=re.M)
    return code


def write_repo(folder: Path, detector: dict[str, str | None], localizer: dict[str, str | None]) -> None:
    """Write the configuration and the code of the repo; the card is `bthub.reports.model_card.render_two_stage`'s.

    Args:
        folder: an empty folder.
        detector, localizer: `id` and `revision` of each stage.
    """
    for name, text in remote_code().items():
        (folder / name).write_text(text, encoding="utf-8")
    module = "detect_and_localize"
    write_json(
        folder / CONFIG,
        {
            "model_type": TASK,
            "architectures": ["DetectAndLocalizeModel"],
            "auto_map": {
                "AutoConfig": f"configuration_{module}.DetectAndLocalizeConfig",
                "AutoModel": f"modeling_{module}.DetectAndLocalizeModel",
            },
            "custom_pipelines": {
                TASK: {
                    "impl": f"pipeline_{module}.DetectAndLocalizePipeline",
                    "pt": ["AutoModel"],
                    "type": "image",
                }
            },
            "detector": detector,
            "localizer": localizer,
        },
    )
