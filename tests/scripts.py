"""The scripts outside of the package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[1]


def script(path: str) -> ModuleType:
    """A script by its path in the repository, as `train/targets.py`."""
    file = REPOSITORY / path
    sys.path.insert(0, str(file.parent))  # as when it is started: a script finds its neighbors
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(file.parent))
    return module
