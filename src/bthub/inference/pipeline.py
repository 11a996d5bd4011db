"""One MRI slice in, a `Result` out: the detector predicts whether there is a tumor, the localizer where.

Before both, an input check may refuse a picture that doesn't look like a slice of a brain MRI. The localizer runs only
if the detector's calibrated probability reaches its threshold, or if the caller asks for it. Each picture is analyzed
by itself, without neighbors or volume statistics.

This module depends on no framework; the stages may use any. It is copied to the Hub with the two-stage repo, see
`bthub.inference.hub_repo`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
from PIL import Image

from bthub.errors import BthubError, NotASliceError, check_count
from bthub.imaging.head import head_mask
from bthub.imaging.image_io import MAX_PIXELS, Source, is_picture, name_of, read_image
from bthub.imaging.kinds import kind_of
from bthub.inference.result import NO_TUMOR, TUMOR, Result, measure
from bthub.runs.operating_point import OperatingPoint

Picture = Source


class Detector(Protocol):
    """The first stage."""

    @property
    def tumor_index(self) -> int:
        """The column of `predict` that is the tumor's."""

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities (N, classes) of N RGB images."""


class Localizer(Protocol):
    """The second stage."""

    def masks(self, images: Sequence[Image.Image], kinds: Sequence[str | None] | None = None) -> list[np.ndarray]:
        """One bool array (H, W) an RGB image, at the image's own size; `kinds` are those of the images, if known."""


class InputCheck(Protocol):
    """What comes before them."""

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        """For each RGB image: whether it looks like a slice of a brain MRI, and, for a gray one, its kind or None."""


def check_spacing(spacing_mm: object) -> None:
    """Refuse what isn't the height and width of a pixel in millimeters; None is no spacing.

    Raises:
        BthubError: it isn't two numbers above 0 and at most 1000.
    """
    if spacing_mm is None:
        return
    sides = list(spacing_mm) if isinstance(spacing_mm, Iterable) else []
    if len(sides) != 2 or not all(isinstance(side, Real) and 0 < float(side) <= 1000 for side in sides):
        raise BthubError(
            f"the pixel spacing must be two positive numbers of millimeters, at most 1000, not {spacing_mm!r}"
        )


class ReadPicture(NamedTuple):
    """A picture that was read: its name, pixels uint8 RGB (H, W, 3), and the milliseconds that took."""

    name: str
    image: np.ndarray
    milliseconds: float


def read_picture(picture: "Picture | ReadPicture") -> ReadPicture:
    """Read one picture, unless it has been.

    Raises:
        BthubError: as `read_image`.
    """
    if isinstance(picture, ReadPicture):
        return picture
    start = time.perf_counter()
    image = read_image(picture)
    return ReadPicture(name_of(picture), image, _milliseconds(start))


class Pipeline:
    """Detect, localize, measure. Made by `load_pipeline`; safe to call from several threads."""

    def __init__(
        self,
        detector: Detector,
        localizer: Localizer,
        *,
        threshold: float,
        models: dict[str, dict[str, str]],
        referral_band: tuple[float, float] | None = None,
        input_check: InputCheck | None = None,
        points: Mapping[str | None, OperatingPoint] | None = None,
        figures: Mapping[str, Mapping[str, float]] | None = None,
        sources: Mapping[str, Mapping[str, float]] | None = None,
        refuses: bool = True,
    ) -> None:
        """
        Args:
            detector: a classifier with the label `tumor`.
            localizer: the mask stage.
            threshold: probability of tumor from which the localizer runs, 0-1.
            models: `id` and `revision` of `detector` and `localizer`, repeated in every result.
            referral_band: (low, high); from `low` to below `high` a person should look.
            input_check: refuses pictures that aren't slices, and recognizes kinds of gray slices; None accepts every
                picture.
            points: threshold and referral band by kind of input, with those for unknown kinds under None; by default
                `threshold` and `referral_band` apply to all.
            figures: `recall` and `specificity` on test by kind of input, for apps to show beside the verdict.
            sources: the same by source of the pictures, with `groups`, the number of patients or groups, and where it
                was measured `uncertain`, the share of pictures in the referral band.
            refuses: whether the input check may refuse a picture; if not, it still recognizes kinds.
        """
        self.detector = detector
        self.localizer = localizer
        self.threshold = threshold
        self.models = models
        self.referral_band = referral_band
        self.input_check = input_check
        self.refuses = refuses
        self.points: dict[str | None, OperatingPoint] = dict(points or {}) or {
            None: OperatingPoint(threshold, referral_band=referral_band)
        }
        self.figures = dict(figures or {})
        self.sources = dict(sources or {})
        self._tumor_index = detector.tumor_index  # fails here for a classifier of something else

    def __call__(
        self,
        inputs: Picture | Iterable[Picture],
        *,
        always_localize: bool = False,
        batch_size: int = 8,
        spacing_mm: tuple[float, float] | None = None,
        check_input: bool = True,
    ) -> Result | list[Result] | Iterator[Result]:
        """Analyze one picture or many.

        Args:
            inputs: a path, http(s) URL, open file, bytes, PIL image or array (see
                `bthub.imaging.image_io.read_image`); a list or tuple of them; or any other iterable, which is consumed
                batch by batch as the results are taken.
            always_localize: run the localizer even if the detector predicts no tumor; the label doesn't change.
            batch_size: pictures per batch, at least 1; fewer if they are very large.
            spacing_mm: height and width of a pixel of the upright inputs, for `area_mm2`.
            check_input: refuse pictures that don't look like a slice of a brain MRI, if the pipeline has an input
                check; False analyzes them anyway.

        Returns:
            A `Result` for one picture, a list for a list, else an iterator; in the order of the inputs.

        Raises:
            BthubError: an argument is out of range, a picture can't be read, or the input check refuses it
                (`NotASliceError`). With an iterable, it is raised when the picture's batch is read; `stream` can
                continue instead.
        """
        # A mapping or a tensor is one wrong picture, which is then refused, not many.
        single = is_picture(inputs) or isinstance(inputs, Mapping) or not isinstance(inputs, Iterable)
        results = self.stream(
            cast(Iterable[Picture], [inputs] if single else inputs),
            always_localize=always_localize,
            batch_size=batch_size,
            spacing_mm=spacing_mm,
            check_input=check_input,
        )
        answers = cast(Iterator[Result], results)  # errors are raised
        if single:
            return next(answers)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def stream(
        self,
        inputs: Iterable[Picture | ReadPicture],
        *,
        on_error: Literal["raise", "yield"] = "raise",
        always_localize: bool = False,
        batch_size: int = 8,
        spacing_mm: tuple[float, float] | None = None,
        check_input: bool = True,
    ) -> Iterator[Result | BthubError]:
        """Analyze pictures batch by batch; yields one answer per picture, in the order of the inputs.

        Args:
            inputs: pictures, as for a call, or results of `read_picture`; consumed as the answers are taken.
            on_error: if a picture can't be read or is refused by the input check, "raise" ends the stream with its
                `BthubError`, and "yield" gives the error in the picture's place and continues.
            always_localize, batch_size, spacing_mm, check_input: as for a call.

        Raises:
            BthubError: an argument is out of range (raised at once); otherwise see `on_error`.
        """
        if on_error not in ("raise", "yield"):
            raise BthubError(f"on_error is {on_error!r}, expected 'raise' or 'yield'")
        check_count("batch size", batch_size)
        check_spacing(spacing_mm)
        refuse = check_input and self.refuses
        return self._stream(iter(inputs), on_error == "raise", always_localize, batch_size, spacing_mm, refuse)

    def check(self, images: Sequence[np.ndarray], names: Sequence[str]) -> None:
        """Run the input check, if the pipeline has one.

        Args:
            images: uint8 RGB (H, W, 3), as `read_image` gives them.
            names: their names in messages.

        Raises:
            NotASliceError: the first picture that doesn't look like a slice of a brain MRI.
        """
        for refusal, _ in self._inspect(images, names) if self.refuses else ():
            if refusal is not None:
                raise refusal

    def _inspect(
        self, images: Sequence[np.ndarray], names: Sequence[str], asked: bool = True
    ) -> list[tuple[NotASliceError | None, str | None]]:
        """For each picture why the input check refuses it, None where it doesn't, and its kind, if that is known.

        Where the input check isn't asked, nothing is refused, and only the kind of a picture in color is known.
        """
        if not images:
            return []
        pictures = [Image.fromarray(image) for image in images]
        seen = self.input_check.inspect(pictures) if asked and self.input_check else [(True, None)] * len(pictures)
        # How to switch the check off differs from caller to caller: each says it.
        text = "this doesn't look like a slice of a brain MRI, the only kind of picture the models know"
        return [
            (None if accepted else NotASliceError(f"{name}: {text}"), kind_of(picture, gray))
            for picture, name, (accepted, gray) in zip(pictures, names, seen, strict=True)
        ]

    def _stream(
        self,
        inputs: Iterator[Picture | ReadPicture],
        raises: bool,
        always_localize: bool,
        batch_size: int,
        spacing_mm: tuple[float, float] | None,
        check_input: bool,
    ) -> Iterator[Result | BthubError]:
        while batch := self._read(inputs, batch_size, raises):
            read = [item for item in batch if isinstance(item, ReadPicture)]
            start = time.perf_counter()
            images, names = [item.image for item in read], [item.name for item in read]
            # Switched off, it is still asked for the kind where anything depends on that.
            asked = self.input_check is not None and (check_input or len(self.points) > 1)
            inspected = self._inspect(images, names, asked)
            refusals = [refusal if check_input else None for refusal, _ in inspected]
            check_ms = _milliseconds(start) / len(read) if asked and read else 0.0
            if raises and (refusal := next(filter(None, refusals), None)):
                raise refusal
            kept = [i for i, refusal in enumerate(refusals) if refusal is None]
            kinds = [inspected[i][1] for i in kept]
            items = [read[i] for i in kept]
            results = self._analyze(items, kinds, check_ms, always_localize, spacing_mm) if kept else iter(())
            verdicts = iter(refusals)
            for item in batch:
                error = next(verdicts) if isinstance(item, ReadPicture) else item
                yield next(results) if error is None else error

    def _read(
        self, inputs: Iterator[Picture | ReadPicture], batch_size: int, raises: bool
    ) -> list[ReadPicture | BthubError]:
        """The next pictures, or what is wrong with one of them. Huge ones make a batch of their own."""
        batch: list[ReadPicture | BthubError] = []
        pixels = 0
        while len(batch) < batch_size and pixels < MAX_PIXELS // 2:
            try:
                picture = next(inputs)
            except StopIteration:
                break
            try:
                read = read_picture(picture)
            except BthubError as error:
                if raises:
                    raise
                batch.append(error)
                continue
            batch.append(read)
            pixels += read.image.shape[0] * read.image.shape[1]
        return batch

    def _analyze(
        self,
        read: Sequence[ReadPicture],
        kinds: Sequence[str | None],
        check_ms: float,
        always_localize: bool,
        spacing_mm: tuple[float, float] | None,
    ) -> Iterator[Result]:
        images = [item.image for item in read]
        pictures = [Image.fromarray(image) for image in images]
        start = time.perf_counter()
        points = [self.points[kind if kind in self.points else None] for kind in kinds]
        raw = self.detector.predict(pictures)[:, self._tumor_index].tolist()
        probabilities = [point.calibrate(p) for point, p in zip(points, raw, strict=True)]
        detect_ms = _milliseconds(start) / len(images)

        chosen = [i for i, p in enumerate(probabilities) if always_localize or p >= points[i].threshold]
        start = time.perf_counter()
        masks = self.localizer.masks([pictures[i] for i in chosen], [kinds[i] for i in chosen]) if chosen else []
        localize_ms = _milliseconds(start) / max(1, len(chosen))
        mask_of = dict(zip(chosen, masks, strict=True))

        for i, image in enumerate(images):
            start = time.perf_counter()
            mask = mask_of.get(i)
            measured = measure(np.zeros(image.shape[:2], bool) if mask is None else mask)
            area = measured["area_px"]
            milliseconds = {
                "read": read[i].milliseconds,
                "check": check_ms,
                "detect": detect_ms,
                "localize": localize_ms if mask is not None else 0.0,
            }
            head_fraction = None if mask is None else _head_fraction(image, area)
            milliseconds["measure"] = _milliseconds(start)
            yield Result(
                label=TUMOR if probabilities[i] >= points[i].threshold else NO_TUMOR,
                tumor_probability=probabilities[i],
                threshold=points[i].threshold,
                uncertain=points[i].is_uncertain(probabilities[i]),
                referral_band=points[i].referral_band,
                input_kind=kinds[i],
                mask=mask,
                **measured,
                head_fraction=head_fraction,
                area_mm2=None if spacing_mm is None else area * float(spacing_mm[0]) * float(spacing_mm[1]),
                width=image.shape[1],
                height=image.shape[0],
                milliseconds={**milliseconds, "total": sum(milliseconds.values())},
                models=self.models,
                image=image,
            )


def _head_fraction(image: np.ndarray, area_px: int) -> float | None:
    """Tumor pixels of a slice / pixels of its head, at most 1; None if no head was found in it."""
    if area_px == 0:
        return 0.0
    head = head_mask(image).mean()
    return None if head == 0 else min(1.0, float(area_px / (image.shape[0] * image.shape[1]) / head))


def _milliseconds(start: float) -> float:
    return (time.perf_counter() - start) * 1000
