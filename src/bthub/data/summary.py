"""Counts of a data set, from its rows: for `bthub data info` and for the dataset card."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from bthub.data import lgg
from bthub.data.dataset import BuiltDataset
from bthub.data.splits import PROTOCOLS, SPLITS
from bthub.errors import BthubError


class SliceFacts(NamedTuple):
    """What is counted of one LGG slice; `splits` is its split under each of PROTOCOLS."""

    patient_id: str
    institution: str
    tumor_pixels: int
    splits: tuple[str, ...]


class PictureFacts(NamedTuple):
    """What is counted of one image of an image-folder set; copies of one picture have the same `group`."""

    split: str
    label: str
    group: int


@dataclass(frozen=True)
class Table:
    """Counts under a title; columns whose every cell is a number are aligned right."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """The table for a terminal."""
        widths = [max(len(row[i]) for row in [self.header, *self.rows]) for i in range(len(self.header))]
        lines = []
        for row in [self.header, *self.rows]:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._right, strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([self.title, *lines])

    def markdown(self) -> str:
        """The table for a card, without its title."""
        rule = ["---:" if right else "---" for right in self._right]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in [self.header, rule, *self.rows]
        )

    @property
    def _right(self) -> list[bool]:
        return [all(row[i][:1].isdigit() for row in self.rows) for i in range(len(self.header))]


def describe(dataset: str) -> str:
    """What a built data set holds, as text tables.

    Args:
        dataset: a folder that `bthub data build` wrote, or a Hub id.

    Raises:
        BthubError: there is no such data set.
    """
    built = BuiltDataset(dataset)
    if built.facts.split_in_several_ways:
        slices = _read_slices(built)
        tables = [table.text() for table in lgg_tables(slices)]
        return "\n\n".join([f"{dataset}: {built.facts.title}\n{lgg_share(slices)}", *tables])
    pictures = _read_pictures(built)
    return "\n\n".join(
        [
            f"{dataset}: image-folder set",
            picture_table(pictures).text(),
            "\n".join(duplicate_lines(pictures)),
        ]
    )


def _read_slices(built: BuiltDataset) -> list[SliceFacts]:
    facts: dict[tuple[str, int], tuple[str, int]] = {}
    splits: dict[tuple[str, int], list[str]] = defaultdict(list)
    for protocol in PROTOCOLS:
        for split in built.splits(protocol):
            for row in built.columns(split, ["patient_id", "slice_index", "institution", "tumor_pixels"], protocol):
                key = row["patient_id"], row["slice_index"]
                facts[key] = row["institution"], row["tumor_pixels"]
                splits[key].append(split)
    return [SliceFacts(key[0], *facts[key], tuple(splits[key])) for key in sorted(facts)]


def _read_pictures(built: BuiltDataset) -> list[PictureFacts]:
    pictures = []
    for split in built.splits():
        rows = built.load(split)
        if "group" not in rows.column_names:
            raise BthubError(
                f"{built.name}: built by a version that didn't look for near-duplicates; write it with "
                "`bthub data build` again"
            )
        names = rows.features["label"].names
        for label, group in zip(rows["label"][:], rows["group"][:], strict=True):
            pictures.append(PictureFacts(split, names[label], group))
    return pictures


def lgg_share(slices: list[SliceFacts]) -> str:
    """How much of the published set is here, e.g. "100 of 110 patients, 3,574 of 3,929 slices, ..."."""
    here = {
        "patients": len({facts.patient_id for facts in slices}),
        "slices": len(slices),
        "tumor slices": sum(facts.tumor_pixels > 0 for facts in slices),
    }
    return ", ".join(f"{here[key]:,} of {whole:,} {key}" for key, whole in lgg.FULL_SET.items())


def lgg_tables(slices: list[SliceFacts]) -> list[Table]:
    """Patients, slices and tumor slices per split and institution, one table a protocol."""
    tables = []
    for i, protocol in enumerate(PROTOCOLS):

        def split_of(facts: SliceFacts, i: int = i) -> str:
            return facts.splits[i]

        rows = []
        for split in _present(SPLITS, map(split_of, slices)):
            members = [facts for facts in slices if split_of(facts) == split]
            for institution in sorted({facts.institution for facts in members}):
                rows.append([split, institution, *_lgg_counts(f for f in members if f.institution == institution)])
            rows.append([split, "all", *_lgg_counts(members)])
        rows.append(["all", "all", *_lgg_counts(slices)])
        header = ["split", "institution", "patients", "slices", "tumor slices", "tumor share"]
        tables.append(Table(f"protocol {protocol}", header, rows))
    return tables


def _lgg_counts(slices: Iterable[SliceFacts]) -> list[str]:
    slices = list(slices)
    tumor = sum(facts.tumor_pixels > 0 for facts in slices)
    patients = len({facts.patient_id for facts in slices})
    return [f"{patients:,}", f"{len(slices):,}", f"{tumor:,}", f"{tumor / len(slices):.1%}"]


def picture_table(pictures: list[PictureFacts]) -> Table:
    """Images per class and split."""
    count = Counter((facts.split, facts.label) for facts in pictures)
    classes = sorted({facts.label for facts in pictures})
    splits = _present(SPLITS, (facts.split for facts in pictures))
    rows = [[s, *(f"{count[s, c]:,}" for c in classes), f"{sum(count[s, c] for c in classes):,}"] for s in splits]
    totals = [sum(count[split, label] for split in splits) for label in classes]
    rows.append(["all", *(f"{total:,}" for total in [*totals, len(pictures)])])
    return Table("images", ["split", *classes, "all"], rows)


def duplicate_lines(pictures: list[PictureFacts]) -> list[str]:
    """Sentences on copies of one picture: how many, in which splits, and how many in several classes."""
    by_group: dict[int, list[PictureFacts]] = defaultdict(list)
    for facts in pictures:
        by_group[facts.group].append(facts)
    extra = len(pictures) - len(by_group)
    lines = [f"{extra:,} of {len(pictures):,} images repeat another one."]
    splits = _present(SPLITS, (facts.split for facts in pictures))
    for first, second in combinations(splits, 2):
        shared = [group for group in by_group.values() if {first, second} <= {facts.split for facts in group}]
        inside = sum(facts.split == second for group in shared for facts in group)
        whole = sum(facts.split == second for facts in pictures)
        lines.append(f"{inside:,} of {whole:,} images of {second} are also in {first}.")
    conflicts = sum(len({facts.label for facts in group}) > 1 for group in by_group.values())
    lines.append(f"{conflicts:,} pictures lie in more than one class.")
    return lines


def _present(order: Iterable[str], values: Iterable[str]) -> list[str]:
    there = set(values)
    return [value for value in order if value in there]
