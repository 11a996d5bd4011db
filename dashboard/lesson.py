"""The pages in the order of a lesson: each has one question, and says what it needs to be told.

A page without an entry here isn't in the dashboard; a test holds that.
"""

from typing import NamedTuple

from bthub.runs.folder import CLASSIFICATION, SEGMENTATION

BOTH = (CLASSIFICATION, SEGMENTATION)


class Step(NamedTuple):
    """A page of the lesson.

    Attributes:
        file: in `views/`, without its ending; also the page's address.
        title: its name.
        question: what it answers, one sentence.
        group: its heading in the sidebar.
        tasks: which kinds of models it lets one choose; none where it shows all of them.
        split: whether it depends on the data set, the protocol and the split that are chosen.
    """

    file: str
    title: str
    question: str
    group: str
    tasks: tuple[str, ...] = ()
    split: bool = False


STEPS = (
    Step("start", "Start", "Which network finds brain tumors best, and how would we know?", "Warm-up"),
    Step("quiz", "Quiz", "Can you spot the tumor yourself?", "Warm-up", (CLASSIFICATION,), True),
    Step("compare", "Compare", "Which model is better, and is that more than chance?", "Models", BOTH, True),
    Step("threshold", "Threshold", "From which probability should a model predict a tumor?", "Models", BOTH[:1], True),
    Step("calibration", "Calibration", "Can a stated probability be believed?", "Models", BOTH[:1], True),
    Step("learning", "Learning", "How did each model learn?", "Models", BOTH, True),
    Step("where_it_looks", "Where it looks", "Is the model right for the right reason?", "Slices", BOTH, True),
    Step("localization", "Localization", "How well is the tumor outlined?", "Slices", BOTH[1:], True),
    Step("two_models", "Two models", "Do two models fail on the same slices?", "Slices", BOTH[:1], True),
    Step("top_losses", "Top losses", "Which slices do the models get most wrong?", "Slices", BOTH[:1], True),
    Step("groups", "Subgroups", "Does a model work for every hospital and every tumor size?", "Slices", BOTH, True),
    Step("try_your_own", "Try your own", "Which model breaks first when the picture gets worse?", "Slices"),
    Step("leakage", "Leakage", "Can we trust a test that shares patients with training?", "Evidence"),
    Step("sources", "Sources", "Does the model recognize the tumor, or the hospital?", "Evidence"),
    Step("papers", "Papers", "How do published results compare with these?", "Evidence"),
)


def after(title: str) -> Step | None:
    """The page that comes next."""
    titles = [step.title for step in STEPS]
    place = titles.index(title) + 1
    return STEPS[place] if place < len(STEPS) else None


def step(title: str) -> Step:
    """The page of a title."""
    return next(step for step in STEPS if step.title == title)
