"""The queue in front of the models: one thread runs them and alternates between examinations."""

import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from bthub.errors import BthubError, NotASliceError
from bthub.imaging.intake import Study
from bthub.inference.pipeline import Pipeline, ReadPicture
from bthub.inference.result import Result
from bthub.inference.study import StudyResult, analyze_study
from bthub.practice.cases import drop_uploads, encode, full_disk, refresh, summarize
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.log import log_failure
from bthub.practice.models import DONE, FAILED, PICTURES, QUEUED, RUNNING, VOLUME, Examination, Slice, Upload
from bthub.practice.settings import Settings
from bthub.practice.study import geometry, laid_out, pictures_of, renamed, study_of
from bthub.practice.texts import Refusal

BATCH = 8
MOST_TRIES = 3
"""Analyses that are begun and not ended, as where the server is killed, before one is given up."""
AT_ONCE = 4
"""Examinations that take turns; the others wait."""
PAUSE = 2.0
UNCHECKED, RETRY = "unchecked", "retry"
"""What helps where an examination failed, as its facts say: no input check, or another try."""
TOO_LARGE = "The pictures are too large for this server: save them smaller and upload them again."
FAILURE = (
    "Something went wrong on the server. Try again, or try another file. If it keeps failing, tell the administrator: "
    "the server's log has the reason."
)


@dataclass
class _Work:
    """An examination at work: pictures, batch by batch, or a study, at once."""

    id: str
    account_id: str
    check_input: bool
    folder: tempfile.TemporaryDirectory[str]
    answers: Iterator[tuple[str, ReadPicture | None, Result | BthubError]] = iter(())
    study: Study | None = None
    scan: int | None = None
    done: int = 0
    refused: bool = False
    """Whether the input check refused any of it."""


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
        self._works: list[_Work] = []
        self.ready = threading.Event()
        self.problem: str | None = None

    @property
    def state(self) -> str:
        """Of the models: `loading`, `ready` or `failed`."""
        return "failed" if self.problem else "ready" if self.ready.is_set() else "loading"

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
            if isinstance(error, BthubError):  # of the runs, before any upload is read: the administrator's to know
                print(f"bthub: the models can't be loaded: {error}", file=sys.stderr, flush=True)
            else:
                log_failure(error)
            return
        self.ready.set()
        while not self._over.is_set():
            try:
                self._answer_calls()
                self._works += self._begin()
                if not self._works:
                    self._wake.wait(PAUSE)
                    self._wake.clear()
                    continue
                self._turn()
            except SQLAlchemyError as error:
                # The database is away: what was at work is begun again when it is back.
                print(f"bthub: the database failed ({type(error).__name__}), trying again", file=sys.stderr, flush=True)
                self._put_back(tries=0)
                self._over.wait(PAUSE)
            except Exception as error:
                log_failure(error)
                self._put_back()
                self._over.wait(PAUSE)
        self._put_back(tries=0)

    def _turn(self, *, pictures_only: bool = False) -> None:
        """One batch of the work whose turn it is."""
        found = next((work for work in self._works if not (pictures_only and work.study)), None)
        if found is not None:
            self._works.remove(found)
            if self._step(found):
                self._works.append(found)

    def _put_back(self, **values: int) -> None:
        """Let what is at work wait again.

        Args:
            values: columns to set, such as `tries` where the work itself wasn't the reason.
        """
        for work in self._works:
            work.folder.cleanup()
        self._works = []
        try:
            with self._database.write() as session:
                running = list(session.scalars(select(Examination.id).where(Examination.state == RUNNING)))
                for id in running:
                    session.execute(delete(Slice).where(Slice.examination_id == id))
                    session.execute(
                        update(Examination).where(Examination.id == id).values(state=QUEUED, done=0, **values)
                    )
        except SQLAlchemyError:
            pass  # the next turn comes here again

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

    def _begin(self) -> list[_Work]:
        """Take up what has waited longest, one of each account before the second of any."""
        begun: list[_Work] = []
        while len(self._works) + len(begun) < AT_ONCE:
            with self._database.write() as session:
                busy = select(Examination.account_id).where(Examination.state == RUNNING)
                waiting = select(Examination).where(Examination.state == QUEUED).order_by(Examination.created_at)
                found = session.scalar(waiting.where(Examination.account_id.not_in(busy)).limit(1))
                found = found or session.scalar(waiting.limit(1))
                if found is None:
                    return begun
                found.state = RUNNING
                found.tries += 1
                session.execute(delete(Slice).where(Slice.examination_id == found.id))
                uploads = session.scalars(
                    select(Upload).where(Upload.examination_id == found.id).order_by(Upload.position)
                ).all()
            if found.tries > MOST_TRIES:
                self._fail(
                    found.id,
                    "The server stopped several times while it analyzed this. Try again, or try another file. If it "
                    "keeps failing, tell the administrator.",
                    RETRY,
                )
                continue
            folder = tempfile.TemporaryDirectory(dir=self._tmp, prefix="upload-")
            work = _Work(found.id, found.account_id, found.check_input, folder)
            work.scan = (found.geometry or {}).get("scan")
            try:
                self._open(work, uploads)
            except SQLAlchemyError:
                folder.cleanup()
                raise
            except Exception as error:
                self._fail(work.id, self._why(error, work), _mend(error))
                folder.cleanup()
                continue
            begun.append(work)
        return begun

    def _open(self, work: _Work, uploads: Sequence[Upload]) -> None:
        """Put the uploaded files where readers find them, and see what they are."""
        files = laid_out(uploads, Path(work.folder.name), self._files.read)
        work.study = study_of(files)
        if work.study is None:
            work.answers = self._answers(files, work.check_input)
        with self._database.write() as session:
            examination = session.get(Examination, work.id)
            if examination is not None:
                examination.kind = PICTURES if work.study is None else VOLUME
                examination.total, examination.done = len(files), 0
                examination.facts = {**self._facts, "models": self._pipe.models}

    def _why(self, error: Exception, work: _Work) -> str:
        """What a failure says on the page, without paths of this server."""
        if isinstance(error, MemoryError):
            return TOO_LARGE
        if not isinstance(error, BthubError):
            log_failure(error)
            return FAILURE
        text = str(error)
        for path in Path(work.folder.name).glob("*"):
            text = renamed(text, path, path.name.partition("-")[2])
        return text

    def _answers(
        self, files: Sequence[tuple[str, Path]], check_input: bool
    ) -> Iterator[tuple[str, ReadPicture | None, Result | BthubError]]:
        pictures = pictures_of(files)
        while batch := list(islice(pictures, BATCH)):
            read = [picture for _, picture in batch if isinstance(picture, ReadPicture)]
            found = self._pipe.stream(read, on_error="yield", batch_size=BATCH, check_input=check_input)
            for name, picture in batch:
                if isinstance(picture, ReadPicture):
                    yield name, picture, next(found)
                else:
                    yield name, None, picture

    def _step(self, work: _Work) -> bool:
        """Analyze and keep one batch, or a whole study; returns whether more of the upload is left."""
        try:
            if work.study is not None:
                self._analyze_study(work, work.study)
            else:
                batch = list(islice(work.answers, BATCH))
                work.refused = work.refused or any(isinstance(answer, NotASliceError) for _, _, answer in batch)
                if batch and self._keep(work, [self._row(*answer) for answer in batch]):
                    return True
                self._finish(work)
        except SQLAlchemyError:
            self._works.append(work)  # to be put back with the others
            raise
        except Exception as error:
            self._fail(work.id, self._why(error, work), _mend(error))
        work.folder.cleanup()
        return False

    def _analyze_study(self, work: _Work, study: Study) -> None:
        def progress(done: int, total: int) -> None:
            if done % BATCH == 0:
                self._tell(work.id, done, total)
                # A stack takes minutes: in between, those who wait for a picture or a map get it.
                self._answer_calls()
                self._works += self._begin()
                self._turn(pictures_only=True)

        found = analyze_study(
            self._pipe, study, scan=work.scan, check_input=work.check_input, batch_size=BATCH, progress=progress
        )
        scan = study.default if work.scan is None else work.scan
        for start in range(0, len(found.results), 32):
            rows = [self._study_row(found, index) for index in range(start, min(start + 32, len(found.results)))]
            if not self._keep(work, rows):
                return
        volume = found.volume
        pixel = volume.pixel_mm
        self._finish(
            work,
            label=found.label,
            uncertain=found.uncertain,
            volume_ml=found.volume_ml,
            spacing_mm=pixel and [volume.slice_mm, float(pixel[0]), float(pixel[1])],
            geometry=geometry(volume, [one.label for one in study.scans], scan),
            remarks=list(found.notes),
        )

    def _study_row(self, found: StudyResult, index: int) -> dict[str, Any]:
        result = found.results[index]
        picture = np.ascontiguousarray(found.volume.picture(index))
        name = f"slice_{index + 1:04d}"
        if result is not None:
            return self._row(name, ReadPicture(name, picture, 0.0), result)
        height, width = picture.shape[:2]
        threshold = self._pipe.threshold
        return {
            "name": name,
            "picture": encode(picture),
            "area_px": 0,
            "result": {"width": width, "height": height, "threshold": threshold, "skipped": found.skipped[index]},
        }

    def _tell(self, id: str, done: int, total: int) -> None:
        with self._database.write() as session:
            session.execute(update(Examination).where(Examination.id == id).values(done=done, total=total))

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

    def _finish(self, work: _Work, **told: Any) -> None:
        """Sum an examination up.

        Args:
            work: which.
            told: columns that only the whole stack tells.
        """
        with full_disk(), self._database.write() as session:
            examination = session.get(Examination, work.id)
            if examination is None:
                return
            problems = session.scalars(
                select(Slice.problem).where(Slice.examination_id == work.id).order_by(Slice.position)
            ).all()
            examination.total = examination.done = len(problems)
            examination.state = FAILED if all(problems) else DONE
            examination.tries = 0
            if examination.state == FAILED:
                examination.problem = problems[0] if problems else FAILURE
                _say_mend(examination, UNCHECKED if work.refused else None)
            for column, value in told.items():
                setattr(examination, column, value)
            summarize(session, examination)
            session.flush()
            drop_uploads(session, examination)
            if examination.case_id:
                refresh(session, examination.case_id)

    def _fail(self, id: str, problem: str, mend: str | None) -> None:
        with self._database.write() as session:
            examination = session.get(Examination, id)
            if examination is not None:
                examination.state, examination.problem, examination.tries = FAILED, problem[:2000], 0
                _say_mend(examination, mend)
                drop_uploads(session, examination)
                if examination.case_id:
                    session.flush()
                    refresh(session, examination.case_id)


def _mend(error: Exception) -> str | None:
    """What helps against a failure: UNCHECKED, RETRY, or None where only another file does."""
    if isinstance(error, NotASliceError):
        return UNCHECKED
    of_the_server = error.status >= 500 if isinstance(error, Refusal) else not isinstance(error, BthubError)
    return RETRY if of_the_server and not isinstance(error, MemoryError) else None


def _say_mend(examination: Examination, mend: str | None) -> None:
    examination.facts = {**(examination.facts or {}), "mend": mend}


def _named(stage: str) -> str:
    from bthub.project import default_run

    return os.environ.get(f"BTHUB_{stage.upper()}") or default_run(stage)


def shipped() -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline that BTHUB_DETECTOR and BTHUB_LOCALIZER name, or the project's own, and how good it is."""
    from bthub.inference.loading import load_pipeline
    from bthub.practice.quality import facts
    from bthub.runs.folder import RunFolder

    start = time.monotonic()
    pipe = load_pipeline(_named("detector"), _named("localizer"), say=lambda line: print(f"bthub: {line}", flush=True))
    print(f"bthub: the models are ready after {time.monotonic() - start:.0f} s", flush=True)
    runs = [RunFolder.open(_named(stage), weights=False) for stage in ("detector", "localizer")]
    return pipe, {**facts(*runs), "by_kind": pipe.figures}


@cache
def _classifier(name: str) -> Any:
    """The detector as a network that can be asked for gradients, whatever runs it else."""
    from bthub.models.classifier import load_classifier
    from bthub.runs.folder import RunFolder

    run = RunFolder.open(name)
    return run.id, load_classifier(run, "cpu")


def _heat(pipe: Pipeline, picture: bytes) -> bytes:
    import io

    try:
        from bthub.evaluation.gradcam import heatmaps
    except ImportError as error:
        raise Refusal(
            "This server can't show where the detector looked: it lacks the package grad-cam.", 501
        ) from error
    id, classifier = _classifier(_named("detector"))
    if pipe.models["detector"]["id"] != id:
        raise Refusal("This detector can't show where it looked.", 501)
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
        (heat,) = heatmaps(classifier, [image.convert("RGB")])
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
