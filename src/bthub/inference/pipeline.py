"""One MRI slice in, a `Result` out: the detector says whether there is a tumor, the localizer where.

Before either of them, an input check may refuse a picture that doesn't look like a slice of a brain MRI. The localizer
runs only where the detector's calibrated probability reaches its threshold, or where the caller asks for it. Each
picture is taken as a lone slice: no neighbour, no volume statistics.

This module knows no framework: what the stages are made of is their own affair. It travels to the Hub with the
two-stage repo, see `bthub.inference.hub_repo`.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from bthub.errors import BthubError, NotASliceError
from bthub.imaging.head import head_mask
from bthub.imaging.image_io import MAX_PIXELS, name_of, read_image
from bthub.inference.result import NO_TUMOR, TUMOR, Result, measure

Picture = str | Path | Image.Image | np.ndarray


class Detector(Protocol):
    """The first stage."""

    tumor_index: int

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities (N, classes) of N RGB images."""


class Localizer(Protocol):
    """The second stage."""

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """One bool array (H, W) an RGB image, at the image's own size."""


class InputCheck(Protocol):
    """What comes before them."""

    def accepts(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether each RGB image looks like a slice of a brain MRI."""


class Pipeline:
    """Detect, localize, measure. Made by `load_pipeline`; safe to call from several threads."""

    def __init__(
        self,
        detector: Detector,
        localizer: Localizer,
        *,
        threshold: float,
        models: dict[str, dict[str, str]],
        review_band: tuple[float, float] | None = None,
        input_check: InputCheck | None = None,
    ) -> None:
        """
        Args:
            detector: a classifier with the label `tumor`.
            localizer: the mask stage.
            threshold: probability of tumor from which the localizer runs, 0-1.
            models: `id` and `revision` of `detector` and `localizer`, handed on in every result.
            review_band: probabilities, from the first to below the second, at which a person should look.
            input_check: refuses what isn't a slice; None takes every picture.
        """
        self.detector = detector
        self.localizer = localizer
        self.threshold = threshold
        self.models = models
        self.review_band = review_band
        self.input_check = input_check
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
            inputs: a path, http(s) URL, PIL image or array (see `bthub.imaging.image_io.read_image`); a list or tuple
                of them; or any other iterable, which is consumed batch by batch as the results are taken.
            always_localize: run the localizer whatever the detector says; the label stays the detector's.
            batch_size: pictures a batch, at least 1; fewer where they are very large.
            spacing_mm: height and width of a pixel of the upright inputs, for `area_mm2`.
            check_input: refuse what doesn't look like a slice of a brain MRI, where the pipeline has an input check;
                False analyzes it all the same.

        Returns:
            A `Result` for one picture, a list for a list, else an iterator; in the order of the inputs.

        Raises:
            BthubError: an argument out of range, a picture that cannot be read, or one that the input check refuses
                (`NotASliceError`); an iterable raises it when the picture's batch is read, so read with `read_image`
                and `check` yourself to go on after a bad picture.
        """
        if batch_size < 1:
            raise BthubError(f"the batch size must be at least 1, not {batch_size}")
        if spacing_mm is not None and not (
            len(spacing_mm) == 2 and all(math.isfinite(v) and v > 0 for v in spacing_mm)
        ):
            raise BthubError(f"the pixel spacing must be two positive numbers of millimetres, not {spacing_mm}")
        # A mapping or a tensor is one wrong picture, which is then refused, not many.
        single = (
            isinstance(inputs, (str, bytes, Path, Image.Image, Mapping))
            or hasattr(inputs, "__array__")
            or not isinstance(inputs, Iterable)
        )
        source = [inputs] if single else inputs
        results = self._stream(source, always_localize, batch_size, spacing_mm, check_input)
        if single:
            return next(results)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def check(self, images: Sequence[np.ndarray], names: Sequence[str]) -> None:
        """Do what comes before the detector: nothing where the pipeline has no input check.

        Args:
            images: uint8 RGB (H, W, 3), as `read_image` gives them.
            names: what the message calls them.

        Raises:
            NotASliceError: the first picture that doesn't look like a slice of a brain MRI.
        """
        if self.input_check is None or not images:
            return
        for name, accepted in zip(names, self.input_check.accepts([Image.fromarray(i) for i in images]), strict=True):
            if not accepted:
                # How to switch the check off differs from caller to caller: each says it.
                raise NotASliceError(
                    f"{name}: this doesn't look like a slice of a brain MRI, and the models know nothing else"
                )

    def _stream(
        self,
        inputs: Iterable[Picture],
        always_localize: bool,
        batch_size: int,
        spacing_mm: tuple[float, float] | None,
        check_input: bool,
    ) -> Iterator[Result]:
        iterator = iter(inputs)
        while batch := self._read(iterator, batch_size):
            names, images, read_ms = zip(*batch, strict=True)
            check_ms = 0.0
            if check_input and self.input_check is not None:
                start = time.perf_counter()
                self.check(images, names)
                check_ms = _milliseconds(start) / len(batch)
            yield from self._analyze(images, read_ms, check_ms, always_localize, spacing_mm)

    def _read(self, iterator: Iterator[Picture], batch_size: int) -> list[tuple[str, np.ndarray, float]]:
        """The next pictures: name, pixels, and the milliseconds it took. Huge ones make a batch of their own."""
        batch, pixels = [], 0
        while len(batch) < batch_size and pixels < MAX_PIXELS // 2:
            start = time.perf_counter()
            try:
                picture = next(iterator)
            except StopIteration:
                break
            image = read_image(picture)
            batch.append((name_of(picture), image, _milliseconds(start)))
            pixels += image.shape[0] * image.shape[1]
        return batch

    def _analyze(
        self,
        images: Sequence[np.ndarray],
        read_ms: Sequence[float],
        check_ms: float,
        always_localize: bool,
        spacing_mm: tuple[float, float] | None,
    ) -> Iterator[Result]:
        pictures = [Image.fromarray(image) for image in images]
        start = time.perf_counter()
        probabilities = self.detector.predict(pictures)[:, self._tumor_index].tolist()
        detect_ms = _milliseconds(start) / len(images)

        chosen = [i for i, p in enumerate(probabilities) if always_localize or p >= self.threshold]
        start = time.perf_counter()
        masks = self.localizer.masks([pictures[i] for i in chosen]) if chosen else []
        localize_ms = _milliseconds(start) / max(1, len(chosen))
        mask_of = dict(zip(chosen, masks, strict=True))

        low, high = self.review_band or (0.0, 0.0)
        for i, image in enumerate(images):
            start = time.perf_counter()
            mask = mask_of.get(i)
            measured = measure(np.zeros(image.shape[:2], bool) if mask is None else mask)
            area = measured["area_px"]
            milliseconds = {
                "read": read_ms[i],
                "check": check_ms,
                "detect": detect_ms,
                "localize": localize_ms if mask is not None else 0.0,
            }
            brain_share = None if mask is None else _brain_share(image, area)
            milliseconds["measure"] = _milliseconds(start)
            yield Result(
                label=TUMOR if probabilities[i] >= self.threshold else NO_TUMOR,
                tumor_probability=probabilities[i],
                threshold=self.threshold,
                uncertain=low <= probabilities[i] < high,
                review_band=self.review_band,
                mask=mask,
                **measured,
                brain_share=brain_share,
                area_mm2=None if spacing_mm is None else area * float(spacing_mm[0]) * float(spacing_mm[1]),
                width=image.shape[1],
                height=image.shape[0],
                milliseconds={**milliseconds, "total": sum(milliseconds.values())},
                models=self.models,
                image=image,
            )


def _brain_share(image: np.ndarray, area_px: int) -> float | None:
    """Tumor pixels of a slice / pixels of its head, at most 1; None if no head was found in it."""
    if area_px == 0:
        return 0.0
    head = head_mask(image).mean()
    return None if head == 0 else min(1.0, float(area_px / (image.shape[0] * image.shape[1]) / head))


def _milliseconds(start: float) -> float:
    return (time.perf_counter() - start) * 1000
