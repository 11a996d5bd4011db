"""Memory that training keeps from step to step."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy as np
from bthub.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, np.float32)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
assert keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_that_was_freed_is_not_asked_for_again():
    # In a process of its own: what is kept is kept to its end.
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 8, "64 MB that are new cost a page fault each, or a few of huge pages"
    assert kept < usual / 4


def test_elsewhere_nothing_is_changed(monkeypatch):
    from bthub.training import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
