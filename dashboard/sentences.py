"""The sentence above each page: its point in words that a class can repeat, made from the figures below it.

Pure functions. Each takes figures and gives plain text, where `**` marks what is stressed.
"""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def percent(share: float | None) -> str:
    """A share as a percentage: 94.6%."""
    return "–" if share is None else f"{100 * share:.1f}%"


def listed(words: Sequence[str], most: int = 4) -> str:
    """Words with commas and an "and"; of many the first few, and how many more there are."""
    words = list(words)
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def detection(row: Row, several_classes: bool) -> str:
    """What a classifier does, in figures."""
    if several_classes:
        return f"**{row['model']}** classifies {percent(row['accuracy'])} of the pictures correctly"
    return (
        f"**{row['model']}** finds {percent(row['recall'])} of the tumor slices, with false alarms on "
        f"{percent(1 - row['specificity'])} of the tumor-free ones"
    )


def ahead(differences: Sequence[Row], metric: str) -> str:
    """How far the best is from the others, and where that may be chance."""
    worse = [d for d in differences if d["apart"]]
    same = [d["model"] for d in differences if d["apart"] is False]
    said = []
    if worse:
        near = min(worse, key=lambda d: abs(d["difference"]))
        more = f", and of {len(worse) - 1} more" if len(worse) > 1 else ""
        said.append(
            f"it is ahead of {near['model']}{more} by "
            + ("at least " if len(worse) > 1 else "")
            + f"{abs(near['difference']):.3f} {metric} ({ends(near)})"
        )
    if same:
        said.append(f"its lead over {listed(same)} may be chance")
    return "; ".join(said)


def ends(row: Row) -> str:
    """The ends of a difference's interval, the smaller first, without a sign where the order is known."""
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{low:.3f} to {high:.3f}"


def comparison(classifiers: Sequence[Row], differences: Sequence[Row], localizers: Sequence[Row], macro: bool) -> str:
    """Which model is better, and whether that is more than chance.

    Args:
        classifiers, localizers: of `records.row`, in words.
        differences: of `tables.differences` for the ROC AUC of the classifiers.
        macro: whether the classifiers tell several classes apart.
    """
    said = []
    if classifiers:
        best = differences[0]["best"] if differences else classifiers[0]["model"]
        first = next(row for row in classifiers if row["model"] == best)
        said.append("; ".join(part for part in (detection(first, macro), ahead(differences, "AUC")) if part) + ".")
    known = [row for row in localizers if row["dice_volume_mean"] is not None]
    if known:
        best_row = max(known, key=lambda row: row["dice_volume_mean"])
        said.append(
            f"**{best_row['model']}** outlines a patient's tumor with a Dice of {best_row['dice_volume_mean']:.3f}."
        )
    return " ".join(said)


def threshold(points: Sequence[Row], how: str) -> str:
    """What the thresholds give.

    Args:
        points: of each model `threshold`, `recall`, `false_positive_rate`, `fn`, `fp`.
        how: the way they were chosen.
    """
    best = max(points, key=lambda p: (p["recall"] or 0) - (p["false_positive_rate"] or 0))
    said = (
        f"{how} **{best['model']}** finds {percent(best['recall'])} of the tumor slices, misses {best['fn']} and "
        f"raises {best['fp']} false {'alarm' if best['fp'] == 1 else 'alarms'}"
    )
    if len(points) > 1:
        worst = min(points, key=lambda p: (p["recall"] or 0) - (p["false_positive_rate"] or 0))
        said += f"; the weakest, {worst['model']}, misses {worst['fn']} and raises {worst['fp']}"
    return f"{said}."


def calibration(errors: Sequence[Row]) -> str:
    """Which model's probabilities can be believed, and whether scaling helped."""
    best, worst = min(errors, key=lambda e: e["after"]), max(errors, key=lambda e: e["after"])
    said = f"On average, the probabilities of **{best['model']}** are off by {points(best['after'])}"
    if len(errors) > 1:
        said += f", those of {worst['model']} by {points(worst['after'])}"
    helped = [e["model"] for e in errors if e["after"] < e["before"]]
    if len(helped) == len(errors):
        return f"{said}; temperature scaling made {'it' if len(errors) == 1 else 'all of them'} better."
    if not helped:
        return f"{said}; temperature scaling, fitted on validation, helped {'it' if len(errors) == 1 else 'none'} here."
    others = [e["model"] for e in errors if e["model"] not in helped]
    if len(others) < len(helped):
        return f"{said}; temperature scaling helped all but {listed(others)}."
    return f"{said}; temperature scaling helped only {listed(helped)}."


def points(share: float) -> str:
    """A difference of two shares: 1.6 percentage points."""
    return f"{100 * share:.1f} percentage points"


def learning(kept: Sequence[Row]) -> str:
    """When each training was at its best.

    Args:
        kept: of each model `model`, `kept` and `trained`, in epochs.
    """
    stopped = [row for row in kept if row["kept"] < row["trained"]]
    fast = min(kept, key=lambda row: row["kept"])
    said = f"**{fast['model']}** was at its best after {fast['kept']} of {fast['trained']} epochs"
    if len(kept) > 1:
        slow = max(kept, key=lambda row: row["kept"])
        said += f"; the last was **{slow['model']}**, after {slow['kept']} of {slow['trained']}"
    if not stopped:
        return f"{said}: every model was still improving when its training ended."
    return f"{said}: the epochs after the best one on validation were discarded."


def looking(rows: Sequence[Row]) -> str:
    """How much of the heat lies on the tumor of one slice, against chance."""
    known = [row for row in rows if row["pointing_game"] is not None and row["chance"]]
    if not known and any(row["chance"] for row in rows):
        return "On this slice nothing raised the tumor's score: no model shows heat."
    if not known:
        return (
            "This slice has no outline to compare the heat with. The maps show what raised the tumor's score, if "
            "anything."
        )
    best, worst = (pick(known, key=lambda row: row["pointing_game"]) for pick in (max, min))
    said = (
        f"On this slice **{best['model']}** has the most heat on the tumor: {percent(best['pointing_game'])}, "
        f"{times_chance(best)} what chance would give."
    )
    if len(known) > 1:
        said += f" {worst['model']} has the least: {percent(worst['pointing_game'])}, {times_chance(worst)} chance."
    return said


def times_chance(row: Row) -> str:
    """How many times chance's the heat on the tumor is: "12 times", "0.4 times"."""
    ratio = row["pointing_game"] / row["chance"]
    return f"{ratio:.0f} times" if ratio >= 2 else f"{ratio:.1f} times"


def localization(means: Sequence[Row], small: float | None, large: float | None) -> str:
    """How well tumors are outlined, and which are hard.

    Args:
        means: of each model its mean Dice over patients as `value`.
        small, large: of the best model the median Dice of the smallest and of the largest tumors.
    """
    best = max(means, key=lambda row: row["value"])
    said = f"**{best['model']}** reaches a mean Dice of {best['value']:.2f} per patient"
    if small is not None and large is not None:
        said += f". On single slices the median is {large:.2f} for large tumors and {small:.2f} for small ones"
    return f"{said}. For comparison: the outlines of two experts agree with a Dice of about 0.84."


def losses(errors: int, slices: int, shared: int, models: int) -> str:
    """How many slices are got wrong, and how many by all models."""
    if models == 1:
        return f"The model gets **{errors} of {slices:,}** slices wrong."
    return (
        f"On **{errors} of {slices:,}** slices at least one of {models} models is wrong; on {shared} of these all "
        "models are wrong. Slices that all models get wrong are hard or mislabeled; the others show weaknesses of "
        "single models."
    )


def two_models(one: str, other: str, both: int, first: int, second: int, total: int) -> str:
    """Where two models fail."""
    return (
        f"Both models get **{both}** of {total:,} slices wrong; {first} more are wrong only with {one}, and {second} "
        f"more only with {other}: "
        + ("they could correct each other." if first + second > both else "they mostly fail on the same slices.")
    )


def groups(rows: Sequence[Row], what: str) -> str:
    """Where a model is weakest.

    Args:
        rows: of one model: `group`, `value`, `low`, `high`.
        what: the metric in words.
    """
    known = [row for row in rows if row["value"] is not None]
    worst, best = (pick(known, key=lambda row: row["value"]) for pick in (min, max))
    said = (
        f"**{worst['model']}** is weakest if {worst['group']}: {what} {worst['value']:.2f}, against "
        f"{best['value']:.2f} if {best['group']}"
    )
    if None in (worst["high"], best["low"]) or worst["high"] >= best["low"]:
        return f"{said}; with so few patients, this may be chance."
    return f"{said}; the intervals don't overlap."


def leaking(share: float, clean: float, seen: Row | None) -> str:
    """What a leaking split is worth.

    Args:
        share, clean: of the test slices those with a neighbor in training, split by slice and by patient.
        seen: `model`, `seen` and `unseen` accuracy where the difference is largest.
    """
    neighbors = (
        f"Split by slice, {share:.0%} of the test slices have a neighboring slice in training; split by patient, "
        f"{clean:.0%}."
    )
    if not seen or seen["seen"] <= seen["unseen"]:
        return neighbors
    return (
        f"**{seen['model']}** classifies {percent(seen['seen'])} of the test pictures correctly if it has seen a copy "
        f"in training, but only {percent(seen['unseen'])} of the others. {neighbors}"
    )


def papers(higher: int, lower: int, within: int) -> str:
    """How the published figures stand against what was measured."""
    total = higher + lower + within
    return (
        f"{total} published results have a comparable run here: **{within}** are within the run's 95% interval, "
        f"{higher} above it and {lower} below. The split, the data or the recipe may differ."
    )


def sources(pooled: float, by_source: dict[str, float], knows: float) -> str:
    """What pooling the sources hides.

    Args:
        pooled: AUC over all pictures together.
        by_source: AUC within each source.
        knows: AUC of a guess that knows nothing but the source.
    """
    worst, best = (pick(by_source, key=by_source.get) for pick in (min, max))
    return (
        f"Over all sources together the AUC is {pooled:.3f}, but within single sources it ranges from "
        f"**{by_source[worst]:.3f}** ({worst}) to {by_source[best]:.3f} ({best}). A guess that knows only the source "
        f"already reaches {knows:.3f}."
    )
