"""The two stages, loaded from their run folders.

import bthub

pipe = bthub.load_pipeline()
print(pipe("slice.png").to_dict())
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from bthub.errors import BthubError, check_count
from bthub.inference import backends
from bthub.inference.backends import eager
from bthub.inference.pipeline import Detector, Localizer, Pipeline
from bthub.project import default_run
from bthub.runs.folder import CALIBRATION, CLASSIFICATION, METRICS, SEGMENTATION, RunFolder
from bthub.runs.schema import Measured, MeasuredSources, SourcePart


def load_pipeline(
    detector: str | Path | RunFolder | None = None,
    localizer: str | Path | RunFolder | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    check_input: bool = True,
    backend: str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pipeline:
    """Load the two stages.

    Args:
        detector, localizer: run folder or Hub id of each; by default the project's own, from the clone's `runs/`
            or from the Hub.
        revision: branch, tag or commit on the Hub, the same for both.
        device: a torch device such as `cpu` or `cuda:1`; by default the GPU if there is one. Backends other than torch
            run on the CPU.
        check_input: refuse pictures that don't look like a slice of a brain MRI, if the detector's run has an input
            check; False analyzes them too, each at the threshold of its kind.
        backend: "torch", "onnx", "int8", "openvino" or "openvino-int8" for both stages, or "auto": for each stage the
            fastest on this machine without torch, see `bthub.inference.backends`. By default the environment variable
            BTHUB_BACKEND, or "auto".
        threads: CPU threads per network, at least 1 (torch has one setting for all networks and ignores this); by
            default one per processor.
        say: called once per machine with the timings and the choice of "auto".

    Raises:
        BthubError: a run is missing, incomplete, damaged or of the wrong task, the device doesn't exist, no installed
            backend can run it, or the number of threads isn't one.
    """
    if threads is not None:
        check_count("number of threads", threads)
    backend = backends.check_name(backend or os.environ.get(backends.CHOICE) or backends.AUTO)
    if backend == backends.TORCH:
        # Before anything is fetched.
        eager.check_installed()
        eager.choose_device(device)
    weights = backend == backends.TORCH or (backend == backends.AUTO and backends.torch_installed())
    runs = {
        stage: RunFolder.open(
            default_run(stage) if run is None else run, revision, weights=weights, onnx=backend != backends.TORCH
        )
        for stage, run in (("detector", detector), ("localizer", localizer))
    }
    runs["detector"].require(CLASSIFICATION)
    runs["localizer"].require(SEGMENTATION)
    taken = {stage: backends.choose(run, backend, device, say) for stage, run in runs.items()}
    stages = {stage: backends.open_stage(run, taken[stage], device, threads) for stage, run in runs.items()}
    classifier, detector_run = cast(Detector, stages["detector"]), runs["detector"]
    _ = classifier.tumor_index  # one that knows other classes is told so before it lacks a threshold
    calibration = detector_run.detector_calibration
    if calibration.threshold is None:
        raise BthubError(f"{detector_run.id}: {CALIBRATION} has no threshold: finish the training of this run")
    points = calibration.points
    return Pipeline(
        classifier,
        cast(Localizer, stages["localizer"]),
        threshold=points[None].threshold,
        referral_band=points[None].referral_band,
        points=points,
        figures=_figures(detector_run, "by_kind"),
        sources=_figures(detector_run, "by_source"),
        input_check=backends.open_check(detector_run, taken["detector"], device, threads),
        refuses=check_input,
        models={
            stage: {"id": run.id, "revision": run.revision, "backend": taken[stage]} for stage, run in runs.items()
        },
    )


def _figures(run: RunFolder, by: str) -> dict[str, dict[str, float]]:
    """What a detector reached on test, `by_kind` of input or `by_source`; nothing where these weights weren't measured.

    The protocol `patient` is that of LGG, so its entry stands in for a detector that was measured on it alone.
    """
    entry: Measured | MeasuredSources | None = run.sources.get("test")
    if entry is None and by == "by_source" and (run.path / METRICS).is_file():
        entry = run.metrics.get("patient/test")
    if entry is None or not run.same_weights(entry.weights):
        return {}
    parts = {"lgg, three sequences": entry} if isinstance(entry, Measured) else getattr(entry, by)
    return {
        name: {
            **{
                metric: value
                for metric in ("recall", "specificity")
                if (value := found.metrics[metric].value) is not None
            },
            **({"groups": found.groups} if found.groups else {}),
            **({"uncertain": u} if isinstance(found, SourcePart) and (u := found.uncertain) is not None else {}),
        }
        for name, found in parts.items()
    }
