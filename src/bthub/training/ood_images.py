"""Out-of-distribution (OOD) pictures, for measuring an input check.

A fixed list: image files of packages that requirements.txt installs, and pictures drawn here from fixed seeds. A
colored one is taken in gray too, because scans mostly are. One half is for choosing, the other for reporting: what
comes from one file, or is drawn in one way, is in one half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from bthub.errors import BthubError
from bthub.imaging.image_io import read_image

CHOOSE, REPORT = "choose", "report"
PHOTOGRAPH, TEXTURE, DOCUMENT, GRAPHIC, ORGAN, HEAD_CT, MEDICAL, NOISE, SHAPE = (
    "photograph",
    "texture",
    "document",
    "graphic",
    "scan of another organ",
    "CT of a head",
    "other medical picture",
    "noise",
    "shape",
)

# package -> folder -> kind -> files
_FILES = {
    "scikit-image": {
        "skimage/data": {
            PHOTOGRAPH: (
                "astronaut.png",
                "camera.png",
                "chelsea.png",
                "clock_motion.png",
                "coffee.png",
                "coins.png",
                "hubble_deep_field.jpg",
                "moon.png",
                "motorcycle_left.png",
                "rocket.jpg",
            ),
            TEXTURE: ("brick.png", "grass.png", "gravel.png"),
            DOCUMENT: ("page.png", "text.png"),
            GRAPHIC: ("chessboard_GRAY.png", "color.png", "horse.png", "logo.png"),
            MEDICAL: ("cell.png", "ihc.png", "microaneurysms.png", "phantom.png", "retina.jpg"),
        }
    },
    "scikit-learn": {"sklearn/datasets/images": {PHOTOGRAPH: ("china.jpg", "flower.jpg")}},
    "matplotlib": {
        "matplotlib/mpl-data/sample_data": {
            PHOTOGRAPH: ("grace_hopper.jpg",),
            GRAPHIC: ("Minduka_Present_Blue_Pack.png", "logo2.png"),
        }
    },
    "gradio": {
        "gradio/media_assets/images": {
            PHOTOGRAPH: ("cheetah.jpg", "cheetah1.jpg", "groot.jpeg", "lion.jpg", "tower.jpg"),
            GRAPHIC: ("bus.png", "hf-logo_transpng.png", "logo.png"),
        },
        "gradio/test_data": {PHOTOGRAPH: ("cheetah2.jpg",)},
    },
    # Of an abdomen (MRI), a spine (CT), a heart (MRI), a skeleton (scintigram), a lymph node, an abdomen and a heart
    # (ultrasound); of two heads (CT).
    "pydicom": {
        "pydicom/data/test_files": {
            ORGAN: (
                "examples_overlay.dcm",
                "CT_small.dcm",
                "MR_small.dcm",
                "JPEG2000.dcm",
                "examples_rgb_color.dcm",
                "examples_palette.dcm",
                "examples_ybr_color.dcm",
            ),
            HEAD_CT: ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"),
        }
    },
    "networkx": {
        "networkx/drawing/tests/baseline": {GRAPHIC: ("test_display_complex.png", "test_house_with_colors.png")}
    },
}

_SIDE, _SEEDS = 256, (1, 2)


@dataclass(frozen=True)
class Outside:
    """A picture that an input check should refuse.

    Attributes:
        name: the file's and its package's, or what was drawn; a gray copy ends in " in gray".
        kind: photograph, texture, document, graphic, scan of another organ, CT of a head, other medical picture, noise
            or shape.
        half: `choose` or `report`.
        image: RGB.
    """

    name: str
    kind: str
    half: str
    image: Image.Image


def outside_pictures() -> list[Outside]:
    """All of them, in a fixed order.

    Raises:
        BthubError: a file of a package isn't installed; the message names all that are missing.
    """
    origins: dict[str, list[dict[str, Path | np.ndarray]]] = {}  # of each kind: what a file or a drawing gives, by name
    for kind, name, path in _files():
        origins.setdefault(kind, []).append({name: path})
    for kind, drawings in _DRAWINGS.items():
        for name, draw in drawings.items():
            drawn = {f"{name} {seed}": draw(np.random.default_rng(seed)) for seed in _SEEDS}
            origins.setdefault(kind, []).append(drawn)
    pictures = []
    for kind, found in origins.items():
        for number, origin in enumerate(found):
            for name, source in origin.items():
                half, pixels = (CHOOSE, REPORT)[number % 2], _read(source)
                image = Image.fromarray(pixels)
                pictures.append(Outside(name, kind, half, image))
                if np.ptp(pixels, axis=2).any():
                    pictures.append(Outside(f"{name} in gray", kind, half, image.convert("L").convert("RGB")))
    return pictures


def _files() -> list[tuple[str, str, Path]]:
    """Kind, name and place of each file."""
    found, missing = [], []
    for package, folders in _FILES.items():
        for folder, kinds in folders.items():
            for kind, names in kinds.items():
                for name in names:
                    path = _installed(package, f"{folder}/{name}")
                    if path is None:
                        missing.append(f"{name} of {package}")
                    else:
                        found.append((kind, f"{name} of {package}", path))
    if missing:
        raise BthubError(
            f"{len(missing)} of the OOD pictures aren't installed: {', '.join(missing)}; "
            "install the versions of requirements.txt (make .venv/.test)"
        )
    return found


def _read(source: Path | np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3), as a picture that is handed in is read; of a DICOM file with several frames the first."""
    if not isinstance(source, Path) or source.suffix != ".dcm":
        return read_image(source)
    import pydicom
    from pydicom.pixels import apply_color_lut

    scan = pydicom.dcmread(source)
    pixels = scan.pixel_array
    if int(scan.get("NumberOfFrames", 1)) > 1:
        pixels = pixels[0]
    if scan.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, scan)
    if pixels.dtype == np.int16:  # CT has values below 0
        pixels = (pixels.astype(np.int32) - pixels.min()).astype(np.uint16)
    return read_image(pixels)


def _installed(package: str, file: str) -> Path | None:
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


# -- drawings


def _gray(values: np.ndarray) -> np.ndarray:
    """Stretch to uint8."""
    low, high = values.min(), values.max()
    return np.rint(255 * (values - low) / (high - low)).astype(np.uint8)


def _uniform(rng: np.random.Generator, *channels: int) -> np.ndarray:
    return rng.integers(0, 256, (_SIDE, _SIDE, *channels), dtype=np.uint8)


def _gaussian(rng: np.random.Generator, mean: float, deviation: float) -> np.ndarray:
    return np.clip(rng.normal(mean, deviation, (_SIDE, _SIDE)), 0, 255).astype(np.uint8)


def _blobs(rng: np.random.Generator, width: float) -> np.ndarray:
    return _gray(gaussian_filter(rng.normal(size=(_SIDE, _SIDE)), width))


def _canvas(ground: int, width: int = _SIDE, height: int = _SIDE) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (width, height), ground)
    return image, ImageDraw.Draw(image)


_WORDS = "the slice of a letter was read to the patient while rain fell on seven gray roofs and nobody wrote".split()


def _page(rng: np.random.Generator, ground: int, ink: int) -> np.ndarray:
    image, draw = _canvas(ground, 420, 594)
    for line in range(34):
        draw.text((30, 24 + 16 * line), " ".join(rng.choice(_WORDS, 10)), fill=ink)
    return np.asarray(image)


def _form(rng: np.random.Generator) -> np.ndarray:
    image, draw = _canvas(255, 500, 360)
    for row in range(10):
        for column in range(4):
            box = (20 + 115 * column, 20 + 32 * row, 135 + 115 * column, 52 + 32 * row)
            draw.rectangle(box, outline=0)
            draw.text((box[0] + 6, box[1] + 8), str(rng.integers(10_000)), fill=0)
    return np.asarray(image)


def _chart(rng: np.random.Generator) -> np.ndarray:
    image, draw = _canvas(255, 480, 320)
    draw.line([(40, 20), (40, 290), (460, 290)], fill=0, width=2)
    heights = 280 - np.abs(np.cumsum(rng.normal(0, 18, 42))).clip(0, 250)
    draw.line([(45 + 10 * x, float(y)) for x, y in enumerate(heights)], fill=60, width=2)
    for tick in range(0, 300, 50):
        draw.text((12, 284 - tick), str(tick), fill=0)
    return np.asarray(image)


def _code(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(np.repeat(255 * rng.integers(0, 2, (25, 25), dtype=np.uint8), 10, axis=0), 10, axis=1)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE]
    angle = rng.uniform(0, 2 * np.pi)
    return _gray(np.cos(angle) * x + np.sin(angle) * y)


def _glow(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE] - rng.uniform(100, 156, 2)[:, None, None]
    return _gray(-np.hypot(x, y))


def _disk(rng: np.random.Generator) -> np.ndarray:
    image, draw = _canvas(0)
    radius = rng.integers(60, 110)
    draw.ellipse((128 - radius, 128 - radius, 128 + radius, 128 + radius), fill=180)
    return np.asarray(image)


def _noisy_disk(rng: np.random.Generator) -> np.ndarray:
    return np.clip(_disk(rng) * rng.normal(0.8, 0.15, (_SIDE, _SIDE)), 0, 255).astype(np.uint8)


def _ring(rng: np.random.Generator) -> np.ndarray:
    image, draw = _canvas(0)
    width = int(rng.integers(4, 20))
    draw.ellipse((40, 25, 216, 231), outline=230, width=width)
    return np.asarray(image)


def _stripes(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE]
    return _gray(np.sin(x / rng.uniform(3, 12) + y / rng.uniform(3, 12)))


def _boxes(rng: np.random.Generator) -> np.ndarray:
    image, draw = _canvas(0)
    for _ in range(12):
        x, y, width, height = rng.integers(8, 160), rng.integers(8, 160), *rng.integers(20, 90, 2)
        draw.rectangle((x, y, x + width, y + height), fill=int(rng.integers(60, 255)))
    return np.asarray(image)


def _chest(rng: np.random.Generator) -> np.ndarray:
    """Two dark lungs, a heart and a spine in a gray body, as a CT shows them."""
    image, draw = _canvas(0, 320, 240)
    draw.ellipse((15, 30, 305, 215), fill=110)
    draw.ellipse((22, 37, 298, 208), fill=90)
    for left in (55, 180):
        draw.ellipse((left, 60, left + 85, 180), fill=12)
    draw.ellipse((125, 75, 200, 150), fill=140)
    draw.ellipse((140, 160, 180, 198), fill=240)
    pixels = gaussian_filter(np.asarray(image, dtype=float), 1.2)
    return np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)


_DRAWINGS: dict[str, dict[str, Callable[[np.random.Generator], np.ndarray]]] = {
    NOISE: {
        "colored noise": lambda rng: _uniform(rng, 3),
        "gray noise": _uniform,
        "faint noise": lambda rng: _gaussian(rng, 60, 20),
        "dark noise": lambda rng: _gaussian(rng, 0, 12),
        "clouds": lambda rng: _blobs(rng, 16),
        "salt and pepper": lambda rng: np.where(rng.random((_SIDE, _SIDE)) < 0.1, _uniform(rng), 90).astype(np.uint8),
        "blotches": lambda rng: _blobs(rng, 5),
        "bright noise": lambda rng: _gaussian(rng, 150, 60),
    },
    DOCUMENT: {
        "page of text": lambda rng: _page(rng, 255, 0),
        "page of light text": lambda rng: _page(rng, 10, 235),
        "form": _form,
    },
    GRAPHIC: {"chart": _chart, "code": _code},
    MEDICAL: {"drawn chest CT": _chest},
    SHAPE: {
        "gradient": _gradient,
        "glow": _glow,
        "disk": _disk,
        "noisy disk": _noisy_disk,
        "ring": _ring,
        "stripes": _stripes,
        "boxes": _boxes,
    },
}
