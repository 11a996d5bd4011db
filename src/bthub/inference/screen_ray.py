"""`bthub screen --ray`: the shards of a screening, handed out by Ray Data to the processors of a cluster.

Ray decides where a shard runs, and gives one that was lost with its machine to another, where it goes on after its last
part. What a shard is, and what it leaves, is `bthub.inference.screen`'s affair: a screening that was begun on a cluster
can be ended on a laptop.

Inputs and the folder for the parts lie on storage that all machines see under the same name.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bthub.data.progress import progress_bar
from bthub.errors import BthubError
from bthub.inference import backends, screen
from bthub.inference.loading import load_pipeline

SHARDS_A_PROCESSOR = 4
"""So that a slow machine holds up the end of a screening by a share of its work, not by all of it."""


def screen_on_ray(
    inputs: list[str],
    out: Path,
    address: str,
    *,
    detector: str | None = None,
    localizer: str | None = None,
    backend: str | None = None,
    batch_size: int = 8,
    check_input: bool = True,
) -> dict[str, Any]:
    """Screen all shards of the inputs on a Ray cluster, or go on with them.

    Args:
        inputs, out, detector, localizer, batch_size, check_input: as for `bthub.inference.screen.screen`.
        address: of the cluster, as `ray.init` takes it: `HOST:PORT`, `ray://HOST:PORT`, `auto`, or `local` for this
            machine alone.
        backend: as for `load_pipeline`, but not "auto", which may differ from machine to machine.

    Returns:
        The sums of `pictures`, `bad` and `entries`; `shards`; and `nodes`, on how many machines they were done.

    Raises:
        BthubError: Ray isn't installed or there is no cluster at this address; no backend is named; an input isn't
            there; or a shard could not be done, after the others were.
    """
    backend = backends.check_name(backend or os.environ.get(backends.CHOICE) or backends.AUTO)
    if backend == backends.AUTO:
        raise BthubError(
            "name one backend for all machines with --backend, for example int8: otherwise each machine chooses its "
            "own, and results of different backends can't be merged"
        )
    if not address:
        raise BthubError("the cluster has no address: name it as HOST:PORT, ray://HOST:PORT, auto or local")
    screen.check_before(inputs)
    ray = _connect(address)
    try:
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        of = screen.shards_begun(out) or SHARDS_A_PROCESSOR * processors
        options = {
            "inputs": inputs,
            "out": str(out),
            "of": of,
            "detector": detector,
            "localizer": localizer,
            "backend": backend,
            "batch_size": batch_size,
            "check_input": check_input,
            "folder": os.getcwd() if _any_relative([*inputs, str(out), detector, localizer]) else None,
        }
        answers = []
        with _watching(inputs, out, of):
            shards = ray.data.range(of, override_num_blocks=of).map(
                _Worker,
                fn_constructor_kwargs={"options": options},
                num_cpus=1,
                # Not a pool that grows: one with a task at a time for each never sees a need to.
                compute=ray.data.ActorPoolStrategy(size=min(of, processors), max_tasks_in_flight_per_actor=1),
            )
            answers += shards.iter_rows()
    finally:
        ray.shutdown()
    if failed := sorted((row["shard"], row["error"]) for row in answers if row["error"]):
        number, error = failed[0]
        raise BthubError(f"{len(failed)} of {of} shards could not be done; of shard {number}: {error}")
    sums = {key: sum(row[key] for row in answers) for key in ("pictures", "bad", "entries")}
    return {**sums, "shards": of, "nodes": len({row["node"] for row in answers})}


class _Worker:
    """One processor of the cluster: it loads the models once, and does one shard after the other."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.error = ""
        try:
            if options["folder"] is not None:
                os.chdir(options["folder"])  # names mean the same here as where the command was given
            self.pipe = load_pipeline(
                options["detector"],
                options["localizer"],
                backend=options["backend"],
                check_input=options["check_input"],
                threads=1,
            )
        except OSError as error:
            self.error = f"{options['folder']} isn't there on every machine ({error.strerror}): give full names"
        except BthubError as error:
            self.error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        options = self.options
        number = int(row["id"]) + 1
        done = {"pictures": 0, "bad": 0, "entries": 0}
        error = self.error
        if not error:
            try:
                done = screen.screen(
                    options["inputs"],
                    Path(options["out"]),
                    shard=screen.Shard(number, options["of"]),
                    batch_size=options["batch_size"],
                    check_input=options["check_input"],
                    workers=2,  # one reads while the other analyzes
                    pipeline=self.pipe,
                )
            except BthubError as problem:
                error = str(problem)
        node = ray.get_runtime_context().get_node_id()
        return {
            "shard": number,
            "error": error,
            "node": node,
            **{key: done[key] for key in ("pictures", "bad", "entries")},
        }


def _connect(address: str) -> Any:
    # Of whatever cluster this starts itself, nothing is reported to anyone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise BthubError(
            f'bthub screen --ray needs {error.name}, which isn\'t installed: pip install "bthub[ray]"'
        ) from error
    try:
        _knock(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address == "local" else None,
        )
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise BthubError(
            f"there is no Ray cluster at {address!r} ({error}): start one with `ray start --head`, and name it as "
            "HOST:PORT, or auto on one of its machines"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is one of our own, which knows entries
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT or ray://HOST:PORT; Ray would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _any_relative(names: list[str | None]) -> bool:
    return any(name is not None and not os.path.isabs(name) and Path(name).exists() for name in names)


@contextmanager
def _watching(inputs: list[str], out: Path, of: int) -> Iterator[None]:
    """A bar of the entries done on all machines, by the parts that they have left."""
    over = threading.Event()

    def watch(progress: "tqdm[Any]") -> None:
        progress.initial = progress.n = _done(out, of)
        wait = 2.0
        while not over.wait(wait):
            start = time.monotonic()
            progress.update(_done(out, of) - progress.n)
            wait = max(2.0, 20 * (time.monotonic() - start))  # a slow disk is left to the work

    with (
        progress_bar(unit="item", smoothing=0.05, mininterval=1) as progress,
        screen.counting(inputs, screen.Shard(1, 1), progress),
    ):
        thread = threading.Thread(target=watch, args=(progress,), name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            progress.update(_done(out, of) - progress.n)


def _done(out: Path, of: int) -> int:
    """Entries that are done, of shards at work those of their whole parts."""
    done = 0
    for record in out.glob(f"shard-*-of-{of:04d}/{screen.RECORD}"):
        found = screen.read_record(record)
        parts = (file.name for file in record.parent.glob("part-*.parquet"))
        done += found.get("entries") or screen.PART * sum(not name.endswith(".bad.parquet") for name in parts)
    return done
