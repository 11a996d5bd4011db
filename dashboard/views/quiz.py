"""Quiz: the class guesses on twenty slices before the models answer."""

import random

import numpy as np
import sentences
import streamlit as st
from PIL import Image

import charts
import frame
import pictures
from bthub.evaluation import per_image
from bthub.evaluation.per_image import Scores
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION

LENGTH = 20
SIDE = 460
YOU = "You"


def main() -> None:
    view = frame.view()
    runs = {name: run for name, run in view.of(CLASSIFICATION).items() if len(run.config.get("label_names", [])) == 2}
    found = frame.collect(runs, per_image.detector_scores, view.evaluation)
    play(view, found, pictures.slices(view.evaluation))


def opening(at_hand: pictures.Slices, questions: list[pictures.Key], answers: dict[pictures.Key, bool]) -> str:
    """What the quiz asks, or how it went so far."""
    asked = [key for key in questions if key in answers]
    if not asked:
        return f"{len(questions)} slices, half of them with a tumor: decide before the models do."
    right = sum(answers[key] == (at_hand.keys[key] > 0) for key in asked)
    return f"So far you are right on **{right} of {len(asked)}** {'slice' if len(asked) == 1 else 'slices'}."


def draw(keys: dict[pictures.Key, int], number: int, evaluation: str) -> list[pictures.Key]:
    """Half of the slices with a tumor, half without, as far as there are, in random order."""
    rng = random.Random(f"{number} {evaluation}")
    tumor = sorted(key for key, area in keys.items() if area)
    healthy = sorted(key for key, area in keys.items() if not area)
    if not tumor or not healthy:
        return []
    half = min(LENGTH // 2, len(healthy))
    chosen = rng.sample(healthy, half) + rng.sample(tumor, min(LENGTH - half, len(tumor)))
    rng.shuffle(chosen)
    return chosen


@st.fragment
def play(view: frame.View, found: dict[str, Scores], at_hand: pictures.Slices) -> None:
    """The whole page, so that the sentence above it counts each answer."""
    head = st.container()
    number = st.number_input(
        "Quiz number",
        1,
        999,
        1,
        key="quiz",
        bind="query-params",
        help="The same number gives the same slices in the same order: everyone in the room can play along.",
        width=180,
    )
    predicted = {records.image_key(row) for scores in found.values() for row in scores.rows}
    keys = {key: area for key, area in at_hand.keys.items() if key in predicted or not found}
    questions = draw(keys, number, view.evaluation.key)
    if len(questions) < 2:
        st.info("A quiz needs slices with and without a tumor, and they are not available for this split.")
        return
    answers: dict = st.session_state.setdefault(f"answers {number} {view.evaluation.key}", {})
    with head:
        frame.headline(opening(at_hand, questions, answers))
    ask(view, at_hand, questions, answers, {name: called(scores) for name, scores in found.items()})


def ask(view: frame.View, at_hand: pictures.Slices, questions: list, answers: dict, calls: dict) -> None:
    """The slice that is to be answered or was just answered; after the last one, the result."""
    open_ = [key for key in questions if key not in answers]
    shown = st.session_state.get("shown")
    if shown not in questions or (shown in answers and not st.session_state.get("revealed")):
        shown = open_[0] if open_ else None
        st.session_state["shown"] = shown
    if shown is None:
        finish(view, at_hand, questions, answers, calls)
        return
    st.progress(len(answers) / len(questions), f"Slice {questions.index(shown) + 1} of {len(questions)}")
    left, right = st.columns([3, 2], gap="large")
    truth = at_hand.keys[shown] > 0
    answered = shown in answers
    with left:
        flair = st.toggle(
            "FLAIR only, in gray", key="flair", help="One of the three sequences. Swelling (edema) is bright in it."
        )
        image = at_hand.image(shown)
        if flair:
            image = Image.fromarray(np.asarray(image)[..., 1]).convert("RGB")
        masks = {pictures.TRUE: at_hand.mask(shown)} if answered else {}
        st.image(
            pictures.outlined(image, masks),
            width=SIDE,
            alt=f"MRI slice {questions.index(shown) + 1} of the quiz"
            + (", with the experts' outline in cyan" if answered else ""),
        )
    with right:
        if not answered:
            st.subheader("Is there a tumor on this slice?")
            st.caption(
                "The colors are three sequences of one slice: before contrast, FLAIR, after contrast. Keys: T and N."
            )
            with st.container(horizontal=True):
                for word, guess, key in (("Tumor", True, "t"), ("No tumor", False, "n")):
                    st.button(
                        word,
                        type="primary",
                        shortcut=key,
                        width="stretch",
                        on_click=guessed,
                        args=(answers, shown, guess),
                    )
        else:
            right_ = answers[shown] == truth
            verdict = f"{'Right' if right_ else 'Wrong'}: there is {'a' if truth else 'no'} tumor"
            (st.success if right_ else st.error)(verdict, icon=":material/check:" if right_ else ":material/close:")
            area = at_hand.keys[shown]
            st.caption(
                f"{pictures.label(shown)}"
                + (f", {area:,} px outlined by experts in cyan" if truth and area > 1 else "")
            )
            frame.grid(
                ["Model", "Says", "Probability of tumor"],
                [
                    [
                        name,
                        f"{'✓' if model[shown][0] == truth else '✗'} {'tumor' if model[shown][0] else 'no tumor'}",
                        sentences.percent(model[shown][1]),
                    ]
                    for name, model in calls.items()
                    if shown in model
                ],
                "What each model says about this slice, and whether that is right",
            )
            word = "Next slice" if open_ else "See the result"
            st.button(word, type="primary", shortcut="Enter", width="stretch", on_click=go_on)
    if answers:
        score(view, at_hand, questions, answers, calls)
    st.caption(
        "The models' answers are their saved predictions for this split, each at its own threshold. "
        + (
            ""
            if at_hand.all_there
            else "These slices are harder than the split as a whole: some were chosen because models get them wrong."
        )
    )


def guessed(answers: dict[pictures.Key, bool], key: pictures.Key, guess: bool) -> None:
    """Keep an answer, and show the slice once more, with what is true of it."""
    answers[key] = guess
    st.session_state["revealed"] = True


def go_on() -> None:
    """To the next slice."""
    st.session_state["revealed"] = False


def called(scores: Scores) -> dict[pictures.Key, tuple[bool, float]]:
    """What a model called each image, and its probability of tumor."""
    tumor = scores.tumor
    return {
        records.image_key(row): (bool(call == tumor), float(p))
        for row, call, p in zip(scores.rows, scores.predicted, scores.p_tumor, strict=True)
    }


def scores_so_far(at_hand: pictures.Slices, asked: list[pictures.Key], answers: dict, calls: dict) -> list[dict]:
    """Right answers of the class and of the models on the slices that were answered; models that know all of them."""
    truth = {key: at_hand.keys[key] > 0 for key in asked}
    rows = [{"model": YOU, "right": sum(answers[key] == truth[key] for key in asked), "of": len(asked)}]
    for name, model in calls.items():
        if all(key in model for key in asked):
            rows.append({"model": name, "right": sum(model[key][0] == truth[key] for key in asked), "of": len(asked)})
    return rows


def score(view: frame.View, at_hand: pictures.Slices, questions: list, answers: dict, calls: dict) -> None:
    asked = [key for key in questions if key in answers]
    rows = scores_so_far(at_hand, asked, answers, calls)
    frame.figure(
        charts.scoreboard(rows, list(view.every), YOU),
        caption=f"How to read it: right answers on the {len(asked)} slices so far.",
        alternative="Right answers: " + "; ".join(f"{row['model']} {row['right']} of {row['of']}" for row in rows),
        rows=rows,
        file="quiz.csv",
        key=False,
    )
    lacking = [name for name, model in calls.items() if not all(key in model for key in asked)]
    if lacking:
        st.caption(f"Without predictions for these slices: {', '.join(lacking)}.")


def finish(view: frame.View, at_hand: pictures.Slices, questions: list, answers: dict, calls: dict) -> None:
    right = sum(answers[key] == (at_hand.keys[key] > 0) for key in questions)
    st.subheader(f"{right} of {len(questions)} right")
    missed = sum(at_hand.keys[key] > 0 and not answers[key] for key in questions)
    st.markdown(f"{missed} tumors missed, {len(questions) - right - missed} false alarms.")
    wrong = [key for key in questions if answers[key] != (at_hand.keys[key] > 0)]
    if wrong:
        st.subheader("The slices you got wrong", anchor=False)
        frame.gallery(missed_tile(at_hand, key, calls) for key in wrong)
    score(view, at_hand, questions, answers, calls)
    st.button("Play again", icon=":material/replay:", on_click=answers.clear)


def missed_tile(at_hand: pictures.Slices, key: pictures.Key, calls: dict) -> frame.Tile:
    """A slice that was answered wrong, with the outline and what the models said."""
    truth = at_hand.keys[key] > 0
    known = {name: model[key] for name, model in calls.items() if key in model}
    same = [name for name, (call, _) in known.items() if call != truth]
    said = f"{sentences.listed(same)} got it wrong, too" if same else "all models got it right"
    return frame.Tile(
        pictures.outlined(at_hand.image(key), {pictures.TRUE: at_hand.mask(key)}),
        "You missed this tumor" if truth else "Your false alarm",
        f"{said} · {pictures.label(key)}",
        f"{pictures.label(key)}, {'with the experts outline in cyan' if truth else 'without a tumor'}: {said}",
    )


main()
