"""What every page shares: the runs, the choice of what is shown, messages, captions and downloads."""

import base64
import html
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import altair as alt
import names
import pandas as pd
import streamlit as st
import yaml
from lesson import Step
from PIL import Image

import charts
from bthub.errors import BthubError
from bthub.evaluation import published
from bthub.metrics.info import readable
from bthub.project import DEFAULTS, SHIPPED_RUNS, as_named, hub_id, shipped_runs
from bthub.reports import tables
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, PREDICTIONS, SEGMENTATION, RunFolder
from bthub.runs.records import Evaluation

HERE = Path(__file__).parent
# The words of bthub.inference.result, which takes half a second to import.
DISCLAIMER = "Research software, not a medical device: do not use it to diagnose or treat anyone."
# Shown first where there is a choice.
PREFERRED = ("patient", "test")
FIRST = Evaluation("lgg", *PREFERRED)
# So many models are shown at first: each has room in a chart, and a color that is told from the others.
AT_FIRST = 6
COMMANDS = {
    CLASSIFICATION: "bthub train classifier --config resnet18-lgg --output runs/NAME",
    SEGMENTATION: "bthub train resunet --config resunet18-lgg --output runs/NAME",
}

Found = TypeVar("Found")


@dataclass(frozen=True)
class View:
    """What the page is asked to show.

    Attributes:
        runs: the chosen ones, by how they are called in words.
        measured: all that have figures for this evaluation.
        every: all that could be read. Their order gives each its color, chosen or not.
        evaluation: the data set, protocol and split.
    """

    runs: dict[str, RunFolder]
    measured: dict[str, RunFolder]
    every: dict[str, RunFolder]
    evaluation: Evaluation

    def of(self, task: str) -> dict[str, RunFolder]:
        """The chosen runs of one task."""
        return {name: run for name, run in self.runs.items() if run.task == task}

    def called(self, run: RunFolder) -> str:
        """A run in words."""
        return next(words for words, other in self.every.items() if other is run or other.path == run.path)

    @property
    def groups(self) -> str:
        """What intervals resample: only sets with patients have another protocol than `default`."""
        return "pictures" if self.evaluation.protocol == "default" else "patients"


# -- runs


def sources() -> list[str]:
    """Folders and Hub ids of the runs: those asked for, else the clone's, else the Space's.

    A Space has the models that its card names, and in `runs/` what was published beside them: runs without weights.
    """
    asked = os.environ.get("BTHUB_RUNS", "").split()
    if asked or (shipped := shipped_runs()):
        return asked or [*map(str, shipped)]
    beside = sorted(str(path) for path in (HERE / SHIPPED_RUNS.name).glob("*/"))
    return [*map(hub_id, card_models()), *beside]


@cache
def card_models() -> list[str]:
    """Names of the models in the card of this Space, without their organization."""
    card = yaml.safe_load((HERE / "README.md").read_text(encoding="utf-8").split("---")[1])
    return [model.rpartition("/")[2] for model in card["models"]]


def load_runs() -> tuple[dict[str, RunFolder], list[str]]:
    """The runs by name, and what is wrong with those that can't be shown."""
    runs, problems = {}, []
    for source in sources():
        try:
            files = files_of(source)
            run = _open(source, files)
            name = records.name(run)
            if name in runs:
                raise BthubError(f"{source} has the name of {runs[name].path}: rename one of the two folders")
            records.network(run)
            runs[name] = run
            _files[str(run.path)] = files or files_of(run.path)
        except BthubError as error:
            problems.append(str(error))
    return runs, problems


_files: dict[str, tuple] = {}
"""Of each run's folder `files_of`, as the page that was drawn last found it: a page asks for it a hundred times."""


def files_of(source: str | Path) -> tuple:
    """Names, times and sizes of a local run's files: what is kept of a run is valid as long as these are the same."""
    found = []
    for folder, ending in ((Path(source), "."), (Path(source) / PREDICTIONS, ".csv")):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for file in entries:
                if ending in file.name:
                    # What training writes is called NAME.tmp until it is whole.
                    with suppress(FileNotFoundError):
                        found.append((file.name, (stat := file.stat()).st_mtime_ns, stat.st_size))
    return tuple(sorted(found))


# Not Streamlit's caches: they take longer over their keys than most of these functions over their work, and `serve.py`
# fills these before the first page is asked for.
@lru_cache(maxsize=200)
def _open(source: str, files: tuple) -> RunFolder:
    return records.open_run(source)


@dataclass(frozen=True)
class _Call:
    """A function of a run, by what its result depends on: where the function stands, the run's files, the arguments.

    Not by the function itself: Streamlit makes those of a page anew whenever it draws the page.
    """

    place: tuple[str, str]
    path: str
    files: tuple
    arguments: tuple
    function: Callable = field(compare=False)
    run: RunFolder = field(compare=False)


def cached(function: Callable[..., Found], run: RunFolder, *arguments: Any) -> Found:
    """`function(run, *arguments)`, computed once for the files that the run has now. Don't change what it returns."""
    path = str(run.path)
    place = (function.__code__.co_filename, function.__qualname__)
    return _cached(_Call(place, path, _files.get(path) or files_of(path), arguments, function, run))


@lru_cache(maxsize=1000)
def _cached(call: _Call) -> Any:
    return call.function(call.run, *call.arguments)


def warm_up() -> None:
    """Read what the first page needs, and what the comparison that most open takes longest for."""
    runs, _ = load_runs()
    for run in runs.values():
        with suppress(BthubError):
            cached(records.evaluations, run)
            cached(rank, run)
    for name in at_first(runs):
        with suppress(BthubError):
            if FIRST in cached(records.evaluations, runs[name]):
                cached(records.row, runs[name], FIRST)
                cached(tables.measured, runs[name], FIRST)


def collect(runs: dict[str, RunFolder], function: Callable[..., Found], *arguments: Any) -> dict[str, Found]:
    """`function` of each run by name; a run that can't give it gets a message on the page instead."""
    found, problems = {}, []
    for name, run in runs.items():
        try:
            found[name] = cached(function, run, *arguments)
        except BthubError as error:
            problems.append(str(error))
    say(problems)
    return found


# -- the choice


def choose(runs: dict[str, RunFolder], problems: list[str], step: Step) -> None:
    """What the page is asked to show, all of it in the address; for `view`.

    Only what the page depends on can be chosen, behind a button that says what is shown.

    Args:
        runs: by the names of their folders.
        problems: what is wrong with those that can't be shown.
        step: the page.
    """
    measured: dict[str, list[Evaluation]] = {}
    ranks: dict[str, int] = {}
    for name, run in runs.items():
        try:
            measured[name] = cached(records.evaluations, run)
        except BthubError as error:
            problems.append(str(error))
        try:
            ranks[name] = cached(rank, run)
        except BthubError:
            ranks[name] = 3  # with the last; the pages that read its recipe say what is wrong
    # Those that the card names come first: the default pair, and the networks that the class is to compare.
    named = card_models()
    order = sorted(runs, key=lambda name: (name not in named, ranks[name]))
    words = names.of_runs(runs[name] for name in order)
    runs = {words[name]: runs[name] for name in order}
    known = {words[name]: found for name, found in measured.items()}
    evaluations = [evaluation for name in runs for evaluation in known.get(name, [])]
    if not evaluations:
        say(problems)
        st.info(
            "No run has results yet. Train one and evaluate it:\n\n"
            f"```sh\n{COMMANDS[CLASSIFICATION]}\nbthub evaluate runs/NAME --data data/lgg --split test\n```\n\n"
            "or set the environment variable `BTHUB_RUNS` to the runs."
        )
        st.stop()
    if not step.split:
        first = min(evaluations, key=lambda e: [value not in PREFERRED for value in (e.protocol, e.split)])
        st.session_state["view"] = View({}, {}, runs, first)
        say(problems)
        return
    shown, at_hand, evaluation = _chosen(runs, known, evaluations, words, step)
    say(problems)
    st.session_state["view"] = View(shown, at_hand, colored(runs, list(shown)), evaluation)
    if not shown:
        st.info("Choose at least one model: the button above opens the list.")
        st.stop()


def _chosen(
    runs: dict[str, RunFolder],
    measured: dict[str, list[Evaluation]],
    evaluations: list[Evaluation],
    words: dict[str, str],
    step: Step,
) -> tuple[dict[str, RunFolder], dict[str, RunFolder], Evaluation]:
    """The models that are shown, those that could be, and what they were measured on."""
    of_task = {name for name, run in runs.items() if run.task in step.tasks}
    evaluations = [e for name in runs if name in of_task for e in measured.get(name, [])] or evaluations
    _read_address(step, words)
    with st.session_state["bar"], st.popover("Models and data", icon=":material/tune:", key="choice"):
        data = _first(evaluations, "data")
        chosen_data = _one("data", data)
        if len(data) > 1:
            st.segmented_control(
                "Data set",
                data,
                required=True,
                format_func=names.data_set,
                key="data",
                on_change=_remember,
                args=["data"],
            )
        evaluations = [e for e in evaluations if e.data == chosen_data]
        left, right = st.columns(2)
        protocols = _first(evaluations, "protocol")
        protocol = _one("protocol", protocols)
        left.selectbox(
            "Protocol",
            protocols,
            format_func=names.protocol,
            key="protocol",
            on_change=_remember,
            args=["protocol"],
            help="By patient: all slices of a patient are in the same split. By slice: slices are split at random. "
            "Fold: one part of a cross-validation by patient. By picture: the data set doesn't name patients.",
        )
        splits = _first([e for e in evaluations if e.protocol == protocol], "split")
        split = _one("split", splits)
        right.selectbox(
            "Split",
            splits,
            key="split",
            on_change=_remember,
            args=["split"],
            help="test: nothing was trained, tuned or selected on it. validation: epochs and thresholds were chosen "
            "on it.",
        )
        evaluation = Evaluation(chosen_data, protocol, split)
        options = [name for name in runs if name in of_task and evaluation in measured.get(name, [])]
        chosen = _several(options, at_first({name: runs[name] for name in options}))
        _write_address()
        st.multiselect(
            "Models",
            options,
            key="models",
            placeholder="Choose models",
            on_change=_remember_models,
            args=[options],
            help=f"Models that were measured on this split; at most {AT_FIRST} are selected at first. Each keeps its "
            "color on every page.",
        )
        if others := [name for name in runs if name not in options and could_be_measured(runs[name], evaluation)]:
            folders = [f"{name} in `{as_named(runs[name].path)}`" for name in others]
            st.caption(
                f"Not measured on {names.evaluation(evaluation)}: {', '.join(folders)}. "
                f"`bthub evaluate runs/NAME --data data/{chosen_data} --split {split}` measures them."
            )
    with st.session_state["bar"]:
        many = f"{len(chosen)} model{'' if len(chosen) == 1 else 's'}"
        st.html(f'<p class="shown">{html.escape(f"{many} on {names.evaluation(evaluation)}")}</p>')
    return {name: runs[name] for name in chosen}, {name: runs[name] for name in options}, evaluation


# What is chosen outlives the boxes, which Streamlit forgets on a page without them, and the address, which it empties
# on the way to another page. So it is kept in `choice`, and each run tells the boxes and the address what it is.
CHOICES = ("data", "protocol", "split", "models")


def _read_address(step: Step, words: dict[str, str]) -> None:
    """Take over what the address asks for where that is new: of a link, or of a step back.

    It isn't where this page wrote it there. Nor where it is what it was before a run that was broken off, or what
    another page wrote: then the browser is yet to hear of the change.
    """
    state = st.session_state
    choice, before = state.setdefault("choice_made", {}), {} if state.get("drawn") else state.get("read", {})
    if state.get("page") != step.file:
        state["page"], before, state["written"] = step.file, state.get("written", {}), {}
    state["drawn"], state["read"] = False, {name: st.query_params.get_all(name) for name in CHOICES}
    for name, asked in state["read"].items():
        if asked in (state["written"].get(name, []), before.get(name)):
            continue
        # A link may name models by their folders, too.
        choice[name] = [words.get(value, value) for value in asked]
        if not asked:
            del choice[name]


def _write_address() -> None:
    """Put the choice into the address, in one step of the browser's history."""
    written = st.session_state["written"]
    changed = {name: values for name, values in written.items() if values != st.query_params.get_all(name)}
    for name in [name for name, values in changed.items() if not values]:
        del st.query_params[name]
    st.query_params.update({name: values for name, values in changed.items() if values})


def _one(name: str, options: list[str]) -> str:
    """What is chosen of a few options: the first where this page or data set doesn't have the choice."""
    asked = st.session_state["choice_made"].get(name, [])
    value = asked[-1] if asked and asked[-1] in options else options[0]
    st.session_state[name] = value
    st.session_state["written"][name] = [] if value == options[0] else [value]
    return value


def _several(options: list[str], default: list[str]) -> list[str]:
    """The chosen models that this page, data set and split have; the default where it has none of them."""
    value = [name for name in st.session_state["choice_made"].get("models", []) if name in options]
    if not value and st.session_state.get("emptied") != options:
        value = default
    st.session_state["models"] = value
    st.session_state["written"]["models"] = [] if value == default else value
    return value


def _remember(name: str) -> None:
    """Keep what a person chose."""
    st.session_state["choice_made"][name] = [st.session_state[name]]


def _remember_models(offered: list[str]) -> None:
    """Keep what a person chose: of the models that the page offers, and of those that other pages do."""
    chosen = st.session_state["models"]
    others = [name for name in st.session_state["choice_made"].get("models", []) if name not in offered]
    st.session_state["choice_made"]["models"] = [*others, *chosen]
    st.session_state["emptied"] = None if chosen else offered


def rank(run: RunFolder) -> int:
    """Which runs come first: the default pair, networks from pretrained weights, from random ones, papers' recipes."""
    if records.name(run) in DEFAULTS.values():
        return 0
    if published.recipe_of(records.name(run)):
        return 3
    return 2 if records.initialization(run) == "random" else 1


def at_first(runs: dict[str, RunFolder]) -> list[str]:
    """The names of AT_FIRST runs at most: those that the card names, then classifiers and localizers in turn."""
    named = card_models()
    first = [name for name, run in runs.items() if records.name(run) in named]
    turns = [[name for name, run in runs.items() if run.task == task] for task in (CLASSIFICATION, SEGMENTATION)]
    mixed = [name for pair in zip_longest(*turns) for name in pair if name]
    return list(dict.fromkeys([*first, *mixed]))[:AT_FIRST]


def could_be_measured(run: RunFolder, evaluation: Evaluation) -> bool:
    """Whether a run was trained on the data and the protocol of an evaluation."""
    try:
        return cached(records.trained_on, run) == (evaluation.protocol, evaluation.data)
    except BthubError:
        return False


def colored(runs: dict[str, RunFolder], chosen: Sequence[str]) -> dict[str, RunFolder]:
    """The runs in an order that gives the chosen ones different colors, and shapes where there are enough.

    The others keep their places if they can.
    """
    names, colors, shapes = list(runs), len(charts.PALETTE), len(charts.SHAPES)
    taken: list[int] = []

    def told(place: int, by: int) -> bool:
        return place % by not in [other % by for other in taken]

    for name in chosen:
        here = names.index(name)
        if not (told(here, colors) and told(here, shapes)):
            spare = [i for i, other in enumerate(names) if other not in chosen and told(i, colors)]
            there = next((i for i in spare if told(i, shapes)), here if told(here, colors) else next(iter(spare), here))
            names[here], names[there] = names[there], names[here]
            here = there
        taken.append(here)
    return {name: runs[name] for name in names}


def view() -> View:
    """What was chosen in this session."""
    return st.session_state["view"]


def _first(evaluations: Sequence[Evaluation], field: str) -> list[str]:
    """The values of a field, each once, the preferred one first."""
    values = list(dict.fromkeys(getattr(evaluation, field) for evaluation in evaluations))
    return sorted(values, key=lambda value: value not in PREFERRED)


# -- words and files


def say(problems: Sequence[str]) -> None:
    """Messages about runs that can't be shown; the others still are."""
    for text in problems:
        # Where the clone lies is nothing to those who look at the page.
        text = text.replace(f"{SHIPPED_RUNS.parent}/", "")
        st.warning(text if len(text) < 400 else f"{text[:400]} …", icon=":material/rule_folder:")


def missing(what: str, command: str) -> None:
    """Say what isn't there yet, and the command that makes it."""
    st.info(f"{what}\n\n```sh\n{command}\n```", icon=":material/pending:")


def headline(text: str) -> None:
    """The page's point in a sentence that a class can repeat, above the charts; `**` marks what is stressed."""
    said = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
    st.html(f'<p class="headline" role="status">{said}</p>')


def explain(text: str) -> None:
    """What a page is about, for those who haven't met it: folded."""
    said = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
    said = re.sub("`(.+?)`", r"<code>\1</code>", said)
    st.html(f'<details class="how about"><summary>What this is about</summary><p>{said}</p></details>')


def handout() -> None:
    """The button that prints the page: `style.css` makes it fit on one sheet."""
    st.html(
        '<button class="print" type="button" id="print-page">Handout</button>'
        "<script>document.getElementById('print-page').addEventListener('click', () => window.print());</script>",
        unsafe_allow_javascript=True,
    )


def presenting() -> bool:
    """Whether the page is shown to a room."""
    return bool(st.session_state.get("present"))


def draw(chart: alt.TopLevelMixin, alternative: str, **options: Any) -> Any:
    """A chart in the page's theme, its words large and dark enough to be read from the last row."""
    dark = st.context.theme.type == "dark"
    return st.altair_chart(charts.legible(chart, dark, presenting()), width="stretch", alt=alternative, **options)


def figure(
    chart: alt.TopLevelMixin,
    *,
    caption: str,
    alternative: str,
    rows: Sequence[dict],
    file: str,
    key: bool = True,
    kinds: dict[str, tuple[str, str]] | None = None,
) -> None:
    """A chart with how to read it, its words for those who can't see it, and its numbers to take away.

    Args:
        chart: of `charts`.
        caption: how to read it.
        alternative: what it shows.
        rows: its numbers.
        file: the download's name.
        key: whether the models' colors and shapes stand above it; not needed where their names are on an axis.
        kinds: of a chart whose colors aren't the models': each kind's color and shape.
    """
    if key or kinds:
        shown = {row["model"] for row in rows}
        palette = kinds or {name: mark for name, mark in charts.marks(list(view().every)).items() if name in shown}
        legend(palette)
    draw(chart, alternative)
    note(caption, rows, file)


def legend(palette: dict[str, tuple[str, str]]) -> None:
    """What colors and shapes mean, above a chart: it wraps, and takes nothing of the chart's height."""
    said = "".join(
        f'<li class="{shape}" style="--who: {color}">{html.escape(name)}</li>'
        for name, (color, shape) in palette.items()
    )
    st.html(f'<ul class="key">{said}</ul>')


def note(caption: str, rows: Sequence[dict], file: str) -> None:
    """How to read what stands above, folded, with a download of the rows that it is about."""
    with st.container(horizontal=True, vertical_alignment="top", gap="small", key=f"note {file}"):
        how(caption)
        st.download_button(
            "CSV",
            _table(rows).to_csv(index=False),
            file,
            "text/csv",
            key=f"download {file}",
            help=f"The numbers as {file}",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
        )


def how(caption: str) -> None:
    """How to read something: behind an (i) on the page, in full on paper."""
    caption = caption.removeprefix("How to read it: ")
    said = html.escape(caption[0].upper() + caption[1:])
    said = re.sub("`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", said))
    st.html(
        f'<details class="how"><summary>How to read it</summary><p>{said}</p></details>'
        f'<p class="paper"><strong>How to read it.</strong> {said}</p>'
    )


def _table(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows to take away; beside a model in words stands its run."""
    every = view().every
    return pd.DataFrame(
        [{"run": records.name(every[row["model"]]), **row} if row.get("model") in every else row for row in rows]
    )


WRAPPED = 16
"""Cells of a `grid` that are longer are words."""


def grid(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str, helps: Sequence[str | None] = ()) -> None:
    """A small table as HTML: it wraps, is printed and read aloud.

    Args:
        head: the columns' names; the first is that of the rows.
        rows: cells; of a pair the second stands below the first, small. A cell that begins with a star is marked.
        caption: what it holds, for those who can't see it.
        helps: what the columns mean, shown on resting there.
    """
    hints = [*helps, *[None] * len(head)]
    heads = "".join(
        f'<th scope="col" title="{html.escape(hint or "")}">{html.escape(name)}</th>'
        for name, hint in zip(head, hints, strict=False)
    )
    body = ""
    for first, *cells in rows:
        said = ""
        for cell in cells:
            value, small = cell if isinstance(cell, tuple) else (cell, "")
            # Words wrap, so that they don't push other columns out of a phone; figures don't.
            kind = "best" if str(value).startswith("★") else "words" if len(str(value)) > WRAPPED else ""
            said += (
                f"<td{f' class={kind}' if kind else ''}>{html.escape(str(value))}"
                f"{f'<small>{html.escape(small)}</small>' if small else ''}</td>"
            )
        body += f"<tr><th scope=row>{html.escape(str(first))}</th>{said}</tr>"
    st.html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f'<table class="grid"><caption class="aside">{html.escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def titled(metric: str) -> str:
    """A metric's name as a heading."""
    text = readable(metric)
    return text[0].upper() + text[1:]


class Tile(NamedTuple):
    """A picture of a gallery: `title` and `text` stand under it, `alternative` is for those who can't see it.

    `color` marks whose it is.
    """

    image: Image.Image
    title: str
    text: str
    alternative: str
    color: str = "transparent"


def gallery(tiles: Iterable[Tile], wide: bool = False) -> None:
    """Pictures in as many columns as fit."""
    figures = []
    for tile in tiles:
        file = io.BytesIO()
        tile.image.save(file, "JPEG", quality=88)
        figures.append(
            f'<figure style="--who: {tile.color}">'
            f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" '
            f'alt="{html.escape(tile.alternative)}">'
            f"<figcaption><strong>{html.escape(tile.title)}</strong> {html.escape(tile.text)}</figcaption></figure>"
        )
    st.html(f'<div class="gallery{" wide" if wide else ""}">{"".join(figures)}</div>')


def confusions(matrices: dict[str, tuple[Sequence[str], Sequence[Sequence[int]]]], names: Sequence[str]) -> None:
    """Confusion matrices side by side, as tables: rows are the truth; a cell is the darker the larger its row's share.

    Args:
        matrices: labels and counts of each model.
        names: all models, which fix the colors.
    """
    palette = charts.colors(names)
    tables = []
    for name, (labels, counts) in matrices.items():
        head = "".join(f"<th scope=col>{html.escape(label.replace('_', ' '))}</th>" for label in labels)
        body = ""
        # The axes are named in the corner, where nothing else stands.
        corner = "<td class=corner><span>predicted →</span> <span>truth ↓</span></td>"
        for label, row in zip(labels, counts, strict=True):
            whole, own = max(sum(row), 1), labels.index(label)
            cells = "".join(
                f'<td class="{"right" if i == own else "wrong"}" style="--share: {count / whole:.3f}">'
                f"{count:,}<small>{100 * count / whole:.1f}%</small></td>"
                for i, count in enumerate(row)
            )
            body += f"<tr><th scope=row>{html.escape(label.replace('_', ' '))}</th>{cells}</tr>"
        tables.append(
            f'<table style="--who: {palette[name]}"><caption>{html.escape(name)}</caption>'
            f"<thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>"
        )
    st.html(f'<div class="matrices">{"".join(tables)}</div>')
