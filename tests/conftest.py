"""What the tests share: real slices, a small data set built from them, untrained runs, and the runs that ship."""

import os

# Before anything imports them: no test may reach a hub, and Gradio must not phone home.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# What `auto` takes depends on the machine; the tests that aren't about it run on the reference.
os.environ["BTHUB_BACKEND"] = "torch"
# A worker for each core: more threads than that wait for each other longer than they compute on such small inputs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fresh import Fresh, fresh_processes

from bthub.project import DEFAULTS, SHIPPED_RUNS
from bthub.runs.folder import CALIBRATION, CONFIG, RunFolder, write_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser

KAGGLE = Path(__file__).parent / "data" / "kaggle_3m"

# Begun first, so that two workers, which take a file at a time, end together.
LONGEST_FIRST = (
    "training/test_recipes.py",
    "inference/test_loading.py",
    "dashboard/test_pages.py",
    "inference/test_backends.py",
    "space/test_app.py",
    "training/test_scripts.py",
    "dashboard/test_browser.py",
    "practice/test_access.py",
    "practice/test_cases.py",
    "reports/test_publish.py",
    "reports/test_model_card.py",
    "space/test_static.py",
    "evaluation/test_evaluate.py",
    "space/test_browser.py",
    "reports/test_hub_server.py",
    "training/test_input_check.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, else in the order of their names."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def fresh() -> Iterator[Fresh]:
    """Fresh processes that needn't import PyTorch."""
    with fresh_processes() as found:
        yield found


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory):
    """datasets keeps what it has read in a cache; the tests' own is new, so that nothing stale is read."""
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def kaggle() -> Path:
    """Twenty real slices of four patients, laid out as Kaggle ships them."""
    return KAGGLE


@pytest.fixture(scope="session")
def tiny_lgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set built from those slices: train, validation and test each have some."""
    from bthub.data.build import build

    out = tmp_path_factory.mktemp("tiny") / "lgg"
    build(KAGGLE, out)
    return out


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained detector and an untrained localizer: complete enough to load, useless as models.

    The detector's threshold is set so that it calls every picture a tumor, which makes the mask stage run.
    """
    import torch

    from bthub.models.classifier import create_classifier, last_linear, save_classifier
    from bthub.models.localizer import save_localizer
    from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation

    torch.manual_seed(0)
    detector, localizer = (tmp_path_factory.mktemp("runs") / name for name in ("detector", "localizer"))
    detector.mkdir()
    localizer.mkdir()
    model = create_classifier("resnet10t", 2)
    last_linear(model).weight.data *= 20  # untrained, it would say nearly the same of every picture
    save_classifier(detector, model, "resnet10t", ["no_tumor", "tumor"], 64, 1.0)
    write_json(detector / CALIBRATION, {"temperature": 1.0, "threshold": 0.001})
    config = ResUNetConfig(backbone="resnet10t", decoder_channels=[32, 16, 8, 8, 8])
    save_localizer(localizer, ResUNetForSemanticSegmentation(config), 64, 0.5, 0.0)
    write_json(localizer / CALIBRATION, {"mask_threshold": 0.5, "min_area_share": 0.0})
    return detector, localizer


@pytest.fixture(scope="session")
def shipped_runs() -> tuple[Path, Path]:
    """The trained detector and localizer that come with the clone."""
    runs = tuple(SHIPPED_RUNS / DEFAULTS[stage] for stage in ("detector", "localizer"))
    for run in runs:
        if not (run / CONFIG).is_file():
            pytest.skip(f"{run} isn't there: train it, or fetch the whole repository")
    return runs


@pytest.fixture(scope="module")
def detector(shipped_runs: tuple[Path, Path]) -> RunFolder:
    """The shipped detector; only to be read. Of each module, since some have a pair of their own."""
    return RunFolder.open(shipped_runs[0])


@pytest.fixture(scope="module")
def localizer(shipped_runs: tuple[Path, Path]) -> RunFolder:
    """The shipped localizer; only to be read."""
    return RunFolder.open(shipped_runs[1])


@pytest.fixture(scope="session")
def exported_runs(
    tiny_runs: tuple[Path, Path], tiny_lgg: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Complete copies of the untrained pair with ONNX files; only to be read."""
    from records import complete_run

    from bthub.models.export import export

    folder = tmp_path_factory.mktemp("exported")
    detector, localizer = (complete_run(run, folder / run.name, tiny_lgg) for run in tiny_runs)
    for run in (detector, localizer):
        export(run, tiny_lgg, pictures=6)
    return detector, localizer


@pytest.fixture(scope="session")
def exported_pair(
    shipped_runs: tuple[Path, Path], tiny_lgg: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Copies of the shipped pair, exported here, which takes a minute; only to be read."""
    from bthub.models.export import export

    folder = tmp_path_factory.mktemp("exported")
    ignored = shutil.ignore_patterns("checkpoint", "logs", "figures", "onnx")
    pair = [Path(shutil.copytree(run, folder / run.name, ignore=ignored)) for run in shipped_runs]
    for run in pair:
        export(run, tiny_lgg, pictures=6)
    return pair[0], pair[1]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium without a screen."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # No sandbox: CI runs as root. The others keep a machine without a network from waiting for Google's servers.
    flags = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        " --disable-component-update --disable-sync"
    ).split()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def detector_copy(detector: RunFolder, tmp_path: Path) -> Path:
    """A copy of the shipped detector that a test may spoil."""
    ignored = shutil.ignore_patterns("checkpoint", "logs")
    return Path(shutil.copytree(detector.path, tmp_path / "copy", ignore=ignored))
