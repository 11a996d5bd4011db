"""The report: one object, from which JSON, the page and the PDF are made; frozen when it is signed."""

import hashlib
import io
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sqlalchemy import select
from sqlalchemy.orm import Session

from bthub.errors import BthubError
from bthub.imaging.kinds import OTHER_MRI, ROUGH, TITLES
from bthub.inference.result import DISCLAIMER, TUMOR
from bthub.practice import access
from bthub.practice.accounts import audit, check_length, clean_text
from bthub.practice.cases import decode, full_disk, masks_that_count, measured, refresh
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.models import (
    DONE,
    DRAFT,
    LANGUAGES,
    SIGNED,
    VOLUME,
    Account,
    Case,
    Examination,
    Note,
    Report,
    Slice,
    now,
)
from bthub.practice.texts import Refusal, foreign, number, percent, translate

FORMAT = "bthub-report-1"
DIGEST = "sha256"
LONGEST = 8_000
_CHANGED = "The report was changed meanwhile: read it, then sign."
_LACKING = (
    "The PDF can't show some characters of this report. The page lists them. Sign again to accept this, or replace "
    "them."
)
_OVERTAKEN = (
    "This report was changed in another window after you opened it here: your text wasn't saved. It is still in the "
    "form, and what was saved meanwhile is below it: compare them, then save again to replace that text with yours."
)
_PICTURE_SIDE = 900


class Reports:
    """What an account does with its reports."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    def create(self, account: Account, examination_id: str, language: str) -> str:
        """Begin a report of an examination; returns its id.

        Raises:
            NotFound: the examination isn't the account's.
            Refusal: it isn't analyzed or not saved.
        """
        with full_disk(), self._database.write() as session:
            examination = access.get(session, Examination, account.id, examination_id)
            if examination.state != DONE:
                raise Refusal("There is nothing to report before the analysis is done.", 409)
            if examination.case_id is None:
                raise Refusal("Save the examination in a case first.", 409)
            report = Report(
                case_id=examination.case_id,
                examination_id=examination.id,
                language=language if language in LANGUAGES else "en",
                findings=_draft(session, examination, language),
            )
            session.add(report)
            session.flush()
            audit(session, account.id, "create report", report.id)
        return report.id

    def save(self, account_id: str, report_id: str, findings: str, impression: str, seen: str) -> str:
        """Keep a draft's text.

        Args:
            account_id: whose.
            report_id: which.
            findings, impression: the new text.
            seen: `text_mark` of the draft that was changed into it.

        Returns:
            The new `text_mark`.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it is signed, its text is another by now, or the new one is too long.
        """
        findings, impression = clean_text(findings), clean_text(impression)
        with full_disk(), self._database.write() as session:
            report = _locked(session, account_id, report_id)
            if text_mark(report) != seen:
                raise Refusal(_OVERTAKEN, 409)
            check_length("The findings have {length} characters: shorten them to at most {most}.", findings, LONGEST)
            check_length("The impression has {length} characters: shorten it to at most {most}.", impression, LONGEST)
            report.findings, report.impression = findings, impression
            report.changed_at = now()
            audit(session, account_id, "edit report", report_id)
            return text_mark(report)

    def sign(self, account: Account, report_id: str, text: str, rest: str, lacking: str = "") -> str:
        """Freeze a report as it is now; returns its digest.

        Args:
            account: whose.
            report_id: which.
            text, rest: `text_mark` and `rest_mark` of what the person saw, which is what is signed.
            lacking: the characters of which the person was told that the PDF can't show them.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it is signed, has no impression, isn't what the person saw, or has a PDF that lacks more
                characters than the person knows.
        """
        # Drawn before the transaction that keeps it: meanwhile others may write.
        with self._database.read() as session:
            report = access.get(session, Report, account.id, report_id)
            if report.state == SIGNED:
                raise Refusal("This report is signed: write another.", 409)
            if not report.impression.strip():
                raise Refusal("Write an impression before you sign: the model's words alone are no report.", 409)
            signed_at = now()
            content, picture = build(session, self._files, account, report, signed_at)
            if text_mark(report) != text or rest_mark(content) != rest:
                raise Refusal(_CHANGED, 409)
        if set(not_in_pdf(content)) - set(lacking):
            raise Refusal(_LACKING, 409)
        sealed = digest(content)
        frozen = {**content, DIGEST: sealed}
        pdf = to_pdf(frozen, picture, report.language)
        with full_disk():
            pdf_address = self._files.stage(account.id, pdf)
            picture_address = None if picture is None else self._files.stage(account.id, picture)
        with full_disk(), self._database.write() as session:
            report = _locked(session, account.id, report_id)
            if text_mark(report) != text:
                raise Refusal(_CHANGED, 409)
            report.digest, report.frozen = sealed, canonical(frozen)
            if picture is not None and picture_address is not None:
                report.picture = self._files.attach(session, account.id, picture_address, len(picture), "image/png")
            report.pdf = self._files.attach(session, account.id, pdf_address, len(pdf), "application/pdf")
            report.state, report.signed_at, report.changed_at = SIGNED, signed_at, signed_at
            session.flush()
            refresh(session, report.case_id)
            audit(session, account.id, "sign report", report_id)
        return sealed

    def content(self, account: Account, report_id: str) -> tuple[Report, dict[str, Any], bytes | None]:
        """A report, what it says, and its picture: as it was signed, or as it would be signed now.

        Raises:
            NotFound: it isn't the account's.
            MissingFile: its picture is gone.
        """
        with self._database.read() as session:
            report = access.get(session, Report, account.id, report_id)
            if report.state == SIGNED and report.frozen is not None:
                return report, json.loads(report.frozen), self._files.read(report.picture) if report.picture else None
            return report, *build(session, self._files, account, report)

    def pdf(self, account: Account, report_id: str) -> tuple[Report, bytes]:
        """A report as PDF: of a signed one the same bytes each time."""
        report, content, picture = self.content(account, report_id)
        if report.pdf is not None:
            return report, self._files.read(report.pdf)
        return report, to_pdf(content, picture, report.language)


def _locked(session: Session, account_id: str, report_id: str) -> Report:
    """A draft that nobody else changes until the transaction ends.

    Raises:
        NotFound: it isn't the account's.
        Refusal: it is signed.
    """
    report = access.get(session, Report, account_id, report_id)
    # SQLite has one writer anyway; in PostgreSQL another may have changed it since it was read.
    session.refresh(report, with_for_update=True)
    if report.state == SIGNED:
        raise Refusal("This report is signed: write another.", 409)
    return report


def text_mark(report: Report) -> str:
    """What a draft says in the author's words, as a digest: a form bears that of the text that it was loaded with.

    Not a time or a counter: clocks jump, and who overwrites a text with itself loses nothing.
    """
    return digest({"findings": report.findings, "impression": report.impression})


def rest_mark(content: dict[str, Any]) -> str:
    """What a report shows beside the author's words and its signature: figures, outlines, notes; as a digest."""
    own = {"findings", "impression", "state", "signed_at", DIGEST}
    return digest({key: value for key, value in content.items() if key not in own})


def build(
    session: Session, files: FileStore, account: Account, report: Report, signed_at: datetime | None = None
) -> tuple[dict[str, Any], bytes | None]:
    """What a report says, in JSON types, and its picture as PNG; None where none could be read."""
    case = session.get_one(Case, report.case_id)
    examination = session.get_one(Examination, report.examination_id)
    slices = session.scalars(
        select(Slice).where(Slice.examination_id == examination.id, Slice.result.is_not(None)).order_by(Slice.position)
    ).all()
    counting = masks_that_count(session, slices)
    shown = max(slices, key=lambda found: (found.area_px or 0, found.probability or 0), default=None)
    picture = None
    if shown is not None and shown.picture:
        mask_address, by_hand = counting[shown.id]
        mask = None if mask_address is None else decode(files.read(mask_address))
        picture = drawn(files.read(shown.picture), mask)
    notes = session.scalars(
        select(Note).where(Note.case_id == case.id, Note.deleted_at.is_(None)).order_by(Note.number)
    ).all()
    facts = examination.facts or {}
    counted = counted_slices(slices, counting)
    refused = session.scalars(
        select(Slice).where(Slice.examination_id == examination.id, Slice.result.is_(None)).order_by(Slice.position)
    ).all()
    result = (shown.result or {}) if shown is not None else {}
    band = result.get("referral_band", result.get("review_band"))
    content = {
        "format": FORMAT,
        "report": report.id,
        "language": report.language,
        "state": SIGNED if signed_at else DRAFT,
        "created_at": report.created_at.isoformat(timespec="seconds"),
        "signed_at": signed_at and signed_at.isoformat(timespec="seconds"),
        "author": {
            "name": account.full_name,
            "profession": account.profession,
            "institution": account.institution,
        },
        "patient_label": case.pseudonym,
        "examination": {
            "id": examination.id,
            "title": examination.title,
            "examined_on": examination.examined_on and examination.examined_on.isoformat(),
            "kind": examination.kind,
            "spacing_mm": examination.spacing_mm,
            "checked": examination.check_input,
            "slices": len(counted),
            "slices_with_tumor": sum(bool(one.area_px) for one in counted),
            "total": len(slices) + len(refused),
            "not_analyzed": [
                {"name": one.name, "reason": one.problem or (one.result or {}).get("skipped")}
                for one in sorted([*refused, *(set(slices) - set(counted))], key=lambda one: one.position)
            ],
            "remarks": examination.remarks or [],
            "rough_outline": rough_outline(slices, counting),
        },
        "verdict": {
            "label": examination.label,
            "tumor_probability": examination.probability,
            "threshold": examination.threshold,
            "uncertain": examination.uncertain,
            "referral_band": band,
            "area_px": examination.area_px,
            "area_mm2": examination.area_mm2,
            "volume_ml": examination.volume_ml,
            "corrected_by_hand": examination.corrected,
        },
        "shown_slice": shown and {"position": shown.position + 1, **_slice(shown, counting[shown.id])},
        "slices": [_slice(one, counting[one.id]) for one in slices],
        "models": facts.get("models", {}),
        "quality": {stage: facts[stage] for stage in ("detector", "localizer") if stage in facts}
        | {"input": _input(slices, facts)},
        "findings": report.findings,
        "impression": report.impression,
        "notes": [
            {"at": note.changed_at.isoformat(timespec="seconds"), "author": note.author, "text": note.text}
            for note in notes
        ],
        "picture_sha256": picture and hashlib.sha256(picture).hexdigest(),
        "disclaimer": DISCLAIMER,
    }
    return content, picture


def _input(slices: Sequence[Slice], facts: dict[str, Any]) -> dict[str, Any] | None:
    """What most of the pictures were read as, and how good the detector was measured to be at that kind."""
    kinds = Counter(kind for found in slices if (kind := (found.result or {}).get("input_kind")))
    if not kinds:
        return None
    (kind, _), *_ = kinds.most_common(1)
    return {"kind": kind, "figures": facts.get("by_kind", {}).get(kind)}


def _slice(found: Slice, counting: tuple[str | None, bool]) -> dict[str, Any]:
    result = found.result or {}
    return {
        "name": found.name,
        "label": found.label,
        "tumor_probability": found.probability,
        "uncertain": found.uncertain,
        "area_px": found.area_px,
        "area_mm2": found.area_mm2,
        "model_area_px": result.get("area_px"),
        "corrected_by_hand": counting[1],
        "input_kind": result.get("input_kind"),
        "width": result.get("width"),
        "height": result.get("height"),
    }


def counted_slices(slices: Sequence[Slice], counting: dict[str, tuple[str | None, bool]]) -> list[Slice]:
    """The slices that figures count: those that were analyzed, and those on which somebody drew.

    Args:
        slices: of an examination.
        counting: of `masks_that_count`.
    """
    return [one for one in slices if one.result is not None and (one.label is not None or counting[one.id][1])]


def rough_outline(slices: Sequence[Slice], counting: dict[str, tuple[str | None, bool]]) -> bool:
    """Whether the model drew an outline that counts on a kind of slice on which it is much less accurate."""
    return any(
        bool(one.area_px) and not counting[one.id][1] and (one.result or {}).get("input_kind") == OTHER_MRI
        for one in slices
    )


def sentences(
    language: str,
    *,
    kind: str,
    label: str | None,
    uncertain: bool,
    checked: bool,
    corrected: bool,
    count: int,
    marked: int,
    rough: bool,
    band: Sequence[float] | None = None,
) -> list[tuple[str, bool]]:
    """What a verdict means and doesn't mean, as the pages and the report say it under the verdict.

    Args:
        language: of the sentences.
        kind: of the examination, PICTURES or VOLUME.
        label, uncertain: the model's verdict.
        checked: whether the input check was on.
        corrected: whether an outline that counts was drawn by hand.
        count, marked: slices that are counted, and how many of them have an outline.
        rough: as of `rough_outline`.
        band: the referral band, 0-1, where it can be told.

    Returns:
        Each sentence, and whether it is a warning.
    """

    def t(text: str, **values: object) -> str:
        return translate(text, language, **values)

    found = []
    if corrected and not marked:
        text = t("The verdict above is the model's. After the correction by hand, no tumor is outlined.")
        found.append((text, True))
    elif corrected and label == TUMOR:
        text = t(
            "The verdict above is the model's. A person has corrected its outline; areas are those of the corrected "
            "outline."
        )
        found.append((text, True))
    elif corrected:
        text = t(
            "The verdict above is the model's. A person has outlined a tumor by hand; areas are those of that outline."
        )
        found.append((text, True))
    if uncertain:
        found.append((_uncertainty(language, kind, label, count, band), True))
    if not checked:
        text = t("These pictures were not checked: if they aren't slices of a brain MRI, the verdict means nothing.")
        found.append((text, True))
    if label != TUMOR:
        text = t("This is not an all-clear: the models know only a few kinds of tumor, and they miss some tumors.")
        found.append((text, False))
    elif not corrected:
        text = (
            t("The outline is an estimate by a model, not a diagnosis.")
            if marked
            else t("The model suspects a tumor, but could not outline it.")
        )
        found.append((text, False))
    if rough:
        found.append((t(ROUGH), True))
    return found


def _uncertainty(language: str, kind: str, label: str | None, count: int, band: Sequence[float] | None) -> str:
    """Why a verdict is uncertain. Of several slices it isn't always that a probability is close to the threshold."""

    def t(text: str, **values: object) -> str:
        return translate(text, language, **values)

    if count > 1 and label == TUMOR:
        return t(
            "Uncertain: on every slice that the verdict rests on, the probability is close to the threshold. There the "
            "model is wrong too often to be relied on. A person should look."
        )
    if count > 1 and kind == VOLUME:
        return t(
            "Uncertain: the model outlined nothing in the whole scan, but on at least one slice it saw a tumor or was "
            "unsure. A person should look."
        )
    if count > 1:
        return t(
            "Uncertain: on at least one slice the probability is close to the threshold. There the model is wrong too "
            "often to be relied on. A person should look."
        )
    if not band:
        return t(
            "Uncertain: this close to the threshold the model is wrong too often to be relied on. A person should look."
        )
    low, high = (percent(end, language) for end in band)
    return t(
        "Uncertain: this close to the threshold (between {low} and {high}) the model is wrong too often "
        "to be relied on. A person should look.",
        low=low,
        high=high,
    )


def _draft(session: Session, examination: Examination, language: str) -> str:
    """Findings to begin with: what the model said and what was drawn by hand, in sentences that the author changes."""

    def t(text: str, **values: object) -> str:
        return translate(text, language, **values)

    slices = session.scalars(select(Slice).where(Slice.examination_id == examination.id)).all()
    counting = masks_that_count(session, slices)
    counted = counted_slices(slices, counting)
    count, marked = len(counted), sum(bool(found.area_px) for found in counted)
    if examination.label == TUMOR:
        probability = percent(examination.probability or 0, language)
        found = [t("The model suspects a tumor, with a probability of {probability}.", probability=probability)]
    elif count == 1:
        found = [t("The model found no tumor on this slice.")]
    else:
        found = [t("The model found no tumor on {count} slices.", count=count)]
    if examination.uncertain:
        found.append(_uncertainty(language, examination.kind, examination.label, count, None))
    if not examination.check_input:
        found.append(
            t("These pictures were not checked: if they aren't slices of a brain MRI, the verdict means nothing.")
        )
    if count < len(slices):
        left = {"count": len(slices) - count, "total": len(slices)}
        found.append(t("Not analyzed: {count} of {total} slices.", **left))
    if examination.corrected and not marked:
        found.append(t("After a correction by hand, no tumor is outlined."))
    elif examination.corrected and count == 1:
        found.append(t("The outline was drawn or corrected by hand."))
    elif examination.corrected:
        found.append(
            t("After a correction by hand, {marked} of {count} slices have an outline.", marked=marked, count=count)
        )
    elif marked and count > 1:
        found.append(t("It is outlined on {marked} of {count} slices.", marked=marked, count=count))
    if examination.area_px:
        area = area_text(examination.area_px, examination.area_mm2, language)
        found.append(t("Largest area: {area}.", area=area))
    if examination.volume_ml:
        found.append(t("Volume: {volume} ml.", volume=number(examination.volume_ml, language, 1)))
    return " ".join(found)


def area_text(pixels: int | None, mm2: float | None, language: str) -> str:
    """An area with its unit."""
    if pixels is None:
        return "–"
    if mm2 is not None:
        return f"{number(mm2 / 100, language, 2)} cm²"
    return translate("{count} pixels", language, count=number(pixels, language))


def canonical(content: dict[str, Any]) -> str:
    """The one way that a content is written, so that its digest is always the same."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of what a report says, hexadecimal; the digest itself left out."""
    told = {key: value for key, value in content.items() if key != DIGEST}
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def check_file(path: Path) -> str:
    """The digest of a report's JSON file that is as it was signed.

    Raises:
        BthubError: it isn't such a file, isn't signed, or was changed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = digest(content) if isinstance(content, dict) else None
    except (OSError, ValueError, RecursionError) as error:  # the last where it is nested without end
        raise BthubError(f"{path}: is not a report that can be read, expected the JSON of a signed report") from error
    if found is None or content.get("format") != FORMAT or not content.get(DIGEST):
        raise BthubError(f"{path}: is not a signed report, expected its JSON as the practice gives it")
    if found != content[DIGEST]:
        raise BthubError(f"{path}: was changed after it was signed; the file in the practice holds what was signed")
    return str(content[DIGEST])


def drawn(picture: bytes, mask: np.ndarray | None) -> bytes:
    """The picture as PNG with the mask's contour, enlarged so that the line is fine."""
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
        shown = image.convert("RGB")
    scale = max(1, round(_PICTURE_SIDE / max(shown.size)))
    contours = [] if mask is None else measured(mask)["contour"]
    shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    for polygon in contours:
        line = [(x * scale, y * scale) for x, y in polygon]
        draw.line([*line, line[0]], fill=(255, 45, 45), width=max(2, scale), joint="curve")
    if max(shown.size) > 2 * _PICTURE_SIDE:
        shown.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


# -- words, shared by the page and the PDF


def lines(content: dict[str, Any], language: str) -> dict[str, Any]:
    """A report's content in words.

    Returns:
        `verdict`, `tone`, `meaning` and `remarks` (sentences), `numbers`, `quality` and `models` (pairs of term and
        value), `caption` of the picture, `kind`, `basis` and `who`.
    """

    def t(text: str, **values: object) -> str:
        return translate(text, language, **values)

    verdict, examination = content["verdict"], content["examination"]
    probability, threshold = verdict["tumor_probability"], verdict["threshold"]
    tumor, unsure = verdict["label"] == TUMOR, verdict["uncertain"]
    count = examination["slices"]
    meaning = []
    if probability is not None and threshold is not None:
        values = {"probability": percent(probability, language), "threshold": percent(threshold, language)}
        meaning.append(
            t(
                "The probability of a tumor on this slice is {probability}; at {threshold} or more the detector "
                "predicts a tumor.",
                **values,
            )
            if count == 1
            else t(
                "On the slice that decides the verdict, the probability of a tumor is {probability}; at {threshold} or "
                "more the detector predicts a tumor on a slice.",
                **values,
            )
        )
    meaning += [
        text
        for text, _ in sentences(
            language,
            kind=examination["kind"],
            label=verdict["label"],
            uncertain=unsure,
            checked=examination.get("checked", True),  # reports that were signed earlier don't say it
            corrected=verdict["corrected_by_hand"],
            count=count,
            marked=examination["slices_with_tumor"],
            rough=examination.get("rough_outline", False),
            # Reports that were signed earlier call it review_band.
            band=verdict.get("referral_band", verdict.get("review_band")),
        )
    ]
    remarks = [foreign(text, language) for text in examination.get("remarks", [])]
    if left := examination.get("not_analyzed", []):
        values = {"count": len(left), "total": examination["total"]}
        if examination["kind"] == VOLUME:
            remarks.append(
                t(
                    "{count} of {total} slices were not analyzed: they are blank, or not recognized as a brain.",
                    **values,
                )
            )
        else:
            remarks.append(t("{count} of {total} files could not be analyzed:", **values))
            remarks += [foreign(one["reason"], language) for one in left]
    numbers = [
        (t("Largest area"), area_text(verdict["area_px"], verdict["area_mm2"], language)),
        (
            t("Slices with an outline"),
            t("{marked} of {count}", marked=examination["slices_with_tumor"], count=examination["slices"]),
        ),
    ]
    if verdict["volume_ml"] is not None:
        numbers.insert(0, (t("Volume"), f"{number(verdict['volume_ml'], language, 1)} ml"))
    if spacing := examination["spacing_mm"]:
        numbers.append((t("Spacing"), " × ".join(number(v, language, 2) for v in spacing if v) + " mm"))
    quality = []
    names = {
        "recall": t("Tumor slices found"),
        "specificity": t("Tumor-free slices without a false alarm"),
        "dice_tumor_slices": t("Outline's Dice on tumor slices"),
        "dice_volume_mean": t("Outline's Dice on whole patients"),
    }
    for stage in ("detector", "localizer"):
        for name, figure in content["quality"].get(stage, {}).get("figures", {}).items():
            text = number(figure["value"], language, 2)
            if figure.get("low") is not None:
                text += f" ({number(figure['low'], language, 2)}–{number(figure['high'], language, 2)})"
            quality.append((names.get(name, name), text))
    given = content["quality"].get("input")
    kind = ""
    if given:
        kind = t("Read as: {kind}.", kind=t(TITLES[given["kind"]]))
        if figures := given["figures"]:
            kind += " " + t(
                "On pictures of this kind that it never saw, the detector finds {found} of 100 with a tumor and raises "
                "a false alarm on {flagged} of 100 without one.",
                found=round(100 * figures["recall"]),
                flagged=round(100 * (1 - figures["specificity"])),
            )
    caption = ""
    if shown := content["shown_slice"]:
        # Reports that were signed earlier count the analyzed slices alone.
        total = examination.get("total", max(count, shown["position"]))
        caption = t("Slice {number} of {count}, the outline in red", number=shown["position"], count=total)
    detector = content["quality"].get("detector")
    basis = detector and t(
        "Measured on {samples} slices of {patients} patients with lower-grade glioma that no "
        "training has seen, with 95% intervals. Other tumors, scanners and sequences: expect less.",
        samples=number(detector["samples"], language),
        patients=detector["patients"],
    )
    author = content["author"]
    return {
        "verdict": t("Uncertain") if unsure else t("Tumor suspected") if tumor else t("No tumor found"),
        "tone": "uncertain" if unsure else "tumor" if tumor else "clear",
        "meaning": meaning,
        "remarks": remarks,
        "caption": caption,
        "numbers": numbers,
        "quality": quality,
        "kind": kind,
        "basis": basis or t("How good these models are was not measured."),
        "models": [
            (t("Detector") if stage == "detector" else t("Localizer"), f"{model['id']} {model['revision']}")
            for stage, model in content["models"].items()
        ],
        "who": ", ".join(
            part for part in (author["name"], t(author["profession"] or ""), author["institution"]) if part
        ),
    }


def to_pdf(content: dict[str, Any], picture: bytes | None, language: str) -> bytes:
    """A report as PDF. The same content gives the same bytes."""
    from fpdf import FPDF
    from fpdf.enums import XPos, YPos

    # It would write characters of the report into the server's log. `not_in_pdf` tells the author instead.
    logging.getLogger("fpdf").setLevel(logging.CRITICAL)

    def t(text: str, **values: object) -> str:
        return translate(text, language, **values)

    words = lines(content, language)
    disclaimer = t(content["disclaimer"])

    class Page(FPDF):
        def footer(self) -> None:
            self.set_y(-17)
            self.set_font("sans", size=7.5)
            self.set_text_color(90)
            self.multi_cell(0, 3.6, disclaimer, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            mark = f"{DIGEST} {content[DIGEST]}" if content.get(DIGEST) else t("Draft, not signed")
            self.cell(0, 3.6, f"{mark}   {t('page {number}', number=self.page_no())}/{{nb}}")
            self.set_text_color(0)

    pdf = Page(format="A4")
    pdf.set_margins(16, 14, 16)
    pdf.set_auto_page_break(True, margin=20)
    fonts = _fonts()
    pdf.add_font("sans", "", fonts / "DejaVuSans.ttf")
    pdf.add_font("sans", "B", fonts / "DejaVuSans-Bold.ttf")
    pdf.set_title(t("Report"))
    pdf.set_creator("bthub")
    stamp = datetime.fromisoformat(content["signed_at"] or content["created_at"])
    pdf.set_creation_date(stamp)
    pdf.add_page()
    new_line = {"new_x": XPos.LMARGIN, "new_y": YPos.NEXT}

    def heading(text: str) -> None:
        pdf.ln(2.5)
        pdf.set_font("sans", "B", 10)
        pdf.cell(0, 5.5, text, **new_line)
        pdf.set_font("sans", size=9)

    def body(text: str) -> None:
        pdf.set_font("sans", size=9)
        pdf.multi_cell(0, 4.4, text.expandtabs(4), align="L", **new_line)  # no font has a glyph of the tab

    pdf.set_font("sans", "B", 15)
    pdf.cell(110, 8, t("Report"))
    pdf.set_font("sans", size=9)
    pdf.set_text_color(90)
    state = (
        t("Signed {when}", when=when(content["signed_at"], language))
        if content["signed_at"]
        else t("Draft, not signed")
    )
    pdf.cell(0, 8, state, align="R", **new_line)
    pdf.set_text_color(0)
    day = content["examination"]["examined_on"]
    for term, value in (
        (t("Patient label"), content["patient_label"]),
        (
            t("Examination"),
            ", ".join(part for part in (day_text(day, language), content["examination"]["title"]) if part),
        ),
        (t("Author"), words["who"]),
    ):
        pdf.set_font("sans", "B", 9)
        pdf.cell(34, 5, term)
        pdf.set_font("sans", size=9)
        pdf.multi_cell(0, 5, value or "–", **new_line)
    pdf.ln(2)
    top, left = pdf.get_y(), pdf.l_margin
    bottom = top
    if picture is not None:
        with Image.open(io.BytesIO(picture)) as image:
            width, height = image.size
        factor = min(78 / width, 78 / height)
        pdf.image(io.BytesIO(picture), x=left + pdf.c_margin, y=top, w=width * factor, h=height * factor)
        bottom = top + height * factor
        pdf.set_xy(left, bottom + 0.5)
        pdf.set_font("sans", size=7.5)
        pdf.set_text_color(90)
        pdf.multi_cell(78, 3.6, words["caption"], **new_line)
        pdf.set_text_color(0)
        bottom = pdf.get_y()
        pdf.set_left_margin(left + 84)
        pdf.set_xy(left + 84, top)
    pdf.set_font("sans", "B", 13)
    pdf.set_text_color(*{"tumor": (180, 35, 24), "uncertain": (146, 64, 14), "clear": (15, 118, 110)}[words["tone"]])
    pdf.multi_cell(0, 6.5, words["verdict"], **new_line)
    pdf.set_text_color(0)
    for text in words["meaning"]:
        body(text)
        pdf.ln(0.8)
    pdf.ln(1)
    for term, value in words["numbers"]:
        pdf.set_font("sans", size=9)
        pdf.cell(44, 5, term)
        pdf.set_font("sans", "B", 9)
        pdf.multi_cell(0, 5, value, **new_line)
    pdf.set_left_margin(left)
    pdf.set_xy(left, max(bottom, pdf.get_y()))
    if words["remarks"]:
        heading(t("What limits this analysis"))
        for text in words["remarks"]:
            body(text)
    heading(t("Findings"))
    body(content["findings"] or "–")
    heading(t("Impression"))
    body(content["impression"] or "–")
    if content["notes"]:
        heading(t("Notes"))
        for note in content["notes"]:
            body(f"{when(note['at'], language)}, {note['author']}: {note['text']}")
    if not_in_pdf(content):
        body(t("This PDF can't show some characters of the report; its HTML and its JSON have them."))
    heading(t("How good the models are"))
    pdf.set_font("sans", size=8)
    if words["kind"]:
        pdf.multi_cell(0, 4, words["kind"], align="L", **new_line)
    for term, value in words["quality"]:
        pdf.cell(70, 4.4, term)
        pdf.cell(0, 4.4, value, **new_line)
    pdf.multi_cell(0, 4, words["basis"], align="L", **new_line)
    pdf.ln(1)
    for term, value in words["models"]:
        pdf.cell(30, 4.4, term)
        pdf.multi_cell(0, 4.4, value, **new_line)
    return bytes(pdf.output())


def not_in_pdf(content: dict[str, Any]) -> str:
    """The characters of a report that its PDF can't show as they are written, each once, in order.

    The font has none of East Asia's, and fpdf neither turns nor joins the letters of Hebrew and Arabic.
    """
    written = [content["patient_label"], content["examination"]["title"], content["findings"], content["impression"]]
    written += [part or "" for part in content["author"].values()]
    written += [one["reason"] for one in content["examination"].get("not_analyzed", [])]
    written += [part for note in content["notes"] for part in (note["author"], note["text"])]
    return "".join(
        c
        for c in sorted(set("".join(written)) - set("\n\t"))
        if ord(c) not in _drawable() or unicodedata.bidirectional(c) in ("R", "AL")
    )


@cache
def _drawable() -> frozenset[int]:
    """The characters that the font has."""
    from fontTools.ttLib import TTFont

    with TTFont(_fonts() / "DejaVuSans.ttf", lazy=True) as font:
        return frozenset(font.getBestCmap())


def _fonts() -> Path:
    """DejaVu, which writes most of the world's languages; it comes with matplotlib, which isn't loaded for it."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise BthubError(
            'a report needs the fonts of matplotlib, which isn\'t installed: pip install "bthub[practice]"'
        )
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


def day_text(day: str | None, language: str) -> str:
    """A day as the language writes it."""
    if not day:
        return ""
    year, month, date = day[:10].split("-")
    return f"{int(date)}.{int(month)}.{year}" if language == "de" else f"{year}-{month}-{date}"


def when(moment: datetime | str | None, language: str) -> str:
    """A moment, in UTC, as the language writes it."""
    if moment is None:
        return ""
    text = moment if isinstance(moment, str) else moment.isoformat()
    return f"{day_text(text, language)} {text[11:16]} UTC"
