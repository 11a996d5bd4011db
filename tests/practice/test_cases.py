"""Cases, through the pages: from the upload to the export."""

import csv
import io
import json
import re
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from practice_help import BOTH, BOX, DarkCorners, picture, png, seen_by

from bthub.errors import BthubError
from bthub.practice import accounts, quality
from bthub.practice import cases as cases_module
from bthub.practice.analysis import MOST_TRIES
from bthub.practice.cases import Cases, Search, decode_mask, file_name, summarize
from bthub.practice.commands import main
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.models import QUEUED, VOLUME, Account, Case, Examination, Slice, StoredFile, Upload, now
from bthub.practice.report import sentences
from bthub.practice.web import context


def slices_of(browser, page: str) -> list[dict]:
    return browser.slices(page)


def test_an_upload_becomes_a_case(serve):
    browser = serve().begin()
    examination = browser.analyze(picture(), picture(None, seed=1))
    page = browser.get(f"/examinations/{examination}")
    assert "Tumor suspected" in page.text and "Save as a case" in page.text
    one, two = slices_of(browser, f"/examinations/{examination}")
    assert one["area_px"] == BOX and two["area_px"] == 0 and two["label"] == "no_tumor"
    assert browser.get(one["picture"]).content[:4] == b"\x89PNG"
    mask = np.asarray(Image.open(io.BytesIO(browser.get(one["mask"]).content)))
    assert (mask == 255).sum() == BOX
    answer = browser.post(f"/examinations/{examination}/save", pseudonym=" Study  147 ", examined_on="2026-03-01")
    assert "<h1>Study 147</h1>" in answer.text and "brightness" in answer.text
    # The same label, written otherwise: another examination of the case.
    other = browser.analyze(picture((10, 10, 40, 40)), pseudonym="study 147", examined_on="2026-06-01")
    case = browser.get(f"/examinations/{other}").url.path
    assert case == answer.url.path
    history = browser.get("/cases").text
    assert history.count('href="/cases/') >= 1 and "2026-06-01" in history and ">900<" in history.replace(",", "")


@BOTH
def test_the_uploaded_file_is_gone_once_saved(serve, settings):
    browser = serve().begin()
    with Image.open(io.BytesIO(picture())) as image:
        upload = io.BytesIO()
        text = "Jane Doe, born 1970"
        exif = Image.Exif()
        exif[0x010E] = text
        image.save(upload, "PNG", exif=exif)
    assert text.encode() in upload.getvalue()
    case, _ = browser.case(upload.getvalue())
    browser.client.app.state.practice.files.sweep()
    database = Database(settings.database_url)
    with database.read() as session:
        assert not session.query(Upload).count()
        store = FileStore(settings, database)
        contents = [store.read(row.address) for row in session.query(StoredFile)]
    database.close()
    assert len(contents) == 2 and not any(text.encode() in content for content in contents)
    assert text.encode() not in b"".join(browser.get(f"/cases/{case}/export.zip").content for _ in range(1))


def test_keeping_the_upload_is_a_choice(serve_sqlite, sqlite_settings):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    case = browser.post(f"/examinations/{id}/save", pseudonym="P", keep="yes")
    assert "Delete the original files" in case.text
    # Another of the same patient isn't kept for that.
    other = browser.analyze(picture(seed=1))
    assert "Delete the original files" not in browser.post(f"/examinations/{other}/save", pseudonym="P").text
    assert uploads(sqlite_settings) == [id]
    browser.post(f"/examinations/{id}/originals/delete")
    assert uploads(sqlite_settings) == []


def uploads(settings) -> list[str]:
    """Of which examinations the files are there as they came."""
    database = Database(settings.database_url)
    with database.read() as session:
        found = [one.examination_id for one in session.query(Upload)]
    database.close()
    return found


def test_a_failure_of_a_saved_examination_can_be_mended(serve_sqlite, sqlite_settings, monkeypatch):
    browser = serve_sqlite().begin()
    pixels = np.asarray(Image.open(io.BytesIO(picture()))).copy()
    pixels[0, 0] = 200  # the check of these models looks at the corner
    id = browser.analyze(png(pixels), pseudonym="P")
    page = browser.get(f"/examinations/{id}")
    assert page.url.path.startswith("/cases/") and "Analyze anyway" in page.text and "a day after" in page.text
    assert uploads(sqlite_settings) == [id]
    browser.post(f"/examinations/{id}/again", anyway="yes")
    browser.wait(id)
    assert "Tumor suspected" in browser.get(f"/examinations/{id}").text and uploads(sqlite_settings) == []
    # What no other try mends keeps nothing, saved or not.
    for label in ("P", ""):
        browser.analyze(b"no picture at all", pseudonym=label)
        assert uploads(sqlite_settings) == []
    # Nobody tries again: a day later the files are gone, and the examination says why it failed.
    id = browser.analyze(png(pixels), pseudonym="P")
    monkeypatch.setattr(accounts, "UNSAVED", timedelta(0))
    browser.client.app.state.practice.accounts.sweep()
    assert uploads(sqlite_settings) == []
    page = browser.get(f"/examinations/{id}").text
    assert "look like a slice" in page and "Analyze anyway" not in page


def test_a_study_that_keeps_failing_is_dropped_too(serve_sqlite, sqlite_settings):
    browser = serve_sqlite().begin()
    files = [("files", ("scan.nii.gz", b"\x1f\x8b" + b"0" * 50, "application/gzip"))]
    answer = browser.post("/analyze", files=files, pseudonym="P")
    browser.wait(answer.url.path.rpartition("/")[2])
    assert uploads(sqlite_settings) == []


def test_an_analysis_during_which_the_server_keeps_dying_is_given_up(serve_sqlite, sqlite_settings):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    practice = browser.client.app.state.practice
    with practice.database.write() as session:
        found = session.get_one(Examination, id)
        found.state, found.tries = QUEUED, MOST_TRIES
    browser.wait(id)
    page = browser.get(f"/examinations/{id}").text
    assert "stopped several times" in page and "Try again" in page
    browser.post(f"/examinations/{id}/again")
    browser.wait(id)
    assert "Tumor suspected" in browser.get(f"/examinations/{id}").text


def test_what_is_no_slice_is_refused_and_can_be_analyzed_all_the_same(serve_sqlite):
    browser = serve_sqlite().begin()
    bright = picture()
    pixels = np.asarray(Image.open(io.BytesIO(bright))).copy()
    pixels[0, 0] = 200  # the check of these models looks at the corner
    id = browser.analyze(png(pixels))
    page = browser.get(f"/examinations/{id}")
    assert "look like a slice" in page.text and "Analyze anyway" in page.text
    browser.post(f"/examinations/{id}/again", **seen_by(page.text))
    browser.wait(id)
    page = browser.get(f"/examinations/{id}").text
    assert "Tumor suspected" in page and "were not checked" in page


def test_a_broken_file_leaves_the_others(serve_sqlite):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture(), b"no picture at all", picture(seed=3))
    page = browser.get(f"/examinations/{id}").text
    assert "1 of 3 files could not be analyzed" in page and "slice_2.png: this is not a picture" in page
    assert len(slices_of(browser, f"/examinations/{id}")) == 2
    assert "/tmp" not in page
    # Where nothing is left, only another file helps; unless some of it was refused by the check.
    id = browser.analyze(b"no picture at all")
    assert "Analyze anyway" not in browser.get(f"/examinations/{id}").text
    pixels = np.asarray(Image.open(io.BytesIO(picture()))).copy()
    pixels[0, 0] = 200  # the check of these models looks at the corner
    id = browser.analyze(b"no picture at all", png(pixels))
    assert "Analyze anyway" in browser.get(f"/examinations/{id}").text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"pseudonym": "  "}, "label"),
        ({"pseudonym": "P", "examined_on": "yesterday"}, "must be a date"),
        ({"pseudonym": "P", "examined_on": "0031-01-01"}, "between 1900"),
    ],
)
def test_saving_says_what_is_wrong(serve_sqlite, form, words):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    answer = browser.post(f"/examinations/{id}/save", **form)
    assert answer.status_code == 400 and words in answer.text


def test_a_scan_date_lies_in_the_past(serve_sqlite, monkeypatch):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    monkeypatch.setattr(cases_module, "now", lambda: datetime(2026, 3, 1, 23, tzinfo=UTC))
    # East of Greenwich the second has begun.
    for day, status in (("1899-12-31", 400), ("2026-03-03", 400), ("2027-12-31", 400), ("2026-03-02", 200)):
        answer = browser.post(f"/examinations/{id}/save", pseudonym="P", examined_on=day)
        assert answer.status_code == status and (status == 200 or "between 1900 and today" in answer.text), day


def test_a_mask_marks_nothing_where_it_is_transparent():
    marked = np.array([[0, 127, 128, 255]], np.uint8)
    white = np.full((1, 4, 3), 255, np.uint8)
    for pixels in (marked, marked.astype(np.uint16) * 257, np.dstack([white[..., 0], marked])) + (
        np.dstack([white, marked]),
        np.dstack([marked, marked, marked, np.full_like(marked, 255)]),
    ):
        assert decode_mask(png(pixels), (4, 1)).tolist() == [[False, False, True, True]], pixels.shape


@BOTH
def test_what_is_too_long_is_refused_and_never_cut(serve):
    browser = serve().begin()
    case, examination = browser.case(pseudonym="L" * 80)
    report = browser.post(f"/examinations/{examination}/reports").url.path
    place = browser.client.app.state.practice.files.place
    stored = set(place.addresses())
    # Cut to 80 characters, this label would be the other case's.
    for label in ("L" * 80 + "2", "ß" * 41):
        for address, form in (
            ("/analyze", {"files": [("files", ("a.png", picture(seed=7), "image/png"))]}),
            (f"/examinations/{examination}/save", {}),
            (f"/cases/{case}/rename", {}),
        ):
            answer = browser.post(address, pseudonym=label, **form)
            assert answer.status_code == 400 and f"label has {len(label.replace('ß', 'ss'))}" in answer.text, address
    assert set(place.addresses()) == stored  # what is refused leaves nothing
    for address, form in (
        (f"/cases/{case}/notes", {"text": "n" * 20_000 + "END"}),
        (report, {**browser.seen(report), "findings": "f" * 8_000 + "END"}),
        (report, {**browser.seen(report), "impression": "i" * 8_000 + "END"}),
        (
            "/account",
            {
                **browser.seen("/account"),
                "full_name": "A" * 201,
                "profession": "other",
                "institution": "I",
                "consent": "no",
            },
        ),
        (
            "/account",
            {
                **browser.seen("/account"),
                "full_name": "A",
                "profession": "other",
                "institution": "I" * 201,
                "consent": "no",
            },
        ),
    ):
        answer = browser.post(address, **form)
        assert answer.status_code == 400 and "characters: shorten" in answer.text, (address, form.keys())
    assert browser.post(f"/cases/{case}/notes", text="n" * 20_000 + "\r\n ").status_code == 200
    # A file's name loses its middle: the number and the suffix stay, which sort and tell what it is.
    name = file_name("folder/" + "x" * 400 + "_0007.nii.gz")
    assert len(name) == 120 and name.endswith("x_0007.nii.gz")


def test_no_file_and_too_many(serve_sqlite, monkeypatch):
    browser = serve_sqlite().begin()
    assert "No file came" in browser.post("/analyze", files=[("files", ("", b"", ""))]).text
    monkeypatch.setattr(cases_module, "MAX_FILES", 2)
    files = [("files", (f"{i}.png", picture(), "image/png")) for i in range(3)]
    answer = browser.post("/analyze", files=files)
    assert answer.status_code == 400 and "at most 2" in answer.text
    # More than the form's reader takes, whether the token is in a header or in the form.
    monkeypatch.setattr(context, "MAX_FILES", 2)
    for headers in ({}, {"x-form-token": browser.token("/cases")}):
        token = {} if headers else {"token": browser.token("/cases")}
        answer = browser.client.post("/analyze", files=files * 3, data=token, headers=headers)
        assert answer.status_code == 400 and "at most 2" in answer.text


@BOTH
def test_notes_keep_what_they_said(serve):
    browser = serve().begin()
    case, _ = browser.case()
    browser.post(f"/cases/{case}/notes", text="Left frontal.")
    note = re.search(r'action="/notes/(\w+)"', browser.get(f"/cases/{case}").text)[1]
    seen = browser.form(f"/cases/{case}", f"/notes/{note}")
    assert browser.post(f"/notes/{note}", **seen, text="Right frontal.").status_code == 200
    # From a page that is stale, or without its mark, nothing is replaced, and what was typed stays in the form.
    for marks in (seen, {}):
        answer = browser.post(f"/notes/{note}", **marks, text="Neither.")
        assert (
            answer.status_code == 409 and "in another window" in answer.text and ">Neither.</textarea>" in answer.text
        )
        assert "Neither." not in browser.get(f"/cases/{case}").text
    page = browser.get(f"/cases/{case}").text
    assert "Right frontal." in page and "Left frontal." in page and page.count("Ada Lovelace, 20") == 2
    assert browser.post(f"/cases/{case}/notes", text="  ").status_code == 400
    found = browser.get("/cases", params={"q": "RIGHT front"}).text
    assert "P-001" in found
    assert "No cases match" in browser.get("/cases", params={"q": "left"}).text


@BOTH
def test_a_correction_counts_and_the_models_mask_stays(serve):
    browser = serve().begin()
    case, examination = browser.case(picture(), picture(None, seed=1))
    first, second = slices_of(browser, f"/cases/{case}")
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:40] = 255
    headers = {"x-form-token": browser.token(f"/cases/{case}"), "accept": "application/json"}
    told = browser.client.post(f"/slices/{first['id']}/correction", content=png(mask), headers=headers).json()
    assert told["area_px"] == 300 and told["by_hand"]
    assert (np.asarray(Image.open(io.BytesIO(browser.get(told["mask"]).content))) == mask).all()
    model = np.asarray(Image.open(io.BytesIO(browser.get(f"/slices/{first['id']}/model-mask.png").content)))
    assert (model == 255).sum() == BOX
    # One on a slice without a mask of the model's.
    headers_2 = {**headers}
    assert (
        browser.client.post(f"/slices/{second['id']}/correction", content=png(mask), headers=headers_2).status_code
        == 200
    )
    page = browser.get(f"/cases/{case}").text
    assert "corrected by hand" in page and "300 pixels" in page
    told = browser.client.post(f"/slices/{first['id']}/revert", headers=headers).json()
    assert told["area_px"] == BOX and not told["by_hand"]
    for content in (b"", b"nothing", png(np.zeros((32, 32), np.uint8)), picture()[:60]):
        answer = browser.client.post(f"/slices/{first['id']}/correction", content=content, headers=headers)
        assert answer.status_code == 400 and "64 x 64" in answer.json()["error"]


# Of each slice: what the model says, probability, threshold, whether it is uncertain, area.
CLEAR, CALLED = ("no_tumor", 0.7, 0.8, False, 0), ("tumor", 0.4, 0.3, False, 9)
UNSURE, UNSURE_CALLED = ("no_tumor", 0.2, 0.3, True, 0), ("tumor", 0.85, 0.8, True, 5)
LONE, SKIPPED = ("tumor", 0.99, 0.8, False, 0), (None, None, 0.5, False, 0)


@pytest.mark.parametrize(
    ("slices", "label", "uncertain", "decides"),
    [
        ((CLEAR, CALLED), "tumor", False, CALLED),
        ((CLEAR, UNSURE), "no_tumor", True, UNSURE),
        ((UNSURE, CALLED), "tumor", False, CALLED),
        ((UNSURE_CALLED, CALLED), "tumor", False, CALLED),
        ((UNSURE_CALLED, CLEAR), "tumor", True, UNSURE_CALLED),
        ((CLEAR, SKIPPED), "no_tumor", False, CLEAR),
    ],
)
def test_the_slices_that_decide_give_the_figures(sqlite_settings, slices, label, uncertain, decides):
    found = summarized(sqlite_settings, slices)
    assert (found.label, found.uncertain) == (label, uncertain)
    assert (found.probability, found.threshold) == decides[1:3]


def test_a_stack_shows_the_probability_of_what_is_outlined(sqlite_settings):
    """Of the lone slice the area was removed."""
    found = summarized(sqlite_settings, (LONE, CALLED, UNSURE_CALLED), kind=VOLUME, label="tumor")
    assert (found.probability, found.threshold) == CALLED[1:3]
    found = summarized(sqlite_settings, (LONE, CLEAR), kind=VOLUME, label="no_tumor", uncertain=True)
    assert (found.probability, found.threshold) == LONE[1:3]


def summarized(settings, slices, **columns) -> Examination:
    database = Database(settings.database_url)
    with database.write() as session:
        account = Account(name=f"a{now()}", full_name="A")
        session.add(account)
        session.flush()
        examination = Examination(account_id=account.id, title="t", **columns)
        session.add(examination)
        session.flush()
        for position, (label, probability, threshold, uncertain, area) in enumerate(slices):
            result = {"threshold": threshold, "area_px": area}
            more = {"label": label, "probability": probability, "uncertain": uncertain, "area_px": area}
            session.add(Slice(examination_id=examination.id, position=position, name="s", result=result, **more))
        session.flush()
        summarize(session, examination)
    database.close()
    return examination


def test_deleting_can_be_undone_until_the_session_ends(serve, settings):
    browser = serve().begin()
    case, examination = browser.case()
    browser.post(f"/cases/{case}/notes", text="Seen.")
    note = re.search(r'action="/notes/(\w+)"', browser.get(f"/cases/{case}").text)[1]
    browser.post(f"/notes/{note}/delete")
    assert "Seen." not in browser.get(f"/cases/{case}").text
    browser.post(f"/cases/{case}/delete")
    assert browser.get(f"/cases/{case}").status_code == 404
    assert "P-001" not in browser.get("/cases").text
    answer = browser.post("/undo")
    assert answer.url.path == f"/cases/{case}" and "Seen." not in answer.text
    assert "Seen." in browser.post("/undo").text
    assert browser.post("/undo").status_code == 409
    browser.post(f"/cases/{case}/delete")
    browser.post("/sign-out")
    browser.post("/sign-in", name="ada@example.org", password="correct horse battery")
    assert "can be restored" not in browser.get("/").text
    database = Database(settings.database_url)
    with database.read() as session:
        assert not session.query(Case).count()
    database.close()


def test_undo_of_a_case_whose_label_is_taken_again(serve_sqlite):
    browser = serve_sqlite().begin()
    case, _ = browser.case()
    browser.post(f"/cases/{case}/delete")
    browser.case()
    assert "rename it" in browser.post("/undo").text


def test_the_history_finds_filters_and_sorts(serve):
    browser = serve().begin()
    for label, box, day in (
        ("Beta_1", (10, 10, 20, 20), "2026-02-01"),
        ("alpha", None, "2026-03-01"),
        ("Gamma%", (10, 10, 50, 50), ""),
    ):
        browser.case(picture(box), pseudonym=label, examined_on=day)

    def labels(**query) -> list[str]:
        return re.findall(r'<a href="/cases/\w{32}">([^<]+)</a>', browser.get("/cases", params=query).text)

    assert labels(sort="label", order="up") == ["alpha", "Beta_1", "Gamma%"]
    assert labels(sort="area") == ["Gamma%", "Beta_1", "alpha"]
    assert labels(sort="date", order="up") == ["Beta_1", "alpha", "Gamma%"]
    assert labels(kind="no_tumor") == ["alpha"]
    assert labels(since="2026-02-15", until="2026-12-31") == ["alpha"]
    assert labels(q="_") == ["Beta_1"] and labels(q="%") == ["Gamma%"] and labels(q="BETA") == ["Beta_1"]
    assert labels(q="' or 1=1 --") == [] and labels(page="99999999999") != []


@BOTH
def test_the_history_stays_fast_with_ten_thousand_cases(settings):
    import time

    database = Database(settings.database_url)
    database.migrate()
    from bthub.practice.models import Account

    with database.write() as session:
        session.add_all(Account(id=f"{i:032d}", name=f"a{i}@x", full_name="A") for i in range(2))
    with database.write() as session:
        session.execute(
            Case.__table__.insert(),
            [
                {
                    "id": f"{i:032d}",
                    "account_id": f"{i % 2:032d}",
                    "pseudonym": f"P-{i}",
                    "folded": f"p-{i}",
                    "area_px": i % 977,
                    "label": "tumor" if i % 3 else "no_tumor",
                    "created_at": now(),
                    "changed_at": now(),
                    "examinations": 1,
                    "uncertain": False,
                    "corrected": False,
                    "notes": 0,
                    "reports": 0,
                    "probability": 0.5,
                }
                for i in range(20_000)
            ],
        )
    cases = Cases(database, FileStore(settings, database))
    for search in (Search(), Search(page=399), Search(words="p-19"), Search(kind="tumor", sort="area", page=100)):
        best = min(_timed(cases, search, time) for _ in range(3))
        assert best < 0.25, (search, best)
    assert cases.search(f"{0:032d}", Search()).total == 10_000
    database.close()


def _timed(cases, search, time) -> float:
    start = time.perf_counter()
    assert cases.search(f"{0:032d}", search).cases
    return time.perf_counter() - start


@BOTH
def test_the_export_opens_without_bthub(serve):
    browser = serve().begin()
    browser.case(picture(), picture(None, seed=1), pseudonym="=1+1 / ../x")
    case, examination = browser.case(pseudonym="P-002")
    browser.post(f"/cases/{case}/notes", text="Häufig.")
    browser.post(f"/examinations/{examination}/reports")
    answer = browser.get("/export.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert not [name for name in names if name.startswith(("/", "..")) or "/../" in name]
        rows = list(csv.DictReader(io.StringIO(archive.read("cases.csv").decode())))
        assert len(rows) == 3 and rows[0]["patient_label"] == "'=1+1 / ../x"
        for row in rows:
            assert row["file"] in names and (not row["mask"] or row["mask"] in names)
        told = json.loads(
            archive.read(next(name for name in names if name.startswith("P-002") and name.endswith("case.json")))
        )
        assert told["notes"][0]["text"] == "Häufig." and told["examinations"][0]["slices"][0]["area_px"] == BOX
        assert [name for name in names if name.endswith("1-draft.pdf")]
    one = browser.get(f"/cases/{case}/export.zip")
    with zipfile.ZipFile(io.BytesIO(one.content)) as archive:
        assert len(list(csv.DictReader(io.StringIO(archive.read("cases.csv").decode())))) == 1
    masks = browser.get(f"/examinations/{examination}/masks.zip")
    with zipfile.ZipFile(io.BytesIO(masks.content)) as archive:
        assert sorted(archive.namelist()) == ["slice_1.png", "slice_1_mask.png"]


def test_a_picture_named_as_anothers_mask_keeps_its_own_name_in_a_zip(serve_sqlite):
    browser = serve_sqlite().begin()
    files = [("files", (name, picture(), "image/png")) for name in ("X.png", "X_mask.png", "X_model_mask.png")]
    id = browser.wait(browser.post("/analyze", files=files).url.path.rpartition("/")[2])
    case = browser.post(f"/examinations/{id}/save", pseudonym="P").url.path
    for address in (f"/examinations/{id}/masks.zip", f"{case}/export.zip"):
        with zipfile.ZipFile(io.BytesIO(browser.get(address).content)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(set(names)) == len(names) == 6


def test_corrected_masks_are_a_data_set_that_the_builder_reads(serve_sqlite, tmp_path):
    from bthub.data.build import build
    from bthub.data.dataset import BuiltDataset

    browser = serve_sqlite().begin()
    assert browser.get("/export-dataset.zip").status_code == 409
    for number in range(4):
        pictures = [picture((8, 10 + i, 30, 20 + 4 * number + i) if i else None, seed=9 * number + i) for i in range(2)]
        case, _ = browser.case(*pictures, pseudonym=f"P-{number}")
        headers = {"x-form-token": browser.token(f"/cases/{case}"), "accept": "application/json"}
        for i, found in enumerate(slices_of(browser, f"/cases/{case}")):
            mask = np.zeros((64, 64), np.uint8)
            mask[20:30, 20:30] = 255 * i
            sent = browser.client.post(f"/slices/{found['id']}/correction", content=png(mask), headers=headers)
            assert sent.status_code == 200
        assert browser.get("/export-dataset.zip").status_code == (200 if number >= 2 else 409)
    archive = tmp_path / "dataset.zip"
    archive.write_bytes(browser.get("/export-dataset.zip").content)
    build(archive, tmp_path / "built")
    built = BuiltDataset(tmp_path / "built")
    patients = {split: {row["file"].split("/")[-1][:5] for row in built.load(split)} for split in built.splits()}
    assert sorted(patients) == ["test", "train", "validation"] and sum(map(len, patients.values())) == 4
    assert len(set().union(*patients.values())) == 4  # no patient in two splits
    with zipfile.ZipFile(archive) as outer, zipfile.ZipFile(io.BytesIO(outer.read("masks.zip"))) as masks:
        assert len(masks.namelist()) == 8


@BOTH
def test_follow_up_tells_noise_from_growth(serve):
    browser = serve().begin()
    case, _ = browser.case(picture((20, 20, 40, 40)), examined_on="2026-01-01")
    assert browser.get(f"/cases/{case}/follow-up").status_code == 409
    browser.case(picture((20, 20, 40, 44)), examined_on="2026-02-01")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "400 pixels → 480 pixels (+20%)" in page and "within the measurement" in page and "9 test patients" in page
    browser.case(picture((10, 10, 50, 50)), examined_on="2026-03-01")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "(+300%)" in page and "larger than the model" in page
    assert page.count("<circle") == 4  # three dates, and the brand's
    # From nothing to something has no percentage.
    browser.case(picture(None), examined_on="2025-12-01")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "0 pixels → 1,600 pixels" in page and "tell whether the tumor changed" in page
    # Pictures of another size have pixels of another size.
    browser.case(picture((20, 20, 80, 80), side=128), examined_on="2026-04-01")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "0 pixels → 3,600 pixels" in page and "be compared" in page and "<circle" not in page.partition("<main")[2]


def test_an_undated_examination_is_of_the_day_of_its_upload(serve_sqlite):
    browser = serve_sqlite().begin()
    case, _ = browser.case(picture((20, 20, 40, 40)), examined_on="2026-01-01")
    _, undated = browser.case(picture((10, 10, 50, 50)), examined_on="")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "400 pixels → 1,600 pixels" in page
    assert browser.get(f"/cases/{case}").text.count(f"/examinations/{undated}/masks.zip")  # the latest is shown
    assert "1,600" in browser.get("/cases").text


def test_the_bars_are_those_of_the_examinations_own_size(serve_sqlite, monkeypatch):
    seen = []
    error_for = quality.error_for
    monkeypatch.setattr(quality, "error_for", lambda facts, share: seen.append(share) or error_for(facts, share))
    browser = serve_sqlite().begin()
    case, _ = browser.case(picture((20, 20, 40, 40)), examined_on="2026-01-01")
    browser.case(picture((10, 10, 50, 50)), examined_on="2026-02-01")
    browser.get(f"/cases/{case}/follow-up")
    assert sorted(seen) == [400 / 4096, 1600 / 4096, 1600 / 4096]


def test_home_shows_what_was_done_last(serve_sqlite):
    browser = serve_sqlite().begin()
    browser.analyze(picture())
    case, examination = browser.case(pseudonym="P-9")
    browser.post(f"/cases/{case}/notes", text="Look at this")
    browser.post(f"/examinations/{examination}/reports")
    page = browser.get("/").text
    for words in ("not saved", "P-9", "Look at this", "report drafted"):
        assert words in page


def test_hostile_names_and_notes_are_shown_as_text(serve_sqlite):
    browser = serve_sqlite().begin()
    evil = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7*7 }}",
        "'; drop table case; --",
        "</script><b>",
        "‮evil",
        "a\x00b\x1b[31m",
        "javascript:alert(1)",
    ]
    for i, text in enumerate(evil):
        id = browser.analyze(picture(seed=i))
        answer = browser.post(f"/examinations/{id}/save", pseudonym=text)
        case = answer.url.path
        browser.post(f"{case}/notes", text="\n".join(evil))
        for path in (case, "/", "/cases"):
            assert not re.search("<script>alert|<img src=x|<b>|\x1b", browser.get(path).text)
    report = browser.post(f"/examinations/{id}/reports").url.path
    browser.write(report, findings="\n".join(evil), impression="\n".join(evil), action="sign")
    for path in (report, f"{report}/report.html"):
        assert not re.search("<script>alert|<img src=x|<b>|\x1b", browser.get(path).text)
    assert browser.get(f"{report}/report.pdf").content[:5] == b"%PDF-"
    assert browser.get(f"{case}/export.zip").status_code == 200
    # In a file's name.
    files = [("files", ("../../<svg onload=alert(1)>.png", picture(), "image/png"))]
    answer = browser.post("/analyze", files=files)
    assert "<svg onload" not in answer.text


def test_a_forged_file_name_stays_in_its_folder(serve_sqlite, sqlite_settings):
    browser = serve_sqlite().begin()
    for name in ("../../../evil.png", "/etc/evil.png", "..\\evil.png", "x" * 400 + ".png", ".png", "CON"):
        answer = browser.post("/analyze", files=[("files", (name, picture(), "image/png"))])
        browser.wait(re.search(r"/examinations/(\w+)", str(answer.url))[1])
    assert not list(sqlite_settings.folder.parent.glob("**/evil.png"))


def test_a_report_says_how_good_the_models_are_on_this_kind_of_input(serve_sqlite):
    browser = serve_sqlite().begin()
    _, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    words = "finds 93 of 100 with a tumor and raises a false alarm on 4 of 100 without"
    assert "Read as: a FLAIR slice in gray." in browser.get(report).text and words in browser.get(report).text
    content = browser.get(f"{report}/report.json").json()
    assert content["quality"]["input"] == {"kind": "flair_like", "figures": {"recall": 0.926, "specificity": 0.962}}
    browser.post("/language", language="de")
    report = browser.post(f"/examinations/{examination}/reports").url.path
    assert "findet der Detektor 93 von 100" in browser.get(report).text


def pdf_text(content: bytes) -> str:
    import pypdfium2

    pages = pypdfium2.PdfDocument(content)
    return " ".join("".join(page.get_textpage().get_text_range() for page in pages).split())


def test_a_report_says_what_limits_the_analysis(serve_sqlite):
    browser = serve_sqlite().begin()
    id = browser.analyze(picture(None), b"no picture at all", anyway="yes")
    browser.post(f"/examinations/{id}/save", pseudonym="P")
    report = browser.post(f"/examinations/{id}/reports").url.path
    content = browser.get(f"{report}/report.json").json()
    assert content["examination"]["checked"] is False and content["examination"]["slices"] == 1
    assert [one["name"] for one in content["examination"]["not_analyzed"]] == ["slice_2.png"]
    assert "no tumor on this slice" in content["findings"] and "Not analyzed: 1 of 2 slices." in content["findings"]
    for text in (browser.get(report).text, pdf_text(browser.get(f"{report}/report.pdf").content)):
        for words in (
            "These pictures were not checked",
            "1 of 2 files could not",
            "slice_2.png: this is not a picture",
        ):
            assert words in text.replace("&#39;", "'")


def test_a_drawing_by_hand_isnt_put_into_the_models_mouth(serve_sqlite):
    browser = serve_sqlite().begin()
    for box, drawn, words, draft in (
        ((20, 24, 40, 44), False, "After the correction by hand, no tumor is outlined", "no tumor is outlined."),
        (None, True, "A person has outlined a tumor by hand", "The outline was drawn or corrected by hand."),
    ):
        _, examination = browser.case(picture(box), pseudonym=f"P{drawn}")
        (found,) = browser.slices(f"/examinations/{examination}")
        headers = {"x-form-token": browser.token("/cases"), "accept": "application/json"}
        mask = png(np.full((64, 64), 255 * drawn, np.uint8))
        assert browser.client.post(f"/slices/{found['id']}/correction", content=mask, headers=headers).is_success
        page = browser.get(f"/examinations/{examination}").text
        report = browser.post(f"/examinations/{examination}/reports").url.path
        for text in (page, browser.get(report).text):
            assert "The verdict above is the model" in text and words in text and "estimate by a model" not in text
        findings = browser.get(f"{report}/report.json").json()["findings"]
        said = "The model found no tumor" if drawn else "The model suspects a tumor"
        assert findings.startswith(said) and draft in findings
    assert "nothing outlined" in browser.get("/").text and "nothing outlined" in browser.get("/cases").text


def test_why_a_verdict_is_uncertain():
    verdict = {"uncertain": True, "checked": True, "corrected": False, "rough": False, "band": (0.4, 0.6)}

    def said(kind: str, label: str, count: int, marked: int) -> str:
        found = sentences("en", kind=kind, label=label, count=count, marked=marked, **verdict)
        return next(text for text, _ in found if text.startswith("Uncertain"))

    assert "between 40.0% and 60.0%" in said("pictures", "tumor", 1, 1)
    assert "rests on" in said("volume", "tumor", 9, 2)
    # One slice of a stack may say tumor with 99%: that isn't close to the threshold.
    assert "whole scan" in said("volume", "no_tumor", 9, 0) and "close to" not in said("volume", "no_tumor", 9, 0)
    assert "at least one slice the probability" in said("pictures", "no_tumor", 2, 0)


def test_an_outline_on_gray_slices_other_than_flair_is_called_rough(serve_sqlite, monkeypatch):
    monkeypatch.setattr(DarkCorners, "inspect", lambda self, images: [(True, "other_mri") for _ in images])
    browser = serve_sqlite().begin()
    case, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    for path in (f"/cases/{case}", report):
        assert "rough guess" in browser.get(path).text
    browser.case(picture((20, 20, 40, 44)), examined_on="2026-05-01")
    page = browser.get(f"/cases/{case}/follow-up").text
    assert "rough guess" in page and "tell whether the tumor changed" in page and 'class="error"' not in page
    assert "rough guess" not in browser.get("/examinations/" + browser.analyze(picture(None))).text


@BOTH
def test_a_report_is_never_overwritten_from_a_page_that_is_stale(serve):
    one = serve().begin()
    _, examination = one.case()
    report = one.post(f"/examinations/{examination}/reports").url.path
    stale = one.seen(report)
    one.write(report, findings="Written in the first window.", impression="First.")
    for action in ("save", "sign"):
        answer = one.post(report, **stale, findings="Typed <i>elsewhere</i>.", impression="Second.", action=action)
        assert answer.status_code == 409 and "changed in another window" in answer.text
        # Nothing is lost: what was typed is in the form, and what is saved stands below it.
        assert (
            ">Typed &lt;i&gt;elsewhere&lt;/i&gt;.</textarea>" in answer.text and 'data-guard="unsaved"' in answer.text
        )
        assert ">Written in the first window.</p>" in answer.text
        content = one.get(f"{report}/report.json").json()
        assert (content["findings"], content["state"]) == ("Written in the first window.", "draft")
    # Sent again from there it replaces the other on purpose, and the same text over itself is no conflict.
    marks = seen_by(answer.text)
    for _ in range(2):
        answer = one.post(report, **marks, findings="Typed.", impression="Second.", action="save")
        assert answer.status_code == 200 and answer.url.path == report
        marks = one.seen(report)
    # A form without the marks, and one that a script of yesterday sends.
    for marks in ({}, {"text": "", "rest": "0" * 64}):
        assert one.post(report, **marks, findings="Lost?", impression="Lost?", action="sign").status_code == 409
    stale = one.seen(report)
    assert "sha256" in one.write(report, findings="Typed.", impression="Second.", action="sign").text
    answer = one.post(report, **stale, findings="Too late.", impression="Second.")
    assert answer.status_code == 409 and "is signed" in answer.text and ">Too late.</p>" in answer.text


def test_what_is_signed_is_what_the_page_showed(serve_sqlite):
    browser = serve_sqlite().begin()
    case, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    stale = browser.seen(report)
    browser.post(f"/cases/{case}/notes", text="Seen on another day.")
    answer = browser.post(report, **stale, findings="As typed.", impression="As before.", action="sign")
    assert answer.status_code == 409 and "read it, then sign" in answer.text and "Seen on another day." in answer.text
    # The text is saved, and the page that says so can be signed.
    assert ">As typed.</textarea>" in answer.text and 'data-guard="unsaved"' not in answer.text
    answer = browser.write(report, findings="As typed.", impression="As before.", action="sign")
    assert "sha256" in answer.text and "Seen on another day." in answer.text


def test_what_the_pdf_cant_show_is_told_before_it_is_signed(serve_sqlite, caplog):
    import pypdfium2

    browser = serve_sqlite().begin()
    _, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    text = {"findings": "Befund: 漢字 😀 é\tα", "impression": "\N{HEBREW LETTER ALEF}"}
    answer = browser.write(report, **text, action="sign")
    assert answer.status_code == 409 and "Sign again" in answer.text
    assert "have them: \N{HEBREW LETTER ALEF} 字 漢" in answer.text
    # Not of others than it named.
    answer = browser.post(report, **{**seen_by(answer.text), "lacking": "字"}, **text, action="sign")
    assert answer.status_code == 409
    answer = browser.post(report, **seen_by(answer.text), **text, action="sign")
    assert answer.status_code == 200 and "sha256" in answer.text
    pages = pypdfium2.PdfDocument(browser.get(f"{report}/report.pdf").content)
    shown = " ".join("".join(page.get_textpage().get_text_range() for page in pages).split())
    assert "can't show some characters" in shown and "Befund:" in shown and "é α" in shown
    assert "漢字 😀" in browser.get(f"{report}/report.html").text
    # What the log would say quotes the report.
    assert not caplog.records


def test_numbers_that_are_none(serve_sqlite, sqlite_settings, monkeypatch):
    """`str.isdigit` accepts the first ones, which `int` refuses; it refuses more than 4,300 digits too."""
    browser = serve_sqlite().begin()
    id = browser.analyze(picture())
    numbers = ["²", "1²", "①", "9" * 5000, "-1", "1e3", ""]
    for number in numbers:
        assert browser.get("/cases", params={"page": number}).status_code == 200
        assert browser.post(f"/examinations/{id}/again", scan=number).status_code == 200
        browser.wait(id)
        headers = {"content-length": number.encode("latin-1", "replace"), "x-form-token": browser.token()}
        assert browser.client.post("/undo", headers=headers).status_code == 413
        monkeypatch.setenv("PORT", number or "0")
        with pytest.raises(BthubError, match="PORT must be a number from 1 to 65535"):
            main(["--folder", str(sqlite_settings.folder), "serve"])
    # As parts of files' names, by which slices are sorted.
    names = [f"a1{number[:9]}2.png" for number in numbers] + ["²", "1"]
    answer = browser.post("/analyze", files=[("files", (name, picture(), "image/png")) for name in names])
    assert answer.status_code == 200
    browser.wait(answer.url.path.rpartition("/")[2])


@BOTH
def test_forms_of_a_page_that_is_stale_overwrite_nothing(serve):
    browser = serve().begin()
    case, examination = browser.case(pseudonym="P-1", examined_on="2026-01-01")
    for address, field, first, second in (
        (f"/cases/{case}/rename", "pseudonym", "P-2", "P-3"),
        (f"/examinations/{examination}/day", "examined_on", "2026-02-02", "2026-03-03"),
    ):
        form = re.search(rf'action="{address}">(.*?)</form>', browser.get(f"/cases/{case}").text, re.DOTALL)[1]
        stale = seen_by(form)
        assert browser.post(address, **stale, **{field: first}).status_code == 200
        for marks in (stale, {}):
            answer = browser.post(address, **marks, **{field: second})
            assert answer.status_code == 409 and "in another window" in answer.text
        assert browser.post(address, **stale, **{field: first}).status_code == 200  # the same again
        page = browser.get(f"/cases/{case}").text
        assert f'value="{first}"' in page and second not in page
    # The page of an examination that was saved meanwhile, under another label.
    answer = browser.post(f"/examinations/{examination}/save", pseudonym="P-9")
    assert answer.status_code == 409 and "saved already, in the case P-2" in answer.text
    assert "P-9" not in browser.get("/cases").text
    # The profile: above all, whether cases may be used for research.
    stale = browser.seen("/account")
    profile = {"full_name": "Ada", "profession": "surgeon", "institution": "Clinic"}
    assert browser.write("/account", **profile, consent="no").status_code == 200
    answer = browser.post("/account", **stale, **profile | {"institution": "Elsewhere"}, consent="yes")
    assert answer.status_code == 409 and "in another window" in answer.text and 'value="Elsewhere"' in answer.text
    assert browser.post("/welcome", **stale, **profile, consent="yes").status_code == 409
    page = browser.get("/account").text
    assert re.search(r'value="no"[^>]* checked', page) and "Elsewhere" not in page


@BOTH
def test_a_correction_of_a_page_that_is_stale_replaces_no_other(serve):
    browser = serve().begin()
    case, _ = browser.case()
    (stale,) = slices_of(browser, f"/cases/{case}")
    masks = [np.zeros((64, 64), np.uint8) for _ in range(2)]
    masks[0][:10], masks[1][:20] = 255, 255

    def correct(mask, before, what="correction"):
        headers = {"x-form-token": browser.token("/cases"), "accept": "application/json", "x-before": before}
        content = None if mask is None else png(mask)
        return browser.client.post(f"/slices/{stale['id']}/{what}", content=content, headers=headers)

    assert correct(masks[0], stale["address"]).json()["area_px"] == 640
    for answer in (
        correct(masks[1], stale["address"]),
        correct(None, stale["address"], "revert"),
        correct(masks[1], ""),
    ):
        assert answer.status_code == 409 and "in another window" in answer.json()["error"]
    (fresh,) = slices_of(browser, f"/cases/{case}")
    assert fresh["area_px"] == 640
    assert correct(masks[1], fresh["address"]).json()["area_px"] == 1280
