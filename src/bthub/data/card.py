"""The dataset card (README.md) of a built data set, from its counts and the templates beside this file."""

from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from bthub.data import lgg, summary
from bthub.data.image_folder import ALIKE, NEIGHBOR, RUN_GAP
from bthub.data.splits import PROTOCOLS, SPLITS
from bthub.data.views import INSTITUTIONS

TEMPLATES = Path(__file__).parent / "templates"
# Where each protocol's splits are: files are partitioned by both, so that pixels are stored once.
LGG_FILES = {"patient": "data/patient-{split}/*.parquet", "slice": "data/*/slice-{split}.parquet"}


def lgg_card(
    slices: list[summary.SliceFacts], sizes: set[tuple[int, int]], copied: dict[str, int], repeats: int, content: str
) -> str:
    """The card of the LGG set.

    Args:
        slices: of every slice what is counted.
        sizes: the (width, height) that occur, in pixels.
        copied: per missing sequence the number of patients whose channel is a copy of FLAIR.
        repeats: number of slices whose pixels repeat another slice's.
        content: digest of the data files.
    """
    configs = []
    for i, protocol in enumerate(PROTOCOLS):
        there = {facts.splits[i] for facts in slices}
        files = [{"split": s, "path": LGG_FILES[protocol].format(split=s)} for s in SPLITS if s in there]
        configs.append(_config(protocol, files, content))
    configs[0]["default"] = True
    metadata = DatasetCardData(
        pretty_name="LGG MRI Segmentation",
        license="cc-by-nc-sa-4.0",
        task_categories=["image-segmentation", "image-classification"],
        tags=["medical", "mri", "brain-tumor", "lower-grade-glioma", "bthub"],
        annotations_creators=["expert-generated"],
        size_categories=[_size_category(len(slices))],
        configs=configs,
    )
    tables = summary.lgg_tables(slices)
    years = sorted(facts.patient_id.split("_")[3][:4] for facts in slices)
    areas = sorted(facts.tumor_pixels for facts in slices if facts.tumor_pixels)
    return _render(
        "lgg_card.md",
        metadata,
        share=summary.lgg_share(slices),
        whole=len({facts.patient_id for facts in slices}) == lgg.FULL_SET["patients"],
        sizes=", ".join(f"{width}x{height}" for width, height in sorted(sizes)),
        copied=copied,
        repeats=repeats,
        areas=(areas[0], areas[len(areas) // 2], areas[-1]) if areas else None,
        tables={protocol: table.markdown() for protocol, table in zip(PROTOCOLS, tables, strict=True)},
        benchmark=any("benchmark" in facts.splits for facts in slices),
        years=(years[0], years[-1]),
        institutions={code: INSTITUTIONS.get(code, "") for code in sorted({f.institution for f in slices})},
    )


def folders_card(
    name: str,
    pictures: list[summary.PictureFacts],
    shipped: bool,
    held_out: dict[str, float],
    content: str,
    unlike: str | None = None,
    left_out: int = 0,
    boxes: int = 0,
    in_gaps: int = 0,
) -> str:
    """The card of an image-folder set.

    Args:
        name: of the folder or zip that it was read from.
        pictures: of every image what is counted.
        shipped: whether the set came with a split of its own.
        held_out: the shares that were drawn for validation and test where it has none.
        content: digest of the data files.
        unlike: the set whose pictures, and such that resemble them, were left out.
        left_out: how many of them.
        boxes: pictures that have a box; such a set is split by runs of numbers.
        in_gaps: pictures in no split, because they lie near a held-out run or are copies.
    """
    there = {facts.split for facts in pictures}
    files = [{"split": split, "path": f"data/{split}.parquet"} for split in SPLITS if split in there]
    metadata = DatasetCardData(
        pretty_name=name,
        license="unknown",
        task_categories=["image-classification"],
        tags=["medical", "mri", "brain-tumor", "bthub"],
        size_categories=[_size_category(len(pictures))],
        configs=[_config("default", files, content)],
    )
    return _render(
        "folders_card.md",
        metadata,
        name=name,
        count=len(pictures),
        classes=sorted({facts.label for facts in pictures}),
        shipped=shipped,
        percent={split: f"{100 * share:.0f}" for split, share in held_out.items()}
        | {"train": f"{100 * (1 - sum(held_out.values())):.0f}"},
        table=summary.picture_table(pictures).markdown(),
        duplicates=summary.duplicate_lines(pictures),
        unlike=unlike,
        left_out=f"{left_out:,}",
        alike=ALIKE,
        boxes=f"{boxes:,}" if boxes else "",
        in_gaps=f"{in_gaps:,}",
        gap=RUN_GAP,
    )


def mixture_card(
    name: str,
    facts: Counter[tuple[str, str, str]],
    left_out: Counter[tuple[str, str]],
    test_only: list[str],
    content: str,
) -> str:
    """The card of a mixture.

    Args:
        name: of its folder.
        facts: rows of each (source, split, label).
        left_out: rows of each (source, split) that are copies of held-out pictures or resemble one.
        test_only: sources whose pictures are all in test.
        content: digest of the data files.
    """
    splits = [split for split in SPLITS if any(key[1] == split for key in facts)]
    sources = sorted({source for source, _, _ in facts})
    rows = [
        [
            source,
            split,
            *(f"{facts[source, split, label]:,}" for label in lgg.LABELS),
            f"{left_out[source, split]:,}",
        ]
        for source in sources
        for split in splits
        if any(facts[source, split, label] for label in lgg.LABELS) or left_out[source, split]
    ]
    table = summary.Table("images", ["source", "split", *lgg.LABELS, "left out"], rows)
    metadata = DatasetCardData(
        pretty_name=name,
        license="other",
        license_name="several",
        task_categories=["image-classification", "image-segmentation"],
        tags=["medical", "mri", "brain-tumor", "bthub"],
        size_categories=[_size_category(sum(facts.values()))],
        configs=[_config("default", [{"split": split, "path": f"data/{split}.parquet"} for split in splits], content)],
    )
    return _render(
        "mixture_card.md",
        metadata,
        name=name,
        count=sum(facts.values()),
        sources=sources,
        table=table.markdown(),
        test_only=test_only,
        alike=ALIKE,
        neighbor=NEIGHBOR,
    )


def _config(name: str, files: list[dict[str, str]], content: str) -> dict[str, object]:
    # `datasets` names its cache after the folder's last name and these entries, not after the files: without the
    # digest it would go on giving the old rows of a set that was built again, or another set's of the same name.
    return {"config_name": name, "description": f"content {content}", "data_files": files}


def _render(template: str, metadata: DatasetCardData, **values: object) -> str:
    card = DatasetCard.from_template(metadata, template_path=str(TEMPLATES / template), **values)
    return f"{card}\n"


def _size_category(count: int) -> str:
    for limit, name in ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M")):
        if count < limit:
            return name
    return "n>1M"
