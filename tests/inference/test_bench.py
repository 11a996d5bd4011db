"""`bthub bench`: the table names each stage, and its numbers come from the calls."""

import re
from importlib.metadata import version

import pytest
import torch
from light_stages import blob
from PIL import Image
from stages import make_pipeline

from bthub import cli
from bthub.errors import BthubError
from bthub.inference import bench


def test_the_table(tmp_path):
    path = tmp_path / "slice.png"
    Image.fromarray(blob(120, 100, (30, 40, 60, 80)) // 3).save(path)
    threads = torch.get_num_threads()
    pipe = make_pipeline(threshold=1.0)  # the gate says no: the mask stage must be timed all the same
    text = bench.run(path, repeats=4, pipeline=pipe)
    assert torch.get_num_threads() == threads
    assert "slice.png, 100 x 120 pixels, 4 calls" in text
    assert re.search(rf"torch {re.escape(version('torch'))}, 2 threads", text)
    assert "detector: brightness at 1" in text and "localizer: bright-pixels at 2" in text
    rows = dict(re.findall(r"^(\w+) +([\d.]+ +[\d.]+)$", text, flags=re.MULTILINE))
    assert list(rows) == ["read", "check", "detect", "localize", "measure", "total"]
    medians = {stage: float(numbers.split()[0]) for stage, numbers in rows.items()}
    for stage, numbers in rows.items():
        median, p95 = map(float, numbers.split())
        assert 0 <= median <= p95
        assert medians[stage] <= medians["total"]
    assert medians["total"] > 0 and medians["localize"] > 0
    rates = dict(re.findall(r"^(\d+) +([\d.]+)$", text, flags=re.MULTILINE))
    assert list(rates) == ["1", "8", "16"] and all(float(rate) > 0 for rate in rates.values())
    assert set(pipe.localizer.model.batches) == {1, 8, 16}


def test_the_default_slice_comes_with_the_clone():
    assert bench._sample().is_file()


def test_refusals(tmp_path, capsys):
    with pytest.raises(BthubError, match="repeats"):
        bench.run(repeats=0)
    assert cli.main(["bench", "--image", str(tmp_path / "missing.png"), "--repeats", "0"]) == 2
    assert "repeats must be at least 1" in capsys.readouterr().err
    with pytest.raises(BthubError, match="no such file"):
        bench.run(tmp_path / "missing.png", pipeline=make_pipeline())


def test_the_shipped_runs_are_timed(shipped_runs):
    text = bench.run(repeats=2, backend="int8")
    assert "sha256:" in text and "images/s" in text
