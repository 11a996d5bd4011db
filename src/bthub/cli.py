"""The command line: `bthub COMMAND`; `bthub --help` lists the commands."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bthub.errors import BthubError, named_path, report_errors

# The extra that a command's packages come with, for whoever installed bthub without it.
EXTRAS = {
    "cost": "torch",
    **dict.fromkeys(("predict", "bench"), "torch"),  # of a run without ONNX files
    "screen": "screen",
    "export": "export",
    **dict.fromkeys(("data", "train", "ood-check", "imagenet-weights"), "train"),
    **dict.fromkeys(("evaluate", "explain", "compare", "two-stage", "cross-validate", "card", "publish"), "evaluation"),
    "clean-stacks": "evaluation",
    "reproduce": "train,evaluation",
    "practice": "practice",
}


# What a run's ONNX files run on; see `bthub.inference.backends`, which isn't imported for a list of options.
RUNTIMES = ("onnx", "int8", "openvino", "openvino-int8")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. Problems that the user can mend are one sentence on stderr, code 2."""
    args = _parser().parse_args(argv)
    return report_errors(lambda: _run(args))


def _run(args: argparse.Namespace) -> int | None:
    if not sys.stderr.isatty():  # bars of libraries, in a log, are hundreds of half lines
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
    try:
        return args.run(args)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "bthub"):
            raise
        if name == "fcntl":
            raise BthubError(f"bthub {args.command} doesn't run on Windows itself: use WSL") from error
        raise BthubError(
            f'bthub {args.command} needs {name}, which isn\'t installed: pip install "bthub[{EXTRAS[args.command]}]"'
        ) from error


# Each command imports what it needs when it runs: `bthub --help` doesn't wait for torch.


def _add_split(command: argparse.ArgumentParser, data: str) -> None:
    """Add the options that select the images to evaluate on."""
    command.add_argument("--data", required=True, help=data)
    command.add_argument("--split", required=True, help="validation, test or benchmark")
    command.add_argument(
        "--protocol", help="patient, slice or fold-1 to fold-5; default: the one that the run was trained under"
    )
    command.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")


def _add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend",
        choices=("auto", *RUNTIMES, "torch"),
        help="runtime of the networks; default: BTHUB_BACKEND, or auto, the fastest on this machine without PyTorch",
    )


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    command.add_argument("--detector", help="run folder or Hub id of the detector; default: the project's own")
    command.add_argument("--localizer", help="run folder or Hub id of the localizer; default: the project's own")
    command.add_argument(
        "--no-input-check",
        dest="input_check",
        action="store_false",
        help="analyze pictures even if they don't look like a slice of a brain MRI",
    )
    command.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    _add_backend(command)


def _script(name: str) -> Callable[[argparse.Namespace], None]:
    """A command whose arguments `bthub.training.NAME` reads itself, as it does for the scripts of train/."""

    def run(args: argparse.Namespace) -> None:
        import_module(f"bthub.training.{name}").main(args.rest, args.prog)

    return run


def _data_build(args: argparse.Namespace) -> None:
    from bthub.data.build import build

    build(args.source, args.out, args.validation, args.test, args.unlike)


def _data_mix(args: argparse.Namespace) -> None:
    from bthub.data.mix import mix
    from bthub.data.summary import describe

    mix(args.sets, args.out, args.test_only)
    print(describe(str(args.out)))


def _data_info(args: argparse.Namespace) -> None:
    from bthub.data.summary import describe

    print(describe(args.dataset))


def _runs(args: argparse.Namespace) -> list[str | Path]:
    """The runs that a command names.

    A pattern such as `runs/*/` also gives the folder of the comparison's runs, which is left out. Alone it stays: what
    opens it says that it is no run.
    """
    from bthub.runs.folder import holds_runs

    runs = [run for run in args.runs if not holds_runs(run)]
    for folder in args.runs if runs else ():
        if folder not in runs:
            print(f"bthub: skipped {folder}: it is a folder of runs, not a run", file=sys.stderr)
    return runs or args.runs


def _evaluate(args: argparse.Namespace) -> None:
    from bthub.evaluation.evaluate import TORCH, evaluate, summary
    from bthub.inference.backends import open_stage
    from bthub.runs.folder import RunFolder

    # Here, because stages are opened by a package that comes after that of evaluation.
    stage = None if args.backend == TORCH else open_stage(RunFolder.local(args.run_folder), args.backend)
    entry = evaluate(
        args.run_folder,
        args.data,
        args.split,
        protocol=args.protocol,
        batch_size=args.batch_size,
        backend=args.backend,
        stage=stage,
    )
    print(summary(entry))


def _export(args: argparse.Namespace) -> None:
    from bthub.models.export import export, summary

    for run in _runs(args):
        print(summary(export(run, args.data, pictures=args.pictures)))


def _cost(args: argparse.Namespace) -> None:
    from bthub.evaluation.cost import write_fastest

    for run, found in write_fastest(_runs(args)).items():
        print(f"{run}: {found['multiply_adds'] / 1e9:.2f} billion multiply-adds, {found['latency_ms']} ms a slice")


def _compare(args: argparse.Namespace) -> None:
    from bthub.reports import tables
    from bthub.runs.records import open_run

    print(tables.write([open_run(run) for run in _runs(args)], args.out, args.split))


def _two_stage(args: argparse.Namespace) -> None:
    from bthub.evaluation.scoring import figures_table
    from bthub.evaluation.two_stage import two_stage
    from bthub.runs.records import open_run

    entry = two_stage(open_run(args.detector), open_run(args.localizer), args.split)
    _write_result(args.out / f"two-stage-{entry['protocol']}-{args.split}.json", entry)
    print("\n".join(figures_table(entry["metrics"])))


def _clean_stacks(args: argparse.Namespace) -> None:
    from bthub.evaluation.stack_cleaning import stack_cleaning
    from bthub.runs.records import open_run

    found = stack_cleaning(open_run(args.localizer))
    _write_result(args.out / f"stack-cleaning-{found['protocol']}.json", found)
    for split in ("validation", "test"):
        before, after = (found[split][which]["dice_volume_mean"] for which in ("without", "with"))
        healthy, tumor = (found[split][f"removed_{kind}"] for kind in ("tumor_free", "tumor"))
        print(
            f"{split}: mean Dice of the volumes {before.value:.3f} without, {after.value:.3f} with cleaning;"
            f" masks removed on {healthy} tumor-free and {tumor} tumor slices"
        )


def _cross_validate(args: argparse.Namespace) -> None:
    from bthub.evaluation.cross_validation import cross_validation
    from bthub.evaluation.scoring import figures_table
    from bthub.runs.records import open_run

    entry = cross_validation([open_run(run) for run in _runs(args)])
    _write_result(args.out / "cross-validation.json", entry)
    print("\n".join(figures_table(entry["metrics"])))


def _write_result(path: Path, entry: dict) -> None:
    from bthub.runs.folder import results_in, write_json

    with results_in(path.parent):
        write_json(path, entry)
    print(path)


def _explain(args: argparse.Namespace) -> None:
    from bthub.evaluation.gradcam import explain, summary

    for run in _runs(args):
        entry = explain(run, args.data, args.split, protocol=args.protocol, batch_size=args.batch_size)
        print(f"{run}: {summary(entry)}")


def _migrate(args: argparse.Namespace) -> None:
    from bthub.runs.names import migrate

    for run in _runs(args):
        print(f"{run}: {', '.join(migrate(Path(run))) or 'up to date'}")


def _card(args: argparse.Namespace) -> None:
    from bthub.reports.model_card import write

    for run in _runs(args):
        print(write(run, copies=args.copies))


def _publish(args: argparse.Namespace) -> None:
    from bthub.project import ORG
    from bthub.reports.publish import publish

    publish(args.what, args.org or ORG, private=args.private, dry_run=args.dry_run, data=args.data)


def _predict(args: argparse.Namespace) -> int:
    from bthub.inference import predict

    return predict.run(
        args.images,
        as_json=args.json,
        out=args.out,
        detector=args.detector,
        localizer=args.localizer,
        always_localize=args.always_localize,
        spacing_mm=args.spacing,
        batch_size=args.batch_size,
        check_input=args.input_check,
        series=args.series,
        plane=args.plane,
        clean=args.clean,
        backend=args.backend,
    )


def _screen(args: argparse.Namespace) -> None:
    from bthub.inference.screen import merge, parse_shard, screen

    if args.merge:
        if args.inputs:
            raise BthubError(
                f"--merge takes no inputs, received {' '.join(args.inputs)}: it merges the shards in --out"
            )
        done = merge(args.out)
    elif not args.inputs:
        raise BthubError("expected at least one input: a picture, folder, zip or data set")
    elif args.ray is not None:
        if args.shard or args.workers is not None:
            raise BthubError(
                "--ray distributes the work itself, by the processors of the cluster: leave out --shard and --workers"
            )
        from bthub.inference.screen_ray import screen_on_ray

        done = screen_on_ray(
            args.inputs,
            args.out,
            args.ray,
            detector=args.detector,
            localizer=args.localizer,
            backend=args.backend,
            batch_size=args.batch_size,
            check_input=args.input_check,
        )
        machines = f"{done['nodes']} machine{'s' * (done['nodes'] != 1)}"
        print(
            f"bthub: {done['shards']} shards on {machines}; now: bthub screen --merge --out {args.out}", file=sys.stderr
        )
    else:
        shard = parse_shard(args.shard)
        if shard.of > 1:
            print(f"bthub: shard {shard.number} of {shard.of}", file=sys.stderr)
        done = screen(
            args.inputs,
            args.out,
            shard=shard,
            detector=args.detector,
            localizer=args.localizer,
            backend=args.backend,
            batch_size=args.batch_size,
            check_input=args.input_check,
            workers=args.workers,
        )
    print(
        f"{done['entries']:,} entries: {done['pictures']:,} pictures analyzed, {done['bad']:,} could not be analyzed "
        "(the reasons are in the files *bad.parquet)"
    )


def _practice(args: argparse.Namespace) -> int | None:
    from bthub.practice import commands

    return commands.main(args.rest, args.prog)


def _bench(args: argparse.Namespace) -> None:
    from bthub.inference.bench import run

    print(run(args.image, args.repeats, backend=args.backend))


def _add(group: Any, name: str, help: str, description: str | None = None, **options: Any) -> argparse.ArgumentParser:
    """A command, whose own --help begins with what the list of commands says of it."""
    return group.add_parser(name, help=help, description=description or f"{help[0].upper()}{help[1:]}.", **options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bthub",
        description="Detect, outline and measure brain tumors in MRI slices. Research software, not a medical device.",
        epilog="To start: bthub predict PICTURE. bthub COMMAND --help explains a command; docs/usage.md has examples.",
    )
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND", dest="command")

    data = _add(commands, "data", help="build and inspect data sets").add_subparsers(required=True, metavar="ACTION")
    build = _add(data, "build", help="turn a download (folder or zip) into a data set that datasets.load_dataset reads")
    build.add_argument("source", type=named_path, help="LGG MRI Segmentation as downloaded, or an image-folder set")
    build.add_argument("out", type=named_path, help="folder to write, missing or empty")
    for split in ("validation", "test"):
        build.add_argument(
            f"--{split}",
            type=float,
            metavar="SHARE",
            help=f"fraction of the images for {split}, if the image-folder set has no split of its own; default: 0.15"
            + (", 0 for none" if split == "test" else ""),
        )
    build.add_argument(
        "--exclude-similar-to",
        "--unlike",
        dest="unlike",
        type=named_path,
        metavar="DATASET",
        help="leave out pictures that have a near-duplicate in this built set (image-folder sets only); a run on one "
        "of the two sets may then start from a run on the other",
    )
    build.set_defaults(run=_data_build)
    mix = _add(data, "mix", help="combine built sets into one, labeled tumor or no tumor, with the source of each row")
    mix.add_argument("sets", nargs="+", type=named_path, metavar="SET", help="folders of `bthub data build`")
    mix.add_argument("--out", required=True, type=named_path, help="folder to write, missing or empty")
    mix.add_argument(
        "--test-only",
        nargs="+",
        type=named_path,
        default=[],
        metavar="SET",
        help="built sets that go into test as a whole; their near-duplicates are left out of train",
    )
    mix.set_defaults(run=_data_mix)
    info = _add(data, "info", help="show what is in a built data set")
    info.add_argument("dataset", help="folder of `bthub data build`, or a Hub id")
    info.set_defaults(run=_data_info)

    train = _add(commands, "train", help="train a classifier or a ResUNet; writes a run folder")
    train.description = (
        "Train a network on a built data set, and write its run folder: weights, calibration, records. Trains on one "
        "device. For several: accelerate launch --module bthub.training.classifier (or resunet)."
    )
    networks = train.add_subparsers(required=True, metavar="NETWORK")
    for parent, command, name, words in (
        (networks, "classifier", "classifier", "fine-tune a timm classifier"),
        (networks, "resunet", "resunet", "train a ResUNet to outline the tumor"),
        (commands, "reproduce", "reproduce", "train a run of the comparison again, and evaluate it"),
        (
            commands,
            "ood-check",
            "ood_check",
            "fit the input check (out-of-distribution detection), which refuses pictures that aren't brain MRI slices",
        ),
        (commands, "imagenet-weights", "imagenet", "make ImageNet weights from installed packages, without the Hub"),
    ):
        # Its own parser has the options, and --help.
        script = _add(parent, command, help=words, add_help=False, prefix_chars="\0")
        script.add_argument("rest", nargs=argparse.REMAINDER)
        script.set_defaults(run=_script(name), prog=script.prog)

    evaluate = _add(commands, "evaluate", help="evaluate a run on a split; adds the results to its folder")
    evaluate.add_argument("run_folder", metavar="run", type=named_path, help="run folder")
    _add_split(evaluate, "folder of `bthub data build`, or a Hub id")
    evaluate.add_argument(
        "--backend",
        default="torch",
        choices=("torch", *RUNTIMES),
        help="runtime of the network; except for torch, the results and their difference from torch go into "
        "onnx/metrics.json; default: %(default)s",
    )
    evaluate.set_defaults(run=_evaluate)

    export = _add(
        commands, "export", help="write ONNX files of runs, also in 8-bit integers, so that serving needs no PyTorch"
    )
    export.add_argument("runs", metavar="run", type=named_path, nargs="+", help="run folder")
    export.add_argument(
        "--data",
        help="the data set they were trained on: folder of `bthub data build`, or a Hub id; default: the folder below "
        "data/ that has the set's name",
    )
    export.add_argument(
        "--pictures",
        type=int,
        default=128,
        help="number of training pictures for the ranges of the 8-bit networks; default: %(default)s",
    )
    export.set_defaults(run=_export)

    cost = _add(commands, "cost", help="count parameters and measure latency; the machine should be idle")
    cost.add_argument("runs", metavar="run", type=named_path, nargs="+", help="run folder")
    cost.set_defaults(run=_cost)

    results = {"type": named_path, "default": Path("results"), "help": "folder for the results; default: %(default)s"}
    table = _add(commands, "compare", help="compare runs in tables, and say which differences exceed noise")
    table.add_argument("runs", metavar="run", nargs="+", help="run folder (weights aren't needed) or Hub id")
    table.add_argument("--split", default="test", help="default: %(default)s")
    table.add_argument("--out", **results)
    table.set_defaults(run=_compare)

    joined = _add(commands, "two-stage", help="metrics of both stages together, from the predictions of two runs")
    joined.add_argument("detector", help="run folder or Hub id")
    joined.add_argument("localizer", help="run folder or Hub id")
    joined.add_argument("--split", default="test", help="default: %(default)s")
    joined.add_argument("--out", **results)
    joined.set_defaults(run=_two_stage)

    cleaned = _add(commands, "clean-stacks", help="measure Dice with and without removing isolated areas")
    cleaned.add_argument("localizer", help="run folder or Hub id")
    cleaned.add_argument("--out", **results)
    cleaned.set_defaults(run=_clean_stacks)

    folds = _add(commands, "cross-validate", help="metrics of all folds together, from the predictions of their runs")
    folds.add_argument("runs", metavar="run", nargs="+", help="run folder or Hub id, one for each fold")
    folds.add_argument("--out", **results)
    folds.set_defaults(run=_cross_validate)

    explain = _add(commands, "explain", help="measure how much of a detector's Grad-CAM lies on the tumor")
    explain.add_argument("runs", metavar="run", type=named_path, nargs="+", help="run folder")
    _add_split(explain, "the LGG set: folder of `bthub data build`, or a Hub id")
    explain.set_defaults(run=_explain)

    migrated = _add(commands, "migrate", help="rewrite the files of old run folders with today's names")
    migrated.add_argument("runs", metavar="run", type=named_path, nargs="+", help="run folder")
    migrated.set_defaults(run=_migrate)

    card = _add(commands, "card", help="write the model card (README.md) of runs from their files")
    card.add_argument("runs", metavar="run", type=named_path, nargs="+", help="run folder")
    card.add_argument("--copies", type=named_path, help="folder for a copy of each card")
    card.set_defaults(run=_card)

    publish = _add(
        commands,
        "publish",
        help="publish runs, data set, apps and docs on the Hugging Face Hub",
        description="Bring repos on the Hub up to date with this clone, each in one commit. Run `hf auth login` first.",
    )
    publish.add_argument(
        "what",
        metavar="WHAT",
        nargs="+",
        help="run folders, or parts: dataset, two-stage, space, dashboard, browser, docs, collection; or all, for "
        "every part and the runs of the comparison that have weights here",
    )
    publish.add_argument("--org", help="organization or user; default: the project's, or BTHUB_ORG")
    publish.add_argument(
        "--private", action="store_true", help="make new repos private; stops if one of them is already public"
    )
    publish.add_argument("--dry-run", action="store_true", help="print what would change, without publishing")
    publish.add_argument("--data", default="data/lgg", help="folder of `bthub data build`; default: %(default)s")
    publish.set_defaults(run=_publish)

    predict = _add(commands, "predict", help="analyze pictures, scans and folders: tumor or not, where, how large")
    predict.description = "Tumor or not, where and how large. Research software, not a medical device."
    predict.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="picture, DICOM, NIfTI, TIFF, zip or folder of a study, folder of pictures, or URL",
    )
    predict.add_argument("--json", action="store_true", help="print one JSON object per line")
    predict.add_argument("--out", type=named_path, help="folder for overlays, masks and results.jsonl")
    predict.add_argument(
        "--always-localize", action="store_true", help="run the localizer even if no tumor was detected"
    )
    predict.add_argument(
        "--spacing", type=float, nargs=2, metavar=("ROW_MM", "COL_MM"), help="pixel size, to give areas in mm²"
    )
    predict.add_argument(
        "--series",
        type=int,
        metavar="N",
        help="which series of a study, from 1; default: the one most like FLAIR, or the longest",
    )
    predict.add_argument(
        "--plane",
        choices=("axial", "coronal", "sagittal"),
        help="cut a NIfTI or DICOM scan in this plane; default: as it was scanned",
    )
    predict.add_argument(
        "--no-cleaning",
        dest="clean",
        action="store_false",
        help="keep isolated areas that appear on a single slice of a stack",
    )
    _add_pipeline(predict)
    predict.set_defaults(run=_predict)

    screen = _add(
        commands, "screen", help="analyze archives of any size, into Parquet: folders, zips, DICOM, data sets"
    )
    screen.description = (
        "Analyze archives, part by part. If it is interrupted, start the same command again to continue. Research "
        "software, not a medical device."
    )
    screen.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="picture, DICOM file, zip, folder of them, built data set, or Hub id"
    )
    screen.add_argument(
        "--out", type=named_path, required=True, help="folder for the results; with --merge, the folder of the shards"
    )
    screen.add_argument(
        "--shard",
        metavar="I/N",
        help="analyze part I of N; default: from the variables of SLURM or torchrun, else everything",
    )
    screen.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="analyze all shards on this Ray cluster: HOST:PORT, ray://HOST:PORT, auto or local",
    )
    screen.add_argument(
        "--merge", action="store_true", help="merge the shards in --out into results.parquet and bad.parquet"
    )
    screen.add_argument("--workers", type=int, help="batches analyzed at the same time; default: one per processor")
    _add_pipeline(screen)
    screen.set_defaults(run=_screen)

    # Its own parser has the actions, and --help.
    practice = _add(
        commands,
        "practice",
        help="serve or administer the practice: accounts, cases and reports",
        add_help=False,
        prefix_chars="\0",
    )
    practice.add_argument("rest", nargs=argparse.REMAINDER)
    practice.set_defaults(run=_practice, prog=practice.prog)

    bench = _add(commands, "bench", help="measure the latency of each stage on this machine")
    bench.add_argument(
        "--image", type=named_path, help="picture to measure with; default: a slice that comes with the clone"
    )
    bench.add_argument("--repeats", type=int, default=50, help="measurements per stage; default: %(default)s")
    _add_backend(bench)
    bench.set_defaults(run=_bench)
    return parser


if __name__ == "__main__":
    sys.exit(main())
