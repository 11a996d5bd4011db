"""Pieces of HTML that the page of a slice and the page of a stack share."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from bthub.inference.result import measure

FRACTIONS = ("half", "a third", "a quarter", "a fifth", "a sixth", "a seventh", "an eighth", "a ninth", "a tenth")
"""1/2, 1/3 and so on."""

LAYERS = {"fill": "Fill", "outline": "Outline", "box": "Box", "experts": "Experts' outline"}
"""What can be shown over a picture; `viewer.js` and `style.css` know them by these names."""


def download_html(name: str, kind: str, content: bytes, text: str) -> str:
    """A link that saves `content` under `name`."""
    return f'<a download="{html.escape(name)}" href="{data_address(kind, content)}">{text}</a>'


def data_address(kind: str, content: bytes) -> str:
    """`content` as an address of its own, so that nothing of a result is written to disk."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png(picture: Image.Image, most: int | None = None) -> bytes:
    """The picture as PNG, reduced to `most` pixels a side where that is given."""
    if most is not None and max(picture.size) > most:
        picture = picture.copy()
        picture.thumbnail((most, most))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def percent(share: float) -> str:
    """A share as the page writes it, in whole percent; never 0% or 100%, which no model can promise.

    Two shares that straddle the threshold can look alike after rounding; the bar and the verdict tell them apart.
    """
    if 0 < share < 0.01:
        return "under 1%"
    if 0.99 < share < 1:
        return "over 99%"
    return f"{share:.0%}"


def in_words(share: float) -> str:
    """A share as people say it: "about a sixth"; below a fifteenth in percent."""
    if share >= 0.62:
        return "most"
    if share < 1 / 15:
        return percent(share) if share < 0.01 else f"about {percent(share)}"
    whole = min(round(1 / share), len(FRACTIONS) + 1)
    return f"about {FRACTIONS[max(whole, 2) - 2]}"


def area_in_words(area_mm2: float) -> str:
    """An area in cm², and how large that is: "22.8 cm², a disk 5.4 cm across"."""
    across = 2 * math.sqrt(area_mm2 / math.pi)
    size = f"{across / 10:.1f} cm" if across >= 10 else f"{across:.0f} mm"
    return f"{area_mm2 / 100:,.1f}\u00a0cm² <small>as large as a disk {size} across</small>"


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The Dice coefficient of two bool masks, 0-1; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def layers_html(
    mask: np.ndarray | None,
    contour: Sequence[Sequence[Sequence[float]]],
    bbox: Sequence[int] | None,
    size: tuple[int, int],
    experts: np.ndarray | None = None,
    most: int = 1024,
) -> str:
    """What lies over a picture: the mask's area, the outlines and the box, each of which can be hidden.

    Args:
        mask: bool (H, W), or None.
        contour, bbox: as `Result` has them.
        size: width and height of the picture.
        experts: bool (H, W), what experts outlined, where that is known.
        most: pixels a side to which the area's picture is reduced.
    """
    width, height = size
    fill = ""
    if mask is not None and mask.any():
        red = np.zeros((*mask.shape, 4), np.uint8)
        red[mask] = (255, 0, 0, 255)
        address = data_address("image/png", png(Image.fromarray(red), most))
        fill = f'<img class="layer fill" src="{address}" alt="">'
    shapes = ""
    if bbox is not None:
        x0, y0, x1, y1 = bbox
        shapes += f'<rect class="layer box" x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>'
    if contour:
        shapes += f'<path class="layer outline" d="{_path(contour)}"/>'
    if experts is not None and experts.any():
        shapes += f'<path class="layer experts" d="{_path(measure(experts)["contour"])}"/>'
    if not (fill or shapes):
        return ""
    return f'{fill}<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>'


def _path(contour: Sequence[Sequence[Sequence[float]]]) -> str:
    return " ".join("M" + " L".join(f"{x:g} {y:g}" for x, y in polygon) + " Z" for polygon in contour)


def viewer_html(panes: str, layers: Sequence[str], below: str = "") -> str:
    """One picture, or several of which one is shown, with what hides the layers and what enlarges it.

    Args:
        panes: the figures, see `pane_html`.
        layers: those of LAYERS that any of the pictures has.
        below: what follows beneath the picture.

    The switches are the legend too: each carries the color of its layer.
    """
    switches = "".join(
        f'<label class="switch {name}"><input type="checkbox" data-layer="{name}"{" checked" * (name != "box")}>'
        f"{LAYERS[name]}</label>"
        for name in LAYERS
        if name in layers
    )
    opacity = (
        '<label class="opacity">Opacity <input type="range" min="0" max="100" value="35" data-opacity></label>'
        if "fill" in layers
        else ""
    )
    return f"""
<div class="viewer">
  <div class="window" tabindex="0" role="group"
    aria-label="Picture. Plus and minus enlarge and reduce it, 0 shows all of it, the arrow keys move it.">
    {panes}
    <div class="zoom"><button type="button" data-zoom="in" aria-label="Enlarge">+</button><button type="button"
    data-zoom="out" aria-label="Reduce">−</button><button type="button" data-zoom="fit" aria-label="Show all of the
    picture">⤢</button></div>
  </div>
  {f'<div class="layers" role="group" aria-label="Shown on the picture">{switches}{opacity}</div>' if switches else ""}
  {below}
</div>
"""


def pane_html(address: str, text: str, layers: str, ratio: float, more: str = "", attributes: str = "") -> str:
    """One picture with its layers.

    Args:
        address: of the picture.
        text: its description for those who can't see it.
        layers: see `layers_html`.
        ratio: width / height.
        more: what lies over it beside the layers and isn't enlarged.
        attributes: further ones of the element.
    """
    return (
        f'<figure{attributes} style="--ratio: {ratio:.4f}"><div class="pane">'
        f'<img class="scan" src="{address}" alt="{html.escape(text)}">{layers}</div>{more}</figure>'
    )


def numbers_html(numbers: Mapping[str, str]) -> str:
    """Terms and what they come to, as HTML each."""
    return f"<dl>{''.join(f'<div><dt>{term}</dt><dd>{value}</dd></div>' for term, value in numbers.items())}</dl>"


def models_html(models: Mapping[str, Mapping[str, str]]) -> str:
    """Names and revisions of the models, a line each."""
    return "".join(
        f"<div>{html.escape(model['id'])} <small>{html.escape(model['revision'])}</small></div>"
        for model in models.values()
    )
