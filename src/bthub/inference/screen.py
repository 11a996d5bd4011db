"""`bthub screen`: archives of any size, part by part; an interrupted screening continues where it stopped.

    OUT/shard-0001-of-0004/
        screen.json               what is screened, and with which models; once all is done also how much there was
        part-000000.parquet       the results of the shard's first PART entries, one row a picture
        part-000000.bad.parquet   those of them that couldn't be read or were refused, and why
    OUT/results.parquet, OUT/bad.parquet    all shards, from `bthub screen --merge`

A part is written whole, under its name only when it is complete: where it is there, its entries are done. Started
again, the list is walked anew, what is done is passed over, and each part is held against the names now in its place.
Entry k of the list belongs to shard k modulo n. Workers read, prepare and analyze batches side by side, each network on
one thread, and only so many batches are in flight as there are workers to take them.
"""

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from bthub.data.progress import progress_bar, say
from bthub.errors import BthubError
from bthub.inference.backends.graphs import threads
from bthub.inference.loading import load_pipeline
from bthub.inference.pipeline import Pipeline, ReadPicture
from bthub.inference.result import DISCLAIMER, Result
from bthub.inference.screen_inputs import Item, walk
from bthub.runs.folder import replacing, write_json

PART = 256
"""Entries of a part: at most so many are done again after a kill."""
RECORD = "screen.json"
RESULTS, BAD = "results.parquet", "bad.parquet"
_SAME = ("inputs", "of", "models", "settings")
"""What the shards of one screening have in common."""
# Set by what starts an array of jobs: number of this one, of all, and of the first.
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("RANK", "WORLD_SIZE", None),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
)


@dataclass(frozen=True)
class Shard:
    """A share of the list: number 1 to `of`."""

    number: int
    of: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:04d}-of-{self.of:04d}"


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """`i/n`, or without it what SLURM or torchrun says of this process; else the whole.

    Raises:
        BthubError: it isn't a number from 1 to n.
    """
    if text is None:
        for number, of, first in _ARRAYS:
            if number in environment and of in environment:
                start = int(environment.get(first, "0")) if first else 0
                text = f"{int(environment[number]) - start + 1}/{environment[of]}"
                break
        else:
            return Shard(1, 1)
    one, _, of = text.partition("/")
    if not (one.isdecimal() and of.isdecimal() and 1 <= int(one) <= int(of)):
        raise BthubError(f"the shard is {text!r}, expected i/n with i from 1 to n, as 2/8")
    return Shard(int(one), int(of))


def screen(
    inputs: list[str],
    out: Path,
    *,
    shard: Shard = Shard(1, 1),
    detector: str | None = None,
    localizer: str | None = None,
    backend: str | None = None,
    batch_size: int = 8,
    check_input: bool = True,
    workers: int | None = None,
    pipeline: Pipeline | None = None,
) -> dict[str, Any]:
    """Screen a shard of the inputs, or go on with it.

    Args:
        inputs: as for `bthub.inference.screen_inputs.walk`.
        out: folder for the parts.
        shard: the share to do.
        detector, localizer, backend: as for `load_pipeline`.
        batch_size: pictures that a worker takes at a time.
        check_input: refuse what doesn't look like a slice of a brain MRI.
        workers: batches at work at the same time, so that one is read while another is analyzed; by default one a
            processor, and two at least.
        pipeline: by default one is loaded.

    Returns:
        What `screen.json` then says, with `pictures`, `bad` and `entries` of the shard.

    Raises:
        BthubError: an input isn't there; the folder holds another screening, or its inputs have changed; another
            process is at work on this shard; or the folder can't be written.
    """
    check_before(inputs)
    workers = max(2, threads()) if workers is None else workers
    for what, number in (("batch size", batch_size), ("number of workers", workers)):
        if not 1 <= number <= 65_536:
            raise BthubError(f"the {what} must be from 1 to 65,536, not {number}")
    pipe = pipeline or load_pipeline(detector, localizer, backend=backend, check_input=check_input, threads=1, say=say)
    folder = out / shard.name
    record = {
        "inputs": inputs,
        "shard": shard.number,
        "of": shard.of,
        "models": pipe.models,
        "settings": {"check_input": check_input, "part": PART},
        "disclaimer": DISCLAIMER,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _same_screening(folder, record)
            for leftover in folder.glob("*.tmp"):
                leftover.unlink()
            write_json(folder / RECORD, record)
            done = _work(pipe, inputs, folder, shard, batch_size, check_input, workers)
            write_json(folder / RECORD, record | done)
    except OSError as error:
        raise BthubError(f"{folder}: the results can't be written ({error.strerror})") from error
    return record | done


def check_before(inputs: list[str]) -> None:
    """Say what is wrong with the inputs or the installation before anything is loaded.

    Raises:
        BthubError: an input isn't there or nothing in it can be read, or pyarrow isn't installed.
    """
    _parquet()
    for name in inputs:
        next(walk([name]))


def _work(
    pipe: Pipeline, inputs: list[str], folder: Path, shard: Shard, batch_size: int, check_input: bool, workers: int
) -> dict[str, Any]:
    counts = {"pictures": 0, "bad": 0, "entries": 0, "listed": 0}

    def mine() -> Iterator[tuple[int, Item]]:
        for index, item in enumerate(walk(inputs, say)):
            counts["listed"] = index + 1
            if index % shard.of == shard.number - 1:
                yield index, item

    entries = mine()
    start = time.monotonic()
    with (
        progress_bar(unit="item", smoothing=0.05, mininterval=1) as progress,
        counting(inputs, shard, progress),
        ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool,
    ):
        number = 0
        while part := list(islice(entries, PART)):
            names = hashlib.sha256("\n".join(f"{i} {item.key}" for i, item in part).encode()).hexdigest()
            file = folder / f"part-{number:06d}.parquet"
            if file.exists():
                rows, bad = _done(file, names)
                progress.initial += len(part)  # the rate is that of what is done now
                progress.update(len(part))
            else:
                rows, bad = _part(pipe, pool, part, file, names, batch_size, check_input, workers, progress)
            counts["pictures"] += rows
            counts["bad"] += bad
            counts["entries"] += len(part)
            number += 1
    if (folder / f"part-{number:06d}.parquet").exists():
        raise BthubError(f"{folder} has more parts than the inputs have now: choose another --out folder")
    return {**counts, "seconds": round(time.monotonic() - start, 1), "complete": True}


def _part(
    pipe: Pipeline,
    pool: ThreadPoolExecutor,
    part: list[tuple[int, Item]],
    file: Path,
    names: str,
    batch_size: int,
    check_input: bool,
    workers: int,
    progress: tqdm,
) -> tuple[int, int]:
    """Analyze the entries of a part and write it; how many rows, and how many bad ones."""
    rows: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    flying: deque[tuple[int, Future[tuple[list[dict[str, Any]], list[dict[str, Any]]]]]] = deque()
    batches = [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    while batches or flying:
        while batches and len(flying) <= workers:
            batch = batches.pop(0)
            flying.append((len(batch), pool.submit(_batch, pipe, batch, batch_size, check_input)))
        count, future = flying.popleft()
        found, failed = future.result()
        rows += found
        bad += failed
        progress.update(count)
    _write(file.with_suffix(".bad.parquet"), bad, _bad_schema(), {})
    _write(file, rows, _schema(), {"names": names, "bad": str(len(bad))})
    return len(rows), len(bad)


def _batch(
    pipe: Pipeline, batch: list[tuple[int, Item]], batch_size: int, check_input: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read and analyze some entries, on a worker."""
    places: list[tuple[int, str, int]] = []
    rows, bad = [], []

    def read() -> Iterator[ReadPicture]:
        for index, item in batch:
            try:
                pictures = item.pictures()
            except BthubError as error:
                bad.append({"index": index, "key": item.key, "frame": 0, "reason": str(error)})
                continue
            for frame, image in enumerate(pictures):
                places.append((index, item.key, frame))
                yield ReadPicture(item.key, image, 0.0)

    answers = pipe.stream(read(), on_error="yield", batch_size=batch_size, check_input=check_input)
    for number, answer in enumerate(answers):
        index, key, frame = places[number]
        place = {"index": index, "key": key, "frame": frame}
        if isinstance(answer, Result):
            rows.append(place | _row(answer))
        else:
            bad.append(place | {"reason": str(answer)})
    return rows, sorted(bad, key=lambda row: (row["index"], row["frame"]))


def _row(result: Result) -> dict[str, Any]:
    return {
        "verdict": result.verdict,
        "label": result.label,
        "input_kind": result.input_kind,
        "tumor_probability": result.tumor_probability,
        "uncertain": result.uncertain,
        "area_px": result.area_px,
        "head_fraction": result.head_fraction,
        "brain_share": result.head_fraction,  # until version 0.3
        "bbox": result.bbox,
        "centroid": result.centroid,
        "width": result.width,
        "height": result.height,
        "mask_png": result.mask_png() if result.area_px else None,
    }


# -- what keeps a screening one


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    import fcntl  # here: Windows has none, and the rest of bthub must import there

    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except BlockingIOError as error:
            raise BthubError(
                f"{folder}: another process is working on this shard: wait for it, or choose another shard"
            ) from error
        yield


def _same_screening(folder: Path, record: dict[str, Any]) -> None:
    if not (folder / RECORD).is_file():
        return
    there = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for key in _SAME:
        if there.get(key) != record[key]:
            raise BthubError(
                f"{folder} holds a screening with other {key} ({json.dumps(there.get(key))}, now "
                f"{json.dumps(record[key])}): continue with the same settings, or choose another folder"
            )


def _done(file: Path, names: str) -> tuple[int, int]:
    """Rows and bad ones of a part that is there."""
    facts = _parquet().read_metadata(file)
    known = facts.metadata or {}
    if known.get(b"names", b"").decode() != names:
        raise BthubError(f"{file} was made from other inputs: choose another --out folder")
    return facts.num_rows, int(known[b"bad"])


@contextmanager
def counting(inputs: list[str], shard: Shard, progress: tqdm) -> Iterator[None]:
    """Count the list beside the work, so that the bar can tell the time left."""
    over = threading.Event()

    def count() -> None:
        total = 0
        try:
            for _ in walk(inputs):
                total += 1
                if over.is_set():
                    return
        except BthubError:
            return  # the work comes to it, and says it
        progress.total = len(range(shard.number - 1, total, shard.of))

    thread = threading.Thread(target=count, name="count", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- all shards together


def merge(out: Path) -> dict[str, Any]:
    """Write `results.parquet` and `bad.parquet` of all shards.

    Returns:
        The shards' common record, with the sums of `pictures`, `bad` and `entries`.

    Raises:
        BthubError: a shard is missing or isn't done, two differ in inputs or models, or the list has changed between
            them.
    """
    found = sorted(out.glob(f"shard-*-of-*/{RECORD}"))
    if not found:
        raise BthubError(f"{out} has no shards: bthub screen INPUT... --out {out} writes them")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    first = records[0]
    for path, record in zip(found, records, strict=True):
        if not record.get("complete"):
            raise BthubError(f"{path.parent} isn't finished: run its command again")
        for key in (*_SAME, "listed"):
            if record[key] != first[key]:
                raise BthubError(
                    f"{path.parent} and {found[0].parent} differ in {key}: they are from different "
                    "screenings; merge only shards of one"
                )
    missing = sorted(set(range(1, first["of"] + 1)) - {record["shard"] for record in records})
    if missing:
        lacking = ", ".join(f"{number}/{first['of']}" for number in missing)
        raise BthubError(f"{out} lacks shard {lacking}: run that shard first")
    sums = {key: sum(record[key] for record in records) for key in ("pictures", "bad", "entries")}
    if sums["entries"] != first["listed"]:
        raise BthubError(f"the shards hold {sums['entries']} entries, the list has {first['listed']}: screen again")
    parts = [part for path in found for part in sorted(path.parent.glob("part-*.parquet"))]
    results = [part for part in parts if not part.name.endswith(".bad.parquet")]
    _join(results, out / RESULTS, _schema())
    _join([part for part in parts if part not in set(results)], out / BAD, _bad_schema())
    return {**{key: first[key] for key in _SAME}, **sums}


def _join(parts: list[Path], file: Path, schema: Any) -> None:
    """One file of many, part by part. Rows stand shard by shard; `index` has their order in the list."""
    parquet = _parquet()
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            table = parquet.read_table(part).replace_schema_metadata()
            if table.num_rows:
                writer.write_table(table)


# -- Parquet


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise BthubError('bthub screen needs pyarrow, which isn\'t installed: pip install "bthub[screen]"') from error
    return pyarrow.parquet


def _place() -> list[tuple[str, Any]]:
    import pyarrow as pa

    return [("index", pa.int64()), ("key", pa.string()), ("frame", pa.int32())]


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            *_place(),
            ("verdict", pa.string()),
            ("label", pa.string()),
            ("input_kind", pa.string()),
            ("tumor_probability", pa.float64()),
            ("uncertain", pa.bool_()),
            ("area_px", pa.int64()),
            ("head_fraction", pa.float64()),
            ("brain_share", pa.float64()),
            ("bbox", pa.list_(pa.int32())),
            ("centroid", pa.list_(pa.float64())),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("mask_png", pa.binary()),
        ]
    )


def _bad_schema() -> Any:
    import pyarrow as pa

    return pa.schema([*_place(), ("reason", pa.string())])


def _write(file: Path, rows: list[dict[str, Any]], schema: Any, metadata: dict[str, str]) -> None:
    """Write a part so that it is there whole or not at all, also after the machine has lost its power."""
    import pyarrow as pa

    table = pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(metadata or None)
    with replacing(file) as temporary, open(temporary, "wb") as stream:
        cast(Any, _parquet()).write_table(table, stream)
        stream.flush()
        os.fsync(stream.fileno())
