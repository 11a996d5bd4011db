"""`bthub screen --ray` on a cluster of two nodes, which are processes of this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from ports import free_port

from bthub import cli
from bthub.errors import BthubError
from bthub.inference.screen import BAD, RESULTS, Shard, merge, screen
from bthub.inference.screen_ray import SHARDS_A_PROCESSOR, screen_on_ray

EXAMPLES = Path(__file__).parents[2] / "space" / "examples"
SOURCE = Path(__file__).parents[2] / "src"


ENVIRONMENT = {
    "PYTHONPATH": str(SOURCE),
    "RAY_DISABLE_MEMORY_MONITOR": "1",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S": "300",  # so little is to do that one could do it all meanwhile
}


class Node:
    """A machine of the cluster, with one processor: the processes that `ray start` keeps."""

    def __init__(self, log: Path, *more: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats", *more]
        for _ in range(2):  # on a busy machine Ray may give up
            with open(log, "w") as written:
                self.process = subprocess.Popen(
                    command,
                    env={**os.environ, **ENVIRONMENT},
                    stdout=written,
                    stderr=written,
                    cwd="/",  # not where the command is given
                    start_new_session=True,
                )
            while self.process.poll() is None and "Ray runtime started" not in log.read_text():
                time.sleep(0.2)
            if self.process.poll() is None:
                return
            self.kill()
        raise AssertionError(log.read_text())

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[Node]]]:
    """The address of a head, and the cluster's two nodes."""
    pytest.importorskip("ray.data")
    # Short: sockets lie in it, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    nodes: list[Node] = []
    # Ray replaces 127.0.0.1 by an address that others reach; these it leaves.
    address = f"127.0.0.2:{free_port()}"
    try:
        for more in (
            ("--head", "--node-ip-address=127.0.0.2", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}",
             "--include-dashboard=false"),
            ("--node-ip-address=127.0.0.3", f"--address={address}"),
        ):  # fmt: skip
            nodes.append(Node(folder.with_name(f"{folder.name}-{len(nodes)}.log"), *more))
        yield address, nodes
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
        for log in folder.parent.glob(f"{folder.name}-*.log"):
            log.unlink()


@pytest.fixture
def archive(tmp_path) -> Path:
    root = tmp_path / "archive"
    root.mkdir()
    for number in range(23):  # no multiple of the shards
        shutil.copyfile(sorted(EXAMPLES.glob("*.png"))[number % 6], root / f"{number:02d}.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return root


def rows(out: Path, name: str) -> list[dict]:
    return sorted(parquet.read_table(out / name).to_pylist(), key=lambda row: row["index"])


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bthub.cli", "screen", *arguments],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_two_nodes_give_what_one_machine_gives(archive, tmp_path, cluster):
    address, _ = cluster
    done = run(tmp_path, "archive", "--out", "found", "--backend", "int8", "--ray", address)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == "24 entries: 23 pictures analyzed, 1 could not be analyzed (the reasons are in the files *bad.parquet)\n"
    )
    folders = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert len(folders) == 2 * SHARDS_A_PROCESSOR
    assert f"{len(folders)} shards on 2 machines" in done.stderr and "Traceback" not in done.stderr
    assert "24/24 items" in done.stderr
    assert run(tmp_path, "--merge", "--out", "found").returncode == 0

    alone = run(tmp_path, "archive", "--out", "whole", "--backend", "int8")
    assert alone.returncode == 0, alone.stderr
    merge(tmp_path / "whole")
    for name in (RESULTS, BAD):
        one, many = rows(tmp_path / "whole", name), rows(tmp_path / "found", name)
        assert [(row["index"], row["key"]) for row in one] == [(row["index"], row["key"]) for row in many]
        for a, b in zip(one, many, strict=True):
            assert a.get("verdict") == b.get("verdict")
            assert a.get("tumor_probability", 0) == pytest.approx(b.get("tumor_probability", 0), abs=1e-4)

    # All is there: nothing is done again, and a shard that was lost is.
    part = tmp_path / "found" / folders[1] / "part-000000.parquet"
    others = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").rglob("part-*.parquet") if path != part}
    part.unlink()
    again = run(tmp_path, "archive", "--out", "found", "--backend", "int8", "--ray", address)
    assert again.returncode == 0 and again.stdout == done.stdout, again.stderr
    assert part.is_file()
    bad = part.with_name("part-000000.bad.parquet")
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in others.items() if path != bad)


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing(archive, tmp_path, cluster):
    """Its shards go to the other one."""
    address, nodes = cluster
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bthub.cli",
            "screen",
            "archive",
            "--out",
            "found",
            "--backend",
            "int8",
            "--ray",
            address,
        ],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "found").glob("*/part-*.parquet")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    nodes[1].kill()
    told, trouble = process.communicate(timeout=300)
    assert process.returncode == 0, trouble
    # Before it Ray says what it lost.
    assert (
        told.splitlines()[-1]
        == "24 entries: 23 pictures analyzed, 1 could not be analyzed (the reasons are in the files *bad.parquet)"
    )
    merge(tmp_path / "found")
    assert len(rows(tmp_path / "found", RESULTS)) == 23


@pytest.mark.slow
def test_what_a_shard_says_is_told(archive, tmp_path, cluster):
    """The others are done all the same."""
    address, _ = cluster
    screen([str(archive)], tmp_path / "found", shard=Shard(2, 3), backend="int8", check_input=False)
    with pytest.raises(BthubError, match="1 of 3 shards could not be done; of shard 2: .*other settings"):
        screen_on_ray([str(archive)], tmp_path / "found", address, backend="int8")
    assert len(list((tmp_path / "found").glob("*/part-*0.parquet"))) == 3


def test_what_is_refused(archive, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BTHUB_BACKEND", raising=False)
    out = str(tmp_path / "found")
    for arguments, words in (
        ([str(archive), "--ray", "auto"], "name one backend"),
        ([str(archive), "--ray", "auto", "--backend", "auto"], "name one backend"),
        ([str(archive), "--ray", "auto", "--backend", "int8", "--shard", "1/2"], "leave out --shard"),
        ([str(tmp_path / "missing"), "--ray", "auto", "--backend", "int8"], "no such file"),
    ):
        assert cli.main(["screen", *arguments, "--out", out]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("bthub: ") and words in told
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["screen", str(archive), "--ray", "auto", "--backend", "int8", "--out", out]) == 2
    assert 'pip install "bthub[ray]"' in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.slow
def test_no_cluster_is_said(archive, tmp_path):
    done = run(tmp_path, "archive", "--out", "x", "--backend", "int8", "--ray", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "there is no Ray cluster at" in done.stderr.splitlines()[-1]
