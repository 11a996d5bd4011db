"""The queue in front of the models: one thread that has them, and takes turns between the examinations that wait."""

import os
import queue
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from bthub.errors import BthubError
from bthub.inference.pipeline import Pipeline, ReadPicture
from bthub.inference.result import Result
from bthub.practice.cases import drop_uploads, encode, full_disk, refresh, summarize
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.models import DONE, FAILED, QUEUED, RUNNING, Examination, Slice, Upload
from bthub.practice.settings import Settings
from bthub.practice.study import Series, series_of
from bthub.practice.texts import Refusal

BATCH = 8
AT_ONCE = 4
"""Examinations that take turns; the others wait."""
PAUSE = 2.0
FAILURE = "Something failed on the server, whose log says what. Try again, or try another file."


@dataclass
class _Work:
    """An examination at work, and the series of its upload that are left."""

    id: str
    account_id: str
    series: list[Series]
    answers: Iterator[tuple[str, ReadPicture | None, Result | BthubError]]
    folder: tempfile.TemporaryDirectory[str]
    done: int = 0
    others: list[str] = field(default_factory=list)


class Engine:
    """Analyzes what waits in the database. What a killed process left unfinished is begun again."""

    def __init__(
        self,
        database: Database,
        files: FileStore,
        settings: Settings,
        load: Callable[[], tuple[Pipeline, dict[str, Any]]],
    ) -> None:
        """
        Args:
            database, files: of the practice.
            settings: whose folder takes the uploads while they are read.
            load: gives the pipeline and what is known of it, in the thread that will use it.
        """
        self._database, self._files, self._load = database, files, load
        self._tmp = settings.folder / "tmp"
        self._tmp.mkdir(exist_ok=True, mode=0o700)
        self._calls: queue.Queue[tuple[Callable[[Pipeline], Any], Future[Any]]] = queue.Queue()
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="analysis", daemon=True)
        self.ready = threading.Event()
        self.problem: str | None = None

    def start(self) -> None:
        with self._database.write() as session:
            ids = list(session.scalars(select(Examination.id).where(Examination.state == RUNNING)))
            for id in ids:
                session.execute(delete(Slice).where(Slice.examination_id == id))
            session.execute(update(Examination).where(Examination.state == RUNNING).values(state=QUEUED, done=0))
        self._thread.start()

    def stop(self) -> None:
        """End after the batch at work; the rest waits for the next start."""
        self._over.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    def heat(self, picture: bytes, seconds: float = 60) -> bytes:
        """Where the detector looked on a picture, as a gray PNG.

        Raises:
            Refusal: the models aren't ready, or the detector has no such map.
        """
        if not self.ready.is_set():
            raise Refusal("The models are still being loaded: try again in half a minute.", 503)
        future: Future[bytes] = Future()
        self._calls.put((lambda pipe: _heat(pipe, picture), future))
        self._wake.set()
        try:
            return future.result(timeout=seconds)
        except TimeoutError as error:
            future.cancel()
            raise Refusal("The server is busy: try again in a minute.", 503) from error

    # -- the thread

    def _run(self) -> None:
        try:
            self._pipe, self._facts = self._load()
        except Exception as error:
            # The pages work without models; who uploads reads why nothing happens.
            self.problem = str(error) if isinstance(error, BthubError) else FAILURE
            traceback.print_exc()
            return
        self.ready.set()
        works: list[_Work] = []
        while not self._over.is_set():
            try:
                self._answer_calls()
                works += self._begin(AT_ONCE - len(works), {work.id for work in works})
                if not works:
                    self._wake.wait(PAUSE)
                    self._wake.clear()
                    continue
                work = works.pop(0)
                if self._step(work):
                    works.append(work)
            except SQLAlchemyError as error:
                # The database is away: what was at work is begun again when it is back.
                print(f"bthub: the database failed ({type(error).__name__}), trying again", file=sys.stderr, flush=True)
                works = self._put_back(works)
                self._over.wait(PAUSE)
            except Exception:
                traceback.print_exc()
                works = self._put_back(works)
                self._over.wait(PAUSE)
        for work in works:
            work.folder.cleanup()

    def _put_back(self, works: list[_Work]) -> list[_Work]:
        for work in works:
            work.folder.cleanup()
        try:
            with self._database.write() as session:
                running = list(session.scalars(select(Examination.id).where(Examination.state == RUNNING)))
                for id in running:
                    session.execute(delete(Slice).where(Slice.examination_id == id))
                    session.execute(update(Examination).where(Examination.id == id).values(state=QUEUED, done=0))
        except SQLAlchemyError:
            pass  # the next turn comes here again
        return []

    def _answer_calls(self) -> None:
        while True:
            try:
                call, future = self._calls.get_nowait()
            except queue.Empty:
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call(self._pipe))
                except Exception as error:
                    future.set_exception(error)

    def _begin(self, places: int, at_work: set[str]) -> list[_Work]:
        """Take up what has waited longest, one of each account before the second of any."""
        begun: list[_Work] = []
        while len(begun) < places:
            with self._database.write() as session:
                busy = select(Examination.account_id).where(Examination.state == RUNNING)
                waiting = select(Examination).where(Examination.state == QUEUED).order_by(Examination.created_at)
                found = session.scalar(waiting.where(Examination.account_id.not_in(busy)).limit(1))
                found = found or session.scalar(waiting.limit(1))
                if found is None:
                    return begun
                found.state = RUNNING
                session.execute(delete(Slice).where(Slice.examination_id == found.id))
                uploads = session.scalars(
                    select(Upload).where(Upload.examination_id == found.id).order_by(Upload.position)
                ).all()
                account_id, check_input, id = found.account_id, found.check_input, found.id
            if id in at_work:
                continue
            folder = tempfile.TemporaryDirectory(dir=self._tmp, prefix="upload-")
            try:
                paths = []
                for upload in uploads:
                    # The number in front keeps files of one name apart; the end tells readers what it is.
                    path = Path(folder.name, f"{upload.position:05d}-{_safe(upload.name)}")
                    path.write_bytes(self._files.read(upload.file))
                    paths.append((upload.name, path))
                series = series_of(paths)
            except BthubError as error:
                folder.cleanup()
                self._fail(id, str(error))
                continue
            except Exception:
                traceback.print_exc()
                folder.cleanup()
                self._fail(id, FAILURE)
                continue
            others = self._siblings(id, series[1:])
            work = _Work(id, account_id, series, iter(()), folder, others=others)
            self._open(work, check_input)
            begun.append(work)
        return begun

    def _siblings(self, id: str, series: list[Series]) -> list[str]:
        """An upload of several series becomes as many examinations."""
        made = []
        for other in series:
            with self._database.write() as session:
                first = session.get(Examination, id)
                if first is None:
                    return made
                sibling = Examination(
                    account_id=first.account_id,
                    case_id=first.case_id,
                    state=RUNNING,
                    title=(other.title or first.title)[:200],
                    examined_on=first.examined_on,
                    check_input=first.check_input,
                    total=other.total,
                )
                session.add(sibling)
                session.flush()
                made.append(sibling.id)
        return made

    def _open(self, work: _Work, check_input: bool) -> None:
        series = work.series[0]
        work.done = 0
        work.answers = self._answers(series, check_input)
        with self._database.write() as session:
            examination = session.get(Examination, work.id)
            if examination is None:
                return
            examination.kind, examination.total, examination.done = series.kind, series.total, 0
            examination.spacing_mm = list(series.spacing_mm) if series.spacing_mm else None
            examination.geometry = series.geometry
            examination.facts = {**self._facts, "models": self._pipe.models}
            examination.examined_on = examination.examined_on or series.examined_on
            if series.title:
                examination.title = series.title[:200]

    def _answers(
        self, series: Series, check_input: bool
    ) -> Iterator[tuple[str, ReadPicture | None, Result | BthubError]]:
        spacing = series.spacing_mm
        pixel = (float(spacing[1]), float(spacing[2])) if spacing else None
        while batch := list(islice(series.pictures, BATCH)):
            read = [picture for _, picture in batch if isinstance(picture, ReadPicture)]
            found = self._pipe.stream(
                read, on_error="yield", batch_size=BATCH, spacing_mm=pixel, check_input=check_input
            )
            for name, picture in batch:
                if isinstance(picture, ReadPicture):
                    yield name, picture, next(found)
                else:
                    yield name, None, picture

    def _step(self, work: _Work) -> bool:
        """Analyze and keep one batch; returns whether more of the upload is left."""
        try:
            batch = list(islice(work.answers, BATCH))
            rows = [self._row(*answer) for answer in batch]
        except BthubError as error:
            self._fail(work.id, str(error))
            rows, batch = [], []
        except MemoryError:
            self._fail(work.id, "The pictures are too large for this server: save them smaller and upload them again.")
            rows, batch = [], []
        try:
            if batch and self._keep(work, rows):
                return True
            if batch or work.done:
                self._finish(work)
        except Refusal as error:  # the disk is full
            self._fail(work.id, str(error))
        except BthubError as error:
            self._fail(work.id, str(error))
        if work.others and len(work.series) > 1:
            work.id, work.series = work.others.pop(0), work.series[1:]
            with self._database.read() as session:
                examination = session.get(Examination, work.id)
            self._open(work, examination.check_input if examination else True)
            return True
        work.folder.cleanup()
        return False

    def _row(self, name: str, picture: ReadPicture | None, answer: Result | BthubError) -> dict[str, Any]:
        pixels = None if picture is None else encode(picture.image)
        if isinstance(answer, BthubError):
            return {"name": name[:200], "problem": str(answer), "picture": pixels}
        found = answer.to_dict()
        del found["mask_png_base64"], found["disclaimer"]
        return {
            "name": name[:200],
            "picture": pixels,
            "mask": None if answer.mask is None else answer.mask_png(),
            "label": answer.label,
            "probability": float(answer.tumor_probability),
            "uncertain": answer.uncertain,
            "area_px": answer.area_px,
            "area_mm2": answer.area_mm2,
            "result": found,
        }

    def _keep(self, work: _Work, rows: list[dict[str, Any]]) -> bool:
        sizes: dict[str, int] = {}
        with full_disk():
            # Before the transaction: meanwhile others may write.
            for row in rows:
                for column in ("picture", "mask"):
                    if row.get(column) is not None:
                        content = row[column]
                        row[column] = self._files.stage(work.account_id, content)
                        sizes[row[column]] = len(content)
        with self._database.write() as session:
            examination = session.get(Examination, work.id)
            if examination is None or examination.deleted_at is not None:
                return False  # deleted meanwhile
            for address, size in sizes.items():
                self._files.attach(session, work.account_id, address, size, "image/png")
            for row in rows:
                session.add(Slice(examination_id=work.id, position=work.done, **row))
                work.done += 1
            examination.done = work.done
        return True

    def _finish(self, work: _Work) -> None:
        with full_disk(), self._database.write() as session:
            examination = session.get(Examination, work.id)
            if examination is None:
                return
            problems = session.scalars(
                select(Slice.problem).where(Slice.examination_id == work.id).order_by(Slice.position)
            ).all()
            examination.total = examination.done = len(problems)
            examination.state = FAILED if all(problems) else DONE
            if examination.state == FAILED:
                examination.problem = problems[0] if problems else FAILURE
            summarize(session, examination)
            session.flush()
            drop_uploads(session, examination)
            if examination.case_id:
                refresh(session, examination.case_id)

    def _fail(self, id: str, problem: str) -> None:
        with self._database.write() as session:
            session.execute(
                update(Examination).where(Examination.id == id).values(state=FAILED, problem=problem[:2000])
            )


def shipped() -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline that BTHUB_DETECTOR and BTHUB_LOCALIZER name, or the project's own, and how good it is."""
    from bthub.inference.loading import load_pipeline
    from bthub.practice.quality import facts
    from bthub.project import default_run
    from bthub.runs.folder import RunFolder

    names = {
        stage: os.environ.get(f"BTHUB_{stage.upper()}") or default_run(stage) for stage in ("detector", "localizer")
    }
    runs = {stage: RunFolder.open(name) for stage, name in names.items()}
    start = time.monotonic()
    pipe = load_pipeline(runs["detector"], runs["localizer"])
    print(f"bthub: the models are ready after {time.monotonic() - start:.0f} s", flush=True)
    return pipe, facts(runs["detector"], runs["localizer"])


def _heat(pipe: Pipeline, picture: bytes) -> bytes:
    import io

    try:
        from bthub.evaluation.gradcam import heatmaps
    except ImportError as error:
        raise Refusal(
            "This server can't show where the detector looked: it lacks the package grad-cam.", 501
        ) from error
    if not hasattr(pipe.detector, "model"):
        raise Refusal("This detector can't show where it looked.", 501)
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
        (heat,) = heatmaps(cast(Any, pipe.detector), [image.convert("RGB")])
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _safe(name: str) -> str:
    """A file's name without anything a path could mean; its suffix stays."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[-80:].lstrip(".") or "file"
