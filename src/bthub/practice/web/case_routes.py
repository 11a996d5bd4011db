"""Pages about cases: home, upload, examinations, history, notes, corrections, follow-up, exports."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select
from starlette.datastructures import UploadFile
from starlette.responses import Response

from bthub.practice import access, quality
from bthub.practice.cases import (
    SORTS,
    Search,
    day_of,
    has_corrections,
    in_time,
    masks_that_count,
    note_mark,
    read_day,
)
from bthub.practice.models import (
    DONE,
    FAILED,
    Account,
    Case,
    Correction,
    Examination,
    Note,
    NoteVersion,
    Report,
    Slice,
    StoredFile,
    Upload,
)
from bthub.practice.plots import Point, bars, timeline
from bthub.practice.report import area_text, counted_slices, day_text, rough_outline, sentences
from bthub.practice.texts import Refusal, number, percent, sentence
from bthub.practice.web.context import Visit, checked_visit, form_of, script_visit, visit_of
from bthub.practice.web.lanes import lane, run

router = APIRouter()
Seen = Annotated[Visit, Depends(visit_of)]
Checked = Annotated[Visit, Depends(checked_visit)]
Scripted = Annotated[Visit, Depends(script_visit)]
Field = Annotated[str, Form()]
RECENT = 12


@router.get("/")
def home(visit: Seen) -> Response:
    account = visit.account
    with visit.practice.database.read() as session:
        examinations = session.scalars(
            access.own(Examination, account.id).order_by(Examination.created_at.desc()).limit(RECENT)
        ).all()
        notes = session.scalars(access.own(Note, account.id).order_by(Note.changed_at.desc()).limit(RECENT)).all()
        reports = session.scalars(access.own(Report, account.id).order_by(Report.changed_at.desc()).limit(RECENT)).all()
        ids = {one.case_id for one in (*examinations, *notes, *reports) if one.case_id}
        cases = {one.id: one for one in session.scalars(access.own(Case, account.id).where(Case.id.in_(ids)))}
    activity: list[tuple[Any, str, Any]] = [
        *((one.created_at, "examination", one) for one in examinations),
        *((one.changed_at, "note", one) for one in notes),
        *((one.changed_at, "report", one) for one in reports),
    ]
    activity.sort(key=lambda entry: entry[0], reverse=True)
    return visit.page("home.html", activity=activity[:RECENT], cases=cases, problem=None)


# -- examinations


@router.post("/analyze")
async def analyze(request: Request, visit: Checked) -> Response:
    form = await form_of(request)
    sent = [part for part in form.getlist("files") if isinstance(part, UploadFile)]

    def files() -> Iterator[tuple[str, bytes]]:
        for part in sent:
            part.file.seek(0)
            yield part.filename or "", part.file.read()

    def text(name: str) -> str:
        value = form.get(name)
        return value if isinstance(value, str) else ""

    def keep() -> str:
        id = visit.practice.cases.upload(
            visit.account,
            files(),
            pseudonym=text("pseudonym"),
            examined_on=read_day(text("examined_on")),
            check_input=text("anyway") != "yes",
        )
        visit.practice.engine.wake()
        return id

    id = await run("uploads", keep)
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"id": id, "page": f"/examinations/{id}"}, 201)
    return visit.to(f"/examinations/{id}")


@router.get("/examinations/{id}")
def examination_page(visit: Seen, id: str) -> Response:
    with visit.practice.database.read() as session:
        examination = access.get(session, Examination, visit.account.id, id)
        if examination.case_id and examination.state in (DONE, FAILED):
            return visit.to(f"/cases/{examination.case_id}?examination={id}")
        case = examination.case_id and session.get(Case, examination.case_id)
        labels = session.scalars(
            access.own(Case, visit.account.id)
            .with_only_columns(Case.pseudonym)
            .order_by(Case.changed_at.desc())
            .limit(100)
        ).all()
        shown = _shown(visit, session, examination)
    return visit.page("examination.html", case=case, labels=labels, shown=shown)


@router.get("/examinations/{id}/status")
def status(visit: Seen, id: str) -> JSONResponse:
    with visit.practice.database.read() as session:
        found = access.get(session, Examination, visit.account.id, id)
    models = visit.practice.engine.state
    return JSONResponse({"state": found.state, "done": found.done, "total": found.total, "models": models})


@router.post("/examinations/{id}/save")
def save(visit: Checked, id: str, pseudonym: Field = "", examined_on: Field = "", keep: Field = "") -> Response:
    case_id = visit.practice.cases.save(visit.account, id, pseudonym, read_day(examined_on), keep == "yes")
    return visit.to(f"/cases/{case_id}?examination={id}")


@router.post("/examinations/{id}/again")
def again(visit: Checked, id: str, scan: Field = "", anyway: Field = "", sure: Field = "") -> Response:
    chosen = int(scan) if scan.isdecimal() and len(scan) < 5 else None
    visit.practice.cases.again(visit.account.id, id, chosen, unchecked=anyway == "yes", sure=sure == "yes")
    visit.practice.engine.wake()
    return visit.to(f"/examinations/{id}")


@router.post("/examinations/{id}/day")
def set_day(visit: Checked, id: str, examined_on: Field = "", before: Field = "") -> Response:
    visit.practice.cases.set_day(visit.account.id, id, read_day(examined_on), read_day(before))
    return visit.to(f"/examinations/{id}")


@router.post("/examinations/{id}/originals/delete")
def delete_originals(visit: Checked, id: str) -> Response:
    visit.practice.cases.delete_originals(visit.account.id, id)
    return visit.to(f"/examinations/{id}")


@router.post("/examinations/{id}/delete")
def delete_examination(visit: Checked, id: str) -> Response:
    case_id = visit.practice.cases.delete(visit.account.id, Examination, id, visit.session_id)
    return visit.to(f"/cases/{case_id}" if case_id else "/")


def _shown(visit: Visit, session: Any, examination: Examination) -> dict[str, Any]:
    """What the viewer and the numbers beside it need of an examination."""
    slices = session.scalars(select(Slice).where(Slice.examination_id == examination.id).order_by(Slice.position)).all()
    counting = masks_that_count(session, slices)
    readable = [found for found in slices if found.picture is not None and found.result is not None]
    entries = [_slice_entry(visit, found, counting[found.id]) for found in readable]
    largest = max(
        range(len(readable)), key=lambda i: (readable[i].area_px or 0, readable[i].probability or 0), default=0
    )
    counted = counted_slices(slices, counting)
    marked = sum(bool(found.area_px) for found in counted)
    result = (readable[largest].result or {}) if readable else {}
    uploads = session.scalar(select(Upload.id).where(Upload.examination_id == examination.id).limit(1)) is not None
    return {
        "examination": examination,
        "slices": slices,
        "entries": entries,
        "start": largest,
        "refused": [found for found in slices if found.problem],
        "counted": len(counted),
        "marked": marked,
        "sentences": sentences(
            visit.language,
            kind=examination.kind,
            label=examination.label,
            uncertain=examination.uncertain,
            checked=examination.check_input,
            corrected=examination.corrected,
            count=len(counted),
            marked=marked,
            rough=rough_outline(slices, counting),
            band=result.get("referral_band", result.get("review_band")),
        ),
        "uploads": uploads,
        "drawn": has_corrections(session, examination.id),
        "engine": visit.practice.engine,
        "chart": bars([found.area_px or 0 for found in readable], largest) if len(readable) > 1 else None,
        "viewer": viewer_words(visit),
    }


def _slice_entry(visit: Visit, found: Slice, counting: tuple[str | None, bool]) -> dict[str, Any]:
    result = found.result or {}
    address, by_hand = counting
    mark = f"?v={address[:12]}" if address else ""
    return {
        "id": found.id,
        "name": found.name,
        "width": result["width"],
        "height": result["height"],
        "picture": f"/slices/{found.id}/picture.png",
        "address": address or "",
        "mask": f"/slices/{found.id}/mask.png{mark}" if address else None,
        "heat": f"/slices/{found.id}/heat.png",
        "label": found.label or "skipped",
        # With its threshold, which depends on the kind of picture and may differ from slice to slice.
        "probability": ""
        if found.probability is None or result.get("threshold") is None
        else visit.t(
            "{probability}, threshold {threshold}",
            probability=percent(found.probability, visit.language),
            threshold=percent(result["threshold"], visit.language),
        ),
        "uncertain": found.uncertain,
        "area_px": found.area_px or 0,
        "area": area_text(found.area_px, found.area_mm2, visit.language),
        "by_hand": by_hand,
    }


def viewer_words(visit: Visit) -> dict[str, str]:
    """What the viewer's script says."""
    texts = {
        "slice": "Slice {number} of {count}",
        "tumor": "Tumor suspected",
        "no_tumor": "No tumor found",
        "skipped": "Not analyzed: blank, or not a brain",
        "uncertain": "uncertain",
        "by_hand": "corrected by hand",
        "unsaved": "Your correction isn't saved: leave all the same?",
        "saving": "Saving",
        "saved": "Saved",
        "failed": "This could not be saved: try again.",
        "no_heat": "Where the detector looked can't be shown now.",
        "outline_pixels": "{count} pixels",
        "revert": "Go back to the model's outline? Your correction stays in the history.",
    }
    return {name: visit.t(text) for name, text in texts.items()}


# -- files of a slice


@router.get("/slices/{id}/picture.png")
def picture(visit: Seen, id: str) -> Response:
    with visit.practice.database.read() as session:
        found = access.get(session, Slice, visit.account.id, id)
    return _file(visit, found.picture)


@router.get("/slices/{id}/mask.png")
def mask(visit: Seen, id: str) -> Response:
    with visit.practice.database.read() as session:
        found = access.get(session, Slice, visit.account.id, id)
        address, _ = masks_that_count(session, [found])[found.id]
    return _file(visit, address)


@router.get("/slices/{id}/model-mask.png")
def model_mask(visit: Seen, id: str) -> Response:
    with visit.practice.database.read() as session:
        found = access.get(session, Slice, visit.account.id, id)
    return _file(visit, found.mask)


@router.get("/slices/{id}/heat.png")
@lane("models")
def heat(visit: Seen, id: str) -> Response:
    practice = visit.practice
    with practice.database.read() as session:
        found = access.get(session, Slice, visit.account.id, id)
    if found.heat is None and found.picture is not None:
        png = practice.engine.heat(practice.files.read(found.picture))
        address = practice.files.stage(visit.account.id, png)
        with practice.database.write() as session:
            found = access.get(session, Slice, visit.account.id, id)
            found.heat = practice.files.attach(session, visit.account.id, address, len(png), "image/png")
    return _file(visit, found.heat)


def _file(visit: Visit, address: str | None) -> Response:
    """A stored file's bytes. Who asks was let to the row that names it; the file must be of the same account."""
    if address is None:
        raise access.NotFound
    with visit.practice.database.read() as session:
        row = session.get(StoredFile, address)
    if row is None or row.account_id != visit.account.id:
        raise access.NotFound
    content = visit.practice.files.read(address)
    # In the browser's own cache until the session's end at most, nowhere between.
    return Response(content, media_type=row.kind, headers={"Cache-Control": "private, no-cache"})


@router.post("/slices/{id}/correction")
async def correct(request: Request, visit: Scripted, id: str) -> JSONResponse:
    png = await request.body()
    return JSONResponse(await run("uploads", _correct, visit, id, png))


@router.post("/slices/{id}/revert")
def revert(visit: Checked, id: str) -> JSONResponse:
    return JSONResponse(_correct(visit, id, None))


def _correct(visit: Visit, id: str, png: bytes | None) -> dict[str, Any]:
    # The address of the mask that the page began with, as its viewer was given it.
    visit.practice.cases.correct(visit.account, id, png, visit.request.headers.get("x-before"))
    with visit.practice.database.read() as session:
        found = access.get(session, Slice, visit.account.id, id)
        return _slice_entry(visit, found, masks_that_count(session, [found])[id])


# -- cases


@router.get("/cases")
def history(
    visit: Seen,
    q: str = "",
    kind: str = "",
    since: str = "",
    until: str = "",
    sort: str = "changed",
    order: str = "",
    page: str = "1",
) -> Response:
    problem = None
    try:
        days = read_day(since), read_day(until)
    except Refusal as error:
        days, problem = (None, None), sentence(error, visit.language)
    search = Search(
        words=q[:200],
        kind=kind,
        since=days[0],
        until=days[1],
        sort=sort if sort in SORTS else "changed",
        ascending=order == "up",
        page=int(page) if page.isdecimal() and len(page) < 9 else 1,
    )
    found = visit.practice.cases.search(visit.account.id, search)
    given = {"q": q[:200], "kind": kind, "since": since, "until": until, "sort": search.sort, "order": order}
    return visit.page("history.html", found=found, given=given, problem=problem)


@router.get("/cases/{id}")
def case_page(visit: Seen, id: str, examination: str = "") -> Response:
    return _case(visit, id, examination)


def _case(
    visit: Visit, id: str, examination: str, refusal: Refusal | None = None, typed: dict[str, str] | None = None
) -> Response:
    """The page of a case.

    Args:
        visit: who asks.
        id: of the case.
        examination: the one that is shown; by default the latest.
        refusal: why the form of a note wasn't taken.
        typed: by the note's id, its text as it was sent and not saved.
    """
    account = visit.account
    with visit.practice.database.read() as session:
        case = access.get(session, Case, account.id, id)
        examinations = _examinations(session, account, id)
        chosen = next((one for one in examinations if one.id == examination), examinations[0] if examinations else None)
        notes = session.scalars(
            access.own(Note, account.id).where(Note.case_id == id).order_by(Note.number.desc())
        ).all()
        versions: dict[str, list[NoteVersion]] = {}
        for version in session.scalars(
            select(NoteVersion).where(NoteVersion.note_id.in_([one.id for one in notes])).order_by(NoteVersion.number)
        ):
            versions.setdefault(version.note_id, []).append(version)
        reports = session.scalars(
            access.own(Report, account.id).where(Report.case_id == id).order_by(Report.number.desc())
        ).all()
        shown = _shown(visit, session, chosen) if chosen else None
        corrections = (
            chosen
            and session.scalars(
                access.own(Correction, account.id)
                .where(Slice.examination_id == chosen.id)
                .order_by(Correction.number.desc())
                .limit(20)
            ).all()
        )
    return visit.page(
        "case.html",
        refusal.status if refusal else 200,
        problem=refusal and sentence(refusal, visit.language),
        typed=typed or {},
        marks={one.id: note_mark(one) for one in notes},
        case=case,
        examinations=examinations,
        shown=shown,
        notes=notes,
        versions=versions,
        reports=reports,
        corrections=corrections or [],
    )


def _examinations(session: Any, account: Account, case_id: str) -> Sequence[Examination]:
    """Those of a case, the latest first."""
    found = session.scalars(access.own(Examination, account.id).where(Examination.case_id == case_id))
    return sorted(found, key=in_time, reverse=True)


@router.post("/cases/{id}/rename")
def rename(visit: Checked, id: str, pseudonym: Field = "", before: Field = "") -> Response:
    visit.practice.cases.rename(visit.account.id, id, pseudonym, before)
    return visit.to(f"/cases/{id}")


@router.post("/cases/{id}/delete")
def delete_case(visit: Checked, id: str) -> Response:
    visit.practice.cases.delete(visit.account.id, Case, id, visit.session_id)
    return visit.to("/cases")


@router.post("/cases/{id}/notes")
def add_note(visit: Checked, id: str, text: Field = "", examination: Field = "") -> Response:
    visit.practice.cases.add_note(visit.account, id, text)
    return visit.to(f"/cases/{id}{_of(examination)}#notes")


@router.post("/notes/{id}")
def edit_note(visit: Checked, id: str, text: Field = "", examination: Field = "", seen: Field = "") -> Response:
    try:
        case_id = visit.practice.cases.edit_note(visit.account, id, text, seen)
    except Refusal as refusal:
        with visit.practice.database.read() as session:
            case_id = access.get(session, Note, visit.account.id, id).case_id
        return _case(visit, case_id, examination, refusal, {id: text})
    return visit.to(f"/cases/{case_id}{_of(examination)}#notes")


@router.post("/notes/{id}/delete")
def delete_note(visit: Checked, id: str) -> Response:
    case_id = visit.practice.cases.delete(visit.account.id, Note, id, visit.session_id)
    return visit.to(f"/cases/{case_id}#notes")


def _of(examination: str) -> str:
    return f"?examination={examination}" if examination.isalnum() else ""


@router.post("/undo")
def undo(visit: Checked) -> Response:
    case_id = visit.practice.cases.undo(visit.account.id, visit.session_id)
    if case_id is None:
        raise Refusal("There is nothing left to undo.", 409)
    with visit.practice.database.read() as session:
        try:
            access.get(session, Case, visit.account.id, case_id)
        except access.NotFound:  # an examination that isn't saved, or a thing in a case that is deleted too
            return visit.to("/")
    return visit.to(f"/cases/{case_id}")


@router.get("/cases/{id}/follow-up")
def follow_up(visit: Seen, id: str, before: str = "", after: str = "") -> Response:
    account = visit.account
    with visit.practice.database.read() as session:
        case = access.get(session, Case, account.id, id)
        done = [one for one in reversed(_examinations(session, account, id)) if one.state == DONE]
        if len(done) < 2:
            raise Refusal("A follow-up needs two examinations: save another of this patient in this case.", 409)
        first = next((one for one in done if one.id == before), done[0])
        second = next((one for one in done if one.id == after), done[-1])
        sides = [_shown(visit, session, one) for one in (first, second)]
        outlined = {one.id: _outlined(session, one) for one in done}
    measure, unit = measure_of(first, second), measure_of(*done)
    pair = [outlined[one.id] for one in (first, second)]
    rough, comparable = any(one.rough for one in pair), _comparable(measure, pair)
    share = None if measure == "ml" else max(one.share for one in pair)
    error = None if rough else quality.error_for(second.facts, share)
    values = [_value(one, measure) for one in (first, second)]
    change = quality.change(values[0], values[1], error, by_hand=first.corrected or second.corrected)
    plot = None
    if _comparable(unit, list(outlined.values())):
        plot = timeline([_point(visit, one, outlined[one.id], unit) for one in done], visit.language)
    return visit.page(
        "follow-up.html",
        case=case,
        examinations=done,
        first=first,
        second=second,
        sides=sides,
        change=change if comparable else quality.UNKNOWN,
        error=error,
        rough=rough,
        comparable=comparable,
        values=[_measure_text(visit, value, measure) for value in values],
        plot=plot,
        unit={"ml": "ml", "mm2": "cm²", "px": visit.t("pixels")}[unit],
    )


class _Outlined(NamedTuple):
    """What tells whether two measurements can be compared."""

    share: float
    """The largest share of a slice that is tumor."""
    sizes: set[tuple[int, int]]
    """Width and height of the slices, in pixels."""
    rough: bool
    """Whether a kind of slice is among the outlined ones on which the localizer's measured error doesn't hold."""


def _outlined(session: Any, examination: Examination) -> _Outlined:
    slices = session.scalars(
        select(Slice).where(Slice.examination_id == examination.id, Slice.result.is_not(None))
    ).all()
    sizes = [(one.result["width"], one.result["height"]) for one in slices]
    shares = [(one.area_px or 0) / (width * height) for one, (width, height) in zip(slices, sizes, strict=True)]
    rough = rough_outline(slices, masks_that_count(session, slices))
    return _Outlined(max(shares, default=0.0), set(sizes), rough)


def _comparable(measure: str, found: Sequence[_Outlined]) -> bool:
    """Pixels of pictures of different sizes are of different size themselves, as far as anybody knows."""
    return measure != "px" or len(set().union(*(one.sizes for one in found))) <= 1


def measure_of(*examinations: Examination) -> str:
    """The best measure that all have: ml, mm2 or px."""
    if all(one.volume_ml is not None for one in examinations):
        return "ml"
    return "mm2" if all(one.area_mm2 is not None for one in examinations) else "px"


def _value(examination: Examination, measure: str) -> float:
    value = {"ml": examination.volume_ml, "mm2": examination.area_mm2, "px": examination.area_px}[measure]
    return float(value or 0)


def _measure_text(visit: Visit, value: float, measure: str) -> str:
    if measure == "ml":
        return f"{number(value, visit.language, 1)} ml"
    return area_text(round(value), value if measure == "mm2" else None, visit.language)


def _point(visit: Visit, examination: Examination, outlined: _Outlined, measure: str) -> Point:
    value = _value(examination, measure) / (100 if measure == "mm2" else 1)
    error = None
    if not (examination.corrected or outlined.rough):
        error = quality.error_for(examination.facts, None if measure == "ml" else outlined.share)
    # Of one measurement: a difference of two is wider by the root of two, in logarithms.
    spread = error and error["factor"] ** (0.5**0.5)
    day = day_of(examination)
    return Point(day, value, day_text(day.isoformat(), visit.language), spread and (value / spread, value * spread))


# -- exports


@router.get("/cases/{id}/export.zip")
def export_case(visit: Seen, id: str) -> Response:
    return _zip(visit.practice.exports.cases(visit.account, id), "case.zip")


@router.get("/examinations/{id}/masks.zip")
@lane("documents")
def export_masks(visit: Seen, id: str) -> Response:
    return _zip(visit.practice.exports.masks(visit.account, id), "masks.zip")


@router.get("/examinations/{id}/mask.nii.gz")
@lane("documents")
def export_nifti(visit: Seen, id: str) -> Response:
    content = visit.practice.exports.nifti(visit.account, id)
    headers = {"Content-Disposition": 'attachment; filename="mask.nii.gz"'}
    return Response(content, media_type="application/gzip", headers=headers)


@router.get("/examinations/{id}/mask.dcm")
@lane("documents")
def export_seg(visit: Seen, id: str) -> Response:
    content = visit.practice.exports.seg(visit.account, id)
    headers = {"Content-Disposition": 'attachment; filename="mask.dcm"'}
    return Response(content, media_type="application/dicom", headers=headers)


@router.get("/export.zip")
def export_all(visit: Seen) -> Response:
    return _zip(visit.practice.exports.cases(visit.account), "cases.zip")


@router.get("/export-dataset.zip")
def export_dataset(visit: Seen) -> Response:
    return _zip(visit.practice.exports.dataset(visit.account), "dataset.zip")


def _zip(pieces: Iterator[bytes], name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)
