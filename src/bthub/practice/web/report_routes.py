"""Pages about reports."""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Form
from markupsafe import Markup
from starlette.responses import Response

from bthub.practice.accounts import clean_text
from bthub.practice.models import Report
from bthub.practice.report import canonical, lines, not_in_pdf, rest_mark, text_mark
from bthub.practice.texts import Refusal, sentence
from bthub.practice.web.context import HERE, Visit, checked_visit, visit_of
from bthub.practice.web.lanes import lane

router = APIRouter()
Seen = Annotated[Visit, Depends(visit_of)]
Checked = Annotated[Visit, Depends(checked_visit)]
STYLE = HERE / "static" / "style.css"
Field = Annotated[str, Form()]


@router.post("/examinations/{id}/reports")
def create(visit: Checked, id: str) -> Response:
    return visit.to(f"/reports/{visit.practice.reports.create(visit.account, id, visit.language)}")


@router.get("/reports/{id}")
@lane("documents")
def page(visit: Seen, id: str) -> Response:
    return _page(visit, id)


def _page(visit: Visit, id: str, refusal: Refusal | None = None, typed: tuple[str, str] | None = None) -> Response:
    """A report to read, and a draft to change.

    Args:
        visit: who asks.
        id: of the report.
        refusal: why its form wasn't taken.
        typed: findings and impression as they were sent; shown where they weren't saved, so that nothing is lost.
    """
    report, content, picture = visit.practice.reports.content(visit.account, id)
    saved, lacking = (report.findings, report.impression), not_in_pdf(content)
    return visit.page(
        "report.html",
        refusal.status if refusal else 200,
        report=report,
        content=content,
        words=lines(content, visit.language),
        picture=_data(picture),
        problem=refusal and sentence(refusal, visit.language),
        typed=saved if typed is None else typed,
        unsaved=typed is not None and tuple(map(clean_text, typed)) != saved,
        lacking=lacking,
        seen={"text": text_mark(report), "rest": rest_mark(content), "lacking": lacking},
    )


@router.post("/reports/{id}")
@lane("documents")
def save(
    visit: Checked,
    id: str,
    findings: Field = "",
    impression: Field = "",
    action: Field = "",
    text: Field = "",
    rest: Field = "",
    lacking: Field = "",
) -> Response:
    reports = visit.practice.reports
    try:
        saved = reports.save(visit.account.id, id, findings, impression, text)
        if action == "sign":
            reports.sign(visit.account, id, saved, rest, lacking)
    except Refusal as refusal:
        return _page(visit, id, refusal, (findings, impression))
    return visit.to(f"/reports/{id}")


@router.post("/reports/{id}/delete")
def delete(visit: Checked, id: str) -> Response:
    case_id = visit.practice.cases.delete(visit.account.id, Report, id, visit.session_id)
    return visit.to(f"/cases/{case_id}")


@router.get("/reports/{id}/report.html")
@lane("documents")
def html(visit: Seen, id: str) -> Response:
    """A page that stands by itself, to be kept or printed."""
    report, content, picture = visit.practice.reports.content(visit.account, id)
    answer = visit.page(
        "report-alone.html",
        report=report,
        content=content,
        words=lines(content, report.language),
        picture=_data(picture),
        style=Markup(STYLE.read_text(encoding="utf-8")),
    )
    answer.headers["Content-Disposition"] = 'attachment; filename="report.html"'
    return answer


@router.get("/reports/{id}/report.json")
@lane("documents")
def as_json(visit: Seen, id: str) -> Response:
    report, content, _ = visit.practice.reports.content(visit.account, id)
    text = report.frozen or canonical(content)
    headers = {"Content-Disposition": 'attachment; filename="report.json"'}
    return Response(text, media_type="application/json", headers=headers)


@router.get("/reports/{id}/report.pdf")
@lane("documents")
def pdf(visit: Seen, id: str) -> Response:
    _, content = visit.practice.reports.pdf(visit.account, id)
    return Response(
        content, media_type="application/pdf", headers={"Content-Disposition": 'inline; filename="report.pdf"'}
    )


def _data(picture: bytes | None) -> str | None:
    return picture and "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
