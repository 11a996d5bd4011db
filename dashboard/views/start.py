"""Start: the pages in an order, each with the question that it answers."""

import html

import sentences
import streamlit as st
from lesson import STEPS

import frame
from bthub.errors import BthubError
from bthub.project import DEFAULTS
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION


def main() -> None:
    view = frame.view()
    frame.headline(opening(view))
    st.markdown(
        f"This is a lesson in {len(STEPS) - 1} steps. Each page begins with its answer, computed from "
        "the results below it. **Next**, at the bottom of a page, leads to the next one. The address of a page "
        "contains your choices, so a link shows the class exactly what you see."
    )
    with st.container(key="wide-only"):  # a phone has no such buttons
        st.markdown("*Presenter* enlarges everything for a class; *Handout* prints the page on one sheet.")
    for group in dict.fromkeys(step.group for step in STEPS):
        steps = [(i, step) for i, step in enumerate(STEPS) if step.group == group and step.file != "start"]
        st.subheader(group, anchor=False)
        for i, step in steps:
            with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"step-{step.file}"):
                st.page_link(st.session_state["pages"][step.file], label=f"**{i}. {step.title}**", width=190)
                st.html(f'<p class="question">{html.escape(step.question)}</p>')


def opening(view: frame.View) -> str:
    """What the shipped detector does on patients that it never saw."""
    for run in view.every.values():
        if run.task != CLASSIFICATION or records.name(run) not in DEFAULTS.values():
            continue
        try:
            found = next(e for e in frame.cached(records.evaluations, run) if e.key == "patient/test")
            row = {**frame.cached(records.row, run, found), "model": view.called(run)}
        except (BthubError, StopIteration):
            break
        return (
            f"{sentences.detection(row, False)}, on {row['samples']:,} slices of {row['groups']} patients it never "
            "saw. (The app has a threshold for each kind of picture, so its figures differ a little.) Is that good? Is "
            "another network better? Would it work elsewhere?"
        )
    return "Which network finds brain tumors best, and how would we know? The pages below answer it step by step."


main()
