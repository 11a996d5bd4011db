"""Put the static page together: its modules, the models of two runs, the examples, and ONNX Runtime from npm.

    python space/browser/build.py OUT [--detector runs/lite0-mri] [--localizer runs/resunet18-mri]
    python -m http.server --directory OUT --bind 127.0.0.1 8000

onnxruntime-web is taken from the npm registry at ORT_VERSION; an archive with another digest is refused. The eight-bit
networks are taken where they ship, else the others.
"""

import argparse
import base64
import hashlib
import html
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path

from bthub.errors import BthubError, report_errors
from bthub.inference.backends.graphs import file_of
from bthub.project import default_run, hub_id
from bthub.runs.folder import CALIBRATION, INPUT_CHECK, ONNX_INPUT_CHECK, RunFolder
from bthub.runs.operating_point import MaskPoint

HERE = Path(__file__).parent
ORT_VERSION = "1.30.0"
ORT_INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = ("index.html", "app.js", "worker.js", "stages.js", "picture.js", "resize.js", "style.css")
EXAMPLES = {
    "Large tumor": "TCGA_DU_5871_19941206_22.png",
    "Medium tumor": "TCGA_FG_6691_20020405_25.png",
    "Small tumor": "TCGA_CS_4942_19970222_10.png",
    "Faint tumor": "TCGA_HT_A61B_19991127_31.png",
    "No tumor, low slice": "TCGA_HT_7475_19970918_14.png",
    "No tumor, high slice": "TCGA_DU_8162_19961029_22.png",
}


def build(out: Path, detector: str, localizer: str, app: str, cache: Path | None = None) -> int:
    """Write the page.

    Args:
        out: folder, missing or empty.
        detector, localizer: run folders with ONNX files.
        app: address of the app on a server, which the page names.
        cache: folder that keeps the archive from npm.

    Returns:
        Bytes that a visitor loads.

    Raises:
        BthubError: a run lacks its files, the archive can't be had or isn't the one that is pinned.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BthubError(f"{out} isn't empty: name a new folder")
    (out / "models").mkdir(parents=True)
    runs = {"detector": RunFolder.open(detector, onnx=True), "localizer": RunFolder.open(localizer, onnx=True)}
    models: dict = {}
    for stage, run in runs.items():
        quantized = run.quantized_ships()
        file = f"models/{stage}.onnx"
        shutil.copyfile(file_of(run, quantized), out / file)
        models[stage] = {"file": file, "model": {"id": run.id, "revision": run.revision, "eight_bit": quantized}}
    config, calibration = runs["detector"].detector_config, runs["detector"].detector_calibration
    if calibration.threshold is None:
        raise BthubError(f"{detector}: {CALIBRATION} has no threshold: finish the training of this run")
    points = {kind or "unknown": asdict(point) for kind, point in calibration.points.items()}
    models["detector"] |= {
        "size": config.pretrained_cfg.input_size[-1],
        "labels": config.label_names,
        "points": points,
    }
    preprocessor, marked = runs["localizer"].preprocessor, runs["localizer"].localizer_calibration.points
    usual = MaskPoint(min_area_share=preprocessor.min_area_share)
    models["localizer"] |= {
        "size": preprocessor.size.height,
        "points": {kind: asdict(point) for kind, point in {"unknown": usual, **marked}.items()},
    }
    if (runs["detector"].path / INPUT_CHECK).is_file():
        check = runs["detector"].input_check
        shutil.copyfile(runs["detector"].path / ONNX_INPUT_CHECK, out / "models/check.onnx")
        models["check"] = {
            "file": "models/check.onnx",
            "size": check.image_size,
            "threshold": check.threshold,
            "kinds": check.kinds,
        }
    models["bytes"] = sum(file.stat().st_size for file in (out / "models").iterdir())
    (out / "models.json").write_text(json.dumps(models, indent=2) + "\n", encoding="utf-8")

    fetch_runtime(out / "ort", cache)
    (out / "examples").mkdir()
    for name in (*EXAMPLES.values(), "README.md"):
        shutil.copyfile(HERE.parent / "examples" / name, out / "examples" / name)
    for name in (*PAGE, "README.md"):
        shutil.copyfile(HERE / name, out / name)
    shutil.copyfile(HERE.parent / "favicon.svg", out / "favicon.svg")
    buttons = "".join(
        f'<button data-file="{file}"><img src="examples/{file}" alt="" />{html.escape(name)}</button>'
        for name, file in EXAMPLES.items()
    )
    files = sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".md" and path.name not in ("LICENSE", "NOTICES")
    )
    size = sum((out / file).stat().st_size for file in files)
    page = (HERE / "index.html").read_text(encoding="utf-8")
    for place, text in (("EXAMPLES", buttons), ("APP", html.escape(app)), ("SIZE", f"{size / 1e6:.0f}")):
        page = page.replace(place, text)
    (out / "index.html").write_text(page, encoding="utf-8")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.encode() + hashlib.sha256((out / file).read_bytes()).digest())
    # The models and the runtime are kept when they come by; the rest is small.
    kept = json.dumps(["./", *(f"./{file}" for file in files if Path(file).suffix not in (".onnx", ".wasm"))])
    head = f'const VERSION = "bthub-{digest.hexdigest()[:16]}";\nconst FILES = {kept};\n\n'
    (out / "offline.js").write_text(head + (HERE / "offline.js").read_text(encoding="utf-8"), encoding="utf-8")
    return size


def fetch_runtime(out: Path, cache: Path | None = None) -> None:
    """ONNX Runtime's modules and its license."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"onnxruntime-web-{ORT_VERSION}.tgz"
        if not archive.is_file():
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"onnxruntime-web@{ORT_VERSION}"]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except FileNotFoundError as error:
                raise BthubError("npm isn't installed, which brings onnxruntime-web: install Node.js") from error
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip().partition("\n")[0]
                raise BthubError(f"npm could not bring onnxruntime-web {ORT_VERSION}: {reason}") from error
        digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != ORT_INTEGRITY:
            archive.unlink()
            raise BthubError(f"onnxruntime-web {ORT_VERSION} has the digest {digest}, expected {ORT_INTEGRITY}")
        out.mkdir(parents=True)
        with tarfile.open(archive) as packed:
            for name in ORT_FILES:
                member = packed.extractfile(f"package/dist/{name}")
                assert member is not None
                (out / name).write_bytes(member.read())
    # The npm package names its license and doesn't hold it; the Python package of the same project does.
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    package = Path(found.origin).parent
    shutil.copyfile(package / "LICENSE", out / "LICENSE")
    shutil.copyfile(package / "ThirdPartyNotices.txt", out / "NOTICES")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--detector", default=default_run("detector"))
    parser.add_argument("--localizer", default=default_run("localizer"))
    parser.add_argument("--app", default=f"https://huggingface.co/spaces/{hub_id('brain-tumor-mri')}")
    args = parser.parse_args()
    size = build(args.out, args.detector, args.localizer, args.app)
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
