"""Learning: loss and metric by epoch, the learning-rate finder, and what pretraining is worth."""

import re

import names
import sentences
import streamlit as st

import charts
import frame
from bthub.metrics.info import readable
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder

# The validation metric that chose the epoch, by task, and the figure that first weights are compared by.
CHOSEN_BY = {CLASSIFICATION: "validation_f1", SEGMENTATION: "validation_dice"}
COMPARED_BY = {CLASSIFICATION: "balanced_accuracy", SEGMENTATION: "dice_volume_mean"}
TITLES = {CLASSIFICATION: "Classifiers", SEGMENTATION: "Localizers"}


def epochs(task: str, runs: dict[str, RunFolder]) -> None:
    every = list(frame.view().every)
    histories = frame.collect(runs, records.history)
    kept = frame.collect({name: runs[name] for name in histories}, records.best_epoch)
    histories = {name: lines for name, lines in histories.items() if name in kept and lines}
    if not histories:
        return
    st.subheader(TITLES[task])
    metrics = sorted(
        {key for lines in histories.values() for key in lines[0] if key.startswith("validation_")}
        - {"validation_loss"},
        key=lambda key: key != CHOSEN_BY[task],
    )
    metric = st.selectbox(
        "Metric beside the loss",
        metrics,
        format_func=titled,
        key=f"metric {task}",
        width=320,
    )
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Loss** (dashed: training, solid: validation)")
        rows = [
            row
            for name, lines in histories.items()
            for of in ("train", "validation")
            for row in points(name, lines, f"{of}_loss", of)
        ]
        frame.figure(
            charts.by_epoch(rows, every, "loss", marks(histories, kept, "validation_loss"), log=True),
            caption="How to read it: dashed is training, solid validation; the dot is the epoch that was kept. "
            "If the training loss keeps falling while the validation loss rises, the model is overfitting: it learns "
            "the training slices by heart. Losses of different recipes (class weights, smoothing) can't be compared. "
            "Jumps often come from a change of image size, shown in the tooltip.",
            alternative=f"Training and validation loss by epoch of {', '.join(histories)}",
            rows=rows,
            file=f"loss-{task}.csv",
        )
    with right:
        st.markdown(f"**{titled(metric)} on validation**")
        rows = [row for name, lines in histories.items() for row in points(name, lines, metric, "validation")]
        frame.figure(
            charts.by_epoch(rows, every, titled(metric), marks(histories, kept, metric)),
            caption=f"How to read it: measured on the validation split after each epoch. The dot is the epoch that was "
            f"kept, the best in {titled(CHOSEN_BY[task])}.",
            alternative=f"{readable(metric)} by epoch of {', '.join(histories)}",
            rows=rows,
            file=f"metric-{task}.csv",
        )


def headline() -> None:
    """When each training was at its best."""
    view = frame.view()
    histories = frame.collect(view.runs, records.history)
    kept = frame.collect({name: view.runs[name] for name in histories}, records.best_epoch)
    rows = [
        {"model": name, "kept": kept[name] + 1, "trained": len(histories[name])} for name in kept if histories[name]
    ]
    if rows:
        frame.headline(sentences.learning(rows))


def titled(column: str) -> str:
    return frame.titled(column.removeprefix("validation_"))


def in_words(network: str) -> str:
    """A network with what sets its group apart, as `records.by_initialization` names it."""
    first, *more = network.split(", ")
    known = re.fullmatch(r"ResUNet \((.+)\)", first)
    return ", ".join([f"ResUNet on {names.architecture(known[1])}" if known else names.architecture(first), *more])


def points(name: str, lines: list[dict], column: str, of: str) -> list[dict]:
    """A column of `history.csv`, which counts epochs from 0: a class counts them from 1."""
    return [
        {
            "model": name,
            "epoch": int(line["epoch"]) + 1,
            "of": of,
            "value": line[column],
            "image_size": int(line.get("image_size", 0)),
        }
        for line in lines
        if column in line
    ]


def marks(histories: dict[str, list[dict]], kept: dict[str, int], column: str) -> list[dict]:
    return [
        {"model": name, "epoch": kept[name] + 1, "value": line[column]}
        for name, lines in histories.items()
        for line in lines
        if int(line["epoch"]) == kept[name] and column in line
    ]


def finder() -> None:
    view = frame.view()
    found = {name: lines for name, lines in frame.collect(view.runs, records.lr_finder).items() if lines}
    if not found:
        with st.expander("Learning-rate finder: no chosen run has one"):
            frame.missing(
                f"A learning-rate range test raises the rate step by step over about a hundred batches. A good rate "
                f"lies in the valley before the loss climbs. If a recipe includes the test, its run has the file "
                f"`{records.LR_FINDER}` (columns `learning_rate` and `loss`), and the curve appears here. To train "
                "with another rate:",
                f"{frame.COMMANDS[CLASSIFICATION]} --set learning_rate=0.0001",
            )
        return
    st.subheader("Learning-rate finder")
    rows = [{"model": name, **line} for name, lines in found.items() for line in lines]
    rates = frame.collect({name: view.runs[name] for name in found}, records.learning_rate)
    used = [{"model": n, "learning_rate": rate} for n, rate in rates.items()]
    frame.figure(
        charts.learning_rates(rows, list(view.every), used),
        caption="How to read it: the loss while the rate rises. The dashed line is the rate used for training.",
        alternative=f"Loss by learning rate of {', '.join(found)}",
        rows=rows,
        file="learning-rates.csv",
    )


def initial_weights() -> None:
    view = frame.view()
    st.subheader("Pretrained or from scratch?")
    st.caption("This part shows all runs that were measured on this split, not only the chosen ones.")
    shown = False
    for task, metric in COMPARED_BY.items():
        runs = {name: run for name, run in view.measured.items() if run.task == task}
        figures = frame.collect(runs, records.row, view.evaluation)
        called = {records.name(run): words for words, run in runs.items()}
        known = frame.collect({name: runs[name] for name in figures}, records.trained_on)
        groups = records.by_initialization(runs[name] for name in known)
        rows = [
            {
                "network": in_words(network),
                "model": called[line["model"]],
                "start": names.start(line["start"]),
                **{
                    end: line[key]
                    for end, key in (("value", metric), ("low", f"{metric}_low"), ("high", f"{metric}_high"))
                },
            }
            for network, group in groups.items()
            for line in (figures[called[records.name(run)]] for run in group)
            if line[metric] is not None
        ]
        if rows:
            shown = True
            frame.figure(
                charts.by_start(rows, list(view.every), frame.titled(metric)),
                caption="How to read it: the same network from different initial weights. The distance between its "
                f"dots is the benefit of pretraining. Bars are 95% intervals over {view.groups}.",
                alternative=f"{readable(metric)} by initial weights: "
                + "; ".join(f"{r['network']} from {r['start']} {r['value']:.3f}" for r in rows),
                rows=rows,
                file=f"first-weights-{task}.csv",
                key=False,
            )
    if not shown:
        have = "; ".join(
            f"{name} started from {start}"
            for name, start in frame.collect(view.measured, records.initialization).items()
        )
        frame.missing(
            f"This comparison needs two runs of one network with different initial weights. So far: {have}. To train "
            "one from random weights and, with a network connection, one from ImageNet's:",
            f"{frame.COMMANDS[CLASSIFICATION]}-random --set encoder_from=null pretrained=false\n"
            f"{frame.COMMANDS[CLASSIFICATION]}-imagenet --set encoder_from=null pretrained=true\n"
            "bthub evaluate runs/NAME-random --data data/lgg --split test\n"
            "bthub evaluate runs/NAME-imagenet --data data/lgg --split test",
        )


headline()
for kind in TITLES:
    epochs(kind, frame.view().of(kind))
finder()
initial_weights()
