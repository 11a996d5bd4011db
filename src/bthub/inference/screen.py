"""`bthub screen`: archives of any size, part by part; an interrupted screening continues where it stopped.

    OUT/shard-0001-of-0004/
        screen.json               what is screened, and with which models; once all is done also how much there was
        part-000000.parquet       the results of the shard's first PART entries, one row a picture
        part-000000.bad.parquet   those of them that couldn't be read or were refused, and why
    OUT/results.parquet, OUT/bad.parquet    all shards, from `bthub screen --merge`

A part is written whole, under its name only when it is complete: where it is there, its entries are done. Started
again, the list is walked anew, what is done is passed over, and each part is held against the names now in its place. A
part that is damaged, or has lost one of its two files, is done again.
Entry k of the list belongs to shard k modulo n. Workers read, prepare and analyze batches side by side, each network on
one thread, and only so many batches are in flight as there are workers to take them.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from tqdm import tqdm

from bthub.data.progress import progress_bar, say
from bthub.errors import BthubError, check_count
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
# Set by what starts an array of jobs: number of this one, of all, of the first, and from one to the next.
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)


@dataclass(frozen=True)
class Shard:
    """A share of the list: number 1 to `of`."""

    number: int
    of: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:04d}-of-{self.of:04d}"


def shards_begun(out: Path) -> int | None:
    """Into how many shards a screening was cut that is there already."""
    for folder in out.glob("shard-*-of-*"):
        if found := re.fullmatch(r"shard-\d+-of-(\d+)", folder.name):
            return int(found[1])
    return None


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """`i/n`, or without it what SLURM or torchrun says of this process; else the whole.

    Raises:
        BthubError: it isn't a number from 1 to n, or the variables don't say one.
    """
    if text is not None:
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise BthubError(f"the shard is {text!r}, expected i/n with i from 1 to n, as 2/8")
        return shard
    for names in _ARRAYS:
        given = {name: environment[name] for name in names if name in environment}
        if not {*names[:2]} <= given.keys() or not any(given.values()):
            continue
        values = [given.get(name, other) for name, other in zip(names, ("", "", "0", "1"), strict=False)]
        if all(re.fullmatch(r"[0-9]{1,9}", value) for value in values):
            number, of, first, step = [*map(int, values), 0, 1][:4]
            if step and number >= first and (number - first) % step == 0 and (number - first) // step < of:
                return Shard((number - first) // step + 1, of)
        variables = " ".join(f"{name}={value}" for name, value in given.items())
        raise BthubError(
            f"{variables}: these variables don't say which shard of how many this is; name it with --shard, as 2/8"
        )
    return Shard(1, 1)


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
        check_count(what, number, most=65_536)
    if (begun := shards_begun(out)) not in (None, shard.of):
        raise BthubError(
            f"{out} holds a screening in {begun} shard{'s' * (begun > 1)}, but this would be shard {shard.number} of "
            f"{shard.of}: name the shard, for example --shard 1/{begun}, or choose another --out folder"
        )
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
            # A finished one stays so where nothing is done again, or its inputs turn out to have changed.
            if not (folder / RECORD).is_file() or not read_record(folder / RECORD)["complete"]:
                write_json(folder / RECORD, record)
            done = _work(pipe, inputs, folder, shard, batch_size, check_input, workers)
            write_json(folder / RECORD, record | done)
    except OSError as error:
        raise BthubError(f"{folder}: the results can't be written ({error.strerror or error})") from error
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
        progress_bar(desc="screening", unit="item", smoothing=0.05, mininterval=1) as progress,
        counting(inputs, shard, progress),
        ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool,
    ):
        number = 0
        while part := list(islice(entries, PART)):
            names = hashlib.sha256("\n".join(f"{i} {item.key}" for i, item in part).encode()).hexdigest()
            file = _part_file(folder, number)
            if (done := _done(file, names)) is not None:
                rows, bad = done
                progress.initial += len(part)  # the rate is that of what is done now
                progress.update(len(part))
            else:
                rows, bad = _part(pipe, pool, part, file, names, batch_size, check_input, workers, progress)
            counts["pictures"] += rows
            counts["bad"] += bad
            counts["entries"] += len(part)
            number += 1
    if _part_file(folder, number).exists():
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
    _write(_bad_file(file), bad, _bad_schema(), {})
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
                bad.append({"index": index, "key": item.key, "frame": 0, "reason": _reason(error)})
                continue
            for frame, image in pictures:
                if isinstance(image, BthubError):
                    bad.append({"index": index, "key": item.key, "frame": frame, "reason": _reason(image)})
                    continue
                places.append((index, item.key, frame))
                yield ReadPicture(item.key, image, 0.0)

    answers = pipe.stream(read(), on_error="yield", batch_size=batch_size, check_input=check_input)
    for number, answer in enumerate(answers):
        index, key, frame = places[number]
        place = {"index": index, "key": key, "frame": frame}
        if isinstance(answer, Result):
            rows.append(place | _row(answer))
        else:
            bad.append(place | {"reason": _reason(answer)})
    return rows, sorted(bad, key=lambda row: (row["index"], row["frame"]))


def _reason(error: BthubError) -> str:
    """Its text, as Parquet can hold it."""
    return str(error).encode(errors="backslashreplace").decode()


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
    there = read_record(folder / RECORD)
    for key in _SAME:
        if there[key] != record[key]:
            raise BthubError(
                f"{folder} holds a screening with other {key} ({json.dumps(there[key])}, now "
                f"{json.dumps(record[key])}): continue with the same settings, or choose another folder"
            )


class _Settings(msgspec.Struct):
    check_input: bool
    part: Annotated[int, msgspec.Meta(ge=1)]


class _Record(msgspec.Struct):
    """What of `screen.json` is relied on."""

    inputs: list[str]
    shard: int
    of: Annotated[int, msgspec.Meta(ge=1)]
    models: dict[str, dict[str, str]]
    settings: _Settings
    pictures: int = 0
    bad: int = 0
    entries: int = 0
    listed: int = 0
    complete: bool = False


def read_record(file: Path) -> dict[str, Any]:
    """The content of a `screen.json`.

    Raises:
        BthubError: it isn't whole.
    """
    try:
        content = json.loads(file.read_bytes())
        record = msgspec.structs.asdict(msgspec.convert(content, _Record)) | content
    except (ValueError, msgspec.ValidationError) as error:
        raise BthubError(
            f"{file} is damaged ({error}), so it can't be told what the parts beside it were made from: restore it, or "
            f"remove {file.parent} and run the command of this shard again"
        ) from error
    return record


def _part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _bad_file(part: Path) -> Path:
    return part.with_suffix(".bad.parquet")


def _done(file: Path, names: str) -> tuple[int, int] | None:
    """Rows and bad ones of a part that is there; None where it isn't, or not whole, so that it is done again."""
    if not file.exists():
        return None
    try:
        rows, bad, known = _counted(file)
    except BthubError as error:
        say(f"{error}; its entries are analyzed again")
        return None
    if known != names:
        raise BthubError(f"{file} was made from other inputs: choose another --out folder")
    return rows, bad


def _counted(file: Path) -> tuple[int, int, str]:
    """Rows and bad ones of a part, and the digest of the names of its entries.

    Raises:
        BthubError: one of its two files is missing or damaged.
    """
    bad_file = _bad_file(file)
    for one in (file, bad_file):
        if not one.exists():
            raise BthubError(f"{one} is missing")
    facts = _read(file, _parquet().read_metadata)
    bad = _read(bad_file, _parquet().read_metadata).num_rows
    known = facts.metadata or {}
    if known.get(b"bad", b"").decode() != str(bad):
        raise BthubError(f"{bad_file} isn't the one that {file.name} was written with")
    return facts.num_rows, bad, known.get(b"names", b"").decode()


def _read(file: Path, reads: Callable[[Path], Any]) -> Any:
    """What a function of `pyarrow.parquet` reads from a file.

    Raises:
        BthubError: the file is damaged.
    """
    from pyarrow import ArrowException

    try:
        return reads(file)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # it can't be read at all
        raise BthubError(f"{file} is damaged") from error


@contextmanager
def counting(inputs: list[str], shard: Shard, progress: tqdm) -> Iterator[None]:
    """Count the list beside the work, so that the bar can tell the time left."""
    if not all(Path(name).exists() for name in inputs):  # a data set on the Hub would be downloaded for it
        yield
        return
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
        BthubError: a shard, or a part of one, is missing, damaged or isn't done, two shards differ in inputs or models,
            the list has changed between them, or a file can't be read or written.
    """
    found = sorted(out.glob(f"shard-*-of-*/{RECORD}"))
    if not found:
        raise BthubError(f"{out} has no shards: bthub screen INPUT... --out {out} writes them")
    records = [read_record(path) for path in found]
    first = records[0]
    for path, record in zip(found, records, strict=True):
        if not record.get("complete"):
            raise BthubError(f"{path.parent} isn't finished: run its command again")
        for key in (*_SAME, "listed"):
            if record.get(key) != first.get(key):
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
    try:
        parts = [part for path, record in zip(found, records, strict=True) for part in _parts(path.parent, record)]
        _join(parts, out / RESULTS, _schema())
        _join([_bad_file(part) for part in parts], out / BAD, _bad_schema())
    except OSError as error:
        raise BthubError(f"{out}: the shards can't be merged ({error})") from error
    return {**{key: first[key] for key in _SAME}, **sums}


def _parts(folder: Path, record: dict[str, Any]) -> list[Path]:
    """The parts of a shard that is done.

    Raises:
        BthubError: one is missing or damaged, or they hold another number of rows than the record says.
    """
    again = f"run the command of shard {record['shard']}/{record['of']} again, which does only what is missing"
    parts = [_part_file(folder, number) for number in range(-(-record["entries"] // record["settings"]["part"]))]
    sums = {"pictures": 0, "bad": 0}
    for part in parts:
        try:
            rows, bad, _ = _counted(part)
        except BthubError as error:
            raise BthubError(f"{error}: {again}") from error
        sums["pictures"] += rows
        sums["bad"] += bad
    for key, number in sums.items():
        if number != record[key]:
            raise BthubError(f"the parts in {folder} hold {number} {key}, {RECORD} says {record[key]}: {again}")
    return parts


def _join(parts: list[Path], file: Path, schema: Any) -> None:
    """One file of many, part by part. Rows stand shard by shard; `index` has their order in the list."""
    parquet = _parquet()
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            try:
                table = _read(part, parquet.read_table).replace_schema_metadata()
            except BthubError as error:  # in the middle: its end, which is looked at first, is whole
                raise BthubError(f"{error}: remove it, and run the command of its shard again") from error
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
