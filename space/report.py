"""The report: one page to print or to keep, as an HTML file that needs nothing else."""

import datetime
import html
from collections.abc import Mapping, Sequence

from PIL import Image

from bthub.inference.result import DISCLAIMER
from parts import data_address, models_html, numbers_html, png

SIDE = 480  # pixels of a picture

STYLE = """
  body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; background: #fff; max-width: 44rem; margin: 2rem auto;
    padding: 0 1.5rem; }
  h1 { font-size: 1.1rem; margin: 0; } h2 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 0.25rem; }
  p { margin: 0.25rem 0; } small { color: #536274; font-weight: 400; }
  .notice { border: 2px solid #92400e; border-radius: 6px; padding: 0.4rem 0.75rem; margin-top: 0.75rem;
    font-weight: 600; }
  .pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
  figure { margin: 0; flex: 1 1 12rem; max-width: 26rem; } img { width: 100%; display: block; background: #000; }
  figcaption { font-size: 0.85rem; color: #536274; }
  dl > div { display: flex; gap: 1rem; border-top: 1px solid #cbd5e1; padding: 0.3rem 0; }
  dt { flex: 0 0 11rem; color: #536274; } dd { margin: 0; font-weight: 600; }
  @page { size: A4; margin: 15mm; } @media print { body { margin: 0; padding: 0; } }
"""


def report_html(
    name: str,
    verdict: str,
    sentences: Sequence[str],
    numbers: Mapping[str, str],
    pictures: Sequence[tuple[str, Image.Image]],
    models: Mapping[str, Mapping[str, str]],
) -> str:
    """The report on a slice or a stack.

    Args:
        name: what was uploaded.
        verdict: as the page words it.
        sentences: what the page says about it, as text.
        numbers: terms and what they come to, as HTML.
        pictures: captions and pictures.
        models: `Result.models`.
    """
    shown = "".join(
        f'<figure><img src="{data_address("image/png", png(picture, SIDE))}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, picture in pictures
    )
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = {**numbers, "Date": day, "Models": models_html(models)}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(name)}: {verdict}</title><style>{STYLE}</style></head><body>
<h1>bthub: brain tumor on an MRI slice</h1>
<p class="notice">{DISCLAIMER}</p>
<h2>{verdict}</h2>
<p><small>{html.escape(name)}</small></p>
{"".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences if sentence)}
<div class="pictures">{shown}</div>
{numbers_html(rows)}
</body></html>
"""
