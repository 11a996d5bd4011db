"""One way through the package: data set, training, run folder, pipeline, apps. Imports never run against it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "bthub"
# The stations of the data's way, in order. A package may import from itself and from those before it.
STATIONS = [
    "imaging",  # a picture to pixels
    "data",  # a download to a data set
    "metrics",  # arrays to numbers
    "runs",  # the run folder, which is a Hub repo
    "models",  # networks, made, saved and loaded
    "training",  # a data set to a run folder
    "evaluation",  # a run folder and a split to metrics
    "inference",  # a picture to a result
    "reports",  # run folders to cards, tables and Hub repos
    "practice",  # results to accounts' cases and reports
]
ROOT = ({"bthub.errors"}, {"bthub.project"})
LAYERS = [*ROOT, *({f"bthub.{name}"} for name in STATIONS), {"bthub.cli"}]

HEAVY = {"torch", "timm", "transformers", "datasets", "scipy", "sklearn", "skimage", "matplotlib"}


def layer_of(module: str) -> int:
    for index, members in enumerate(LAYERS):
        if any(module == member or module.startswith(member + ".") for member in members):
            return index
    raise AssertionError(f"{module} is in no layer: add it to LAYERS")


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "bthub"}
    return found


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_run_one_way(path):
    module = ".".join(["bthub", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    own = layer_of(module)
    for name in imports(path):
        if name.startswith("bthub."):
            assert layer_of(name) <= own, f"{module} imports {name}, which comes after it"


def test_the_page_on_architecture_names_every_module():
    """Each module beside the remote code, in the tree of docs/architecture.md, as it names itself."""
    told: dict[str, dict[str, str]] = {}
    for line in (REPOSITORY / "docs" / "architecture.md").read_text().splitlines():
        if package := re.match(r"  (\w+)/", line):
            modules = told.setdefault(package[1], {})
        elif module := re.match(r"    (\w+\.py) +(.+)", line):
            modules[module[1]] = module[2]
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "cli.py", "errors.py", "project.py"}
    there = {
        name: {path.name: summary(path) for path in (SOURCE / name).glob("*.py") if path.name != "__init__.py"}
        for name in STATIONS
    }
    assert {name: told[name] for name in STATIONS} == there


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")


def test_remote_code_needs_no_bthub():
    allowed = {"torch", "timm", "transformers", "numpy", "PIL"}  # the last two come with the others
    files = [path for path in (SOURCE / "models").glob("*/*.py") if path.name != "__init__.py"]
    assert len(files) == 5
    for path in files:
        assert {name.split(".")[0] for name in imports(path)} <= allowed | sys.stdlib_module_names, path.name


def test_apps_hold_no_model_logic():
    for path in [*(REPOSITORY / "space").glob("*.py"), *(REPOSITORY / "dashboard").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "timm", "transformers"}, path.name


def test_serving_and_help_import_no_framework():
    """What apps, `bthub predict` and `bthub --help` import loads none of HEAVY; making a pipeline does."""
    light = [
        ".".join(["bthub", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        for room in ("imaging", "runs", "inference")
        for path in (SOURCE / room).rglob("*.py")
        if path.parent.name != "hub_repo" or path.name == "__init__.py"  # remote code, for where torch is
    ]
    code = (
        f"import sys, importlib, bthub.cli\nfor name in {light}: importlib.import_module(name)\n"
        "try: bthub.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "info", "nowhere"], "nowhere"),
        (["data", "build", "nowhere.zip", "out"], "nowhere.zip"),
        (["evaluate", "nowhere", "--data", "x", "--split", "test"], "nowhere"),
        (["explain", "nowhere", "--data", "x", "--split", "test"], "nowhere"),
        (["card", "nowhere"], "nowhere"),
        (["predict", "nowhere.png"], "nowhere.png"),
    ],
)
def test_every_command_fails_with_a_sentence(arguments, words, capsys):
    from bthub.cli import main

    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err and captured.out == ""
