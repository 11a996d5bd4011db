"""Pieces of HTML that the page of a slice and the page of a stack share."""

import base64
import html


def download_html(name: str, kind: str, content: bytes, text: str) -> str:
    """A link that saves `content` under `name`."""
    return f'<a download="{html.escape(name)}" href="{data_address(kind, content)}">{text}</a>'


def data_address(kind: str, content: bytes) -> str:
    """`content` as an address of its own, so that nothing of a result is written to disk."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def percent(share: float) -> str:
    """A share as the page writes it, in whole percent; never 0% or 100%, which no model can promise.

    Two shares that straddle the threshold can look alike after rounding; the bar and the verdict tell them apart.
    """
    if 0 < share < 0.01:
        return "under 1%"
    if 0.99 < share < 1:
        return "over 99%"
    return f"{share:.0%}"
