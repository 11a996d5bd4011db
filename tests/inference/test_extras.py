"""What an installation without some extra says."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["torch", "timm", "transformers"])
def test_without_torch_the_extra_is_named(missing):
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "import bthub\n"
        "try: bthub.load_pipeline()\n"
        "except bthub.BthubError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"need {missing}" in done.stdout and "bthub[torch]" in done.stdout, done.stderr
