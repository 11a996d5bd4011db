"""What the practice says, in the reader's language. English is the key, the other language a table."""

import json
import re
from functools import cache
from pathlib import Path

from markupsafe import Markup

from bthub.errors import BthubError
from bthub.practice.models import LANGUAGES

TABLES = Path(__file__).with_name("languages")
NAMES = {"en": "English", "de": "Deutsch"}


class Refusal(BthubError):
    """What a person asked for can't be done: a sentence, translatable, with values in braces."""

    def __init__(self, text: str, status: int = 400, **values: object) -> None:
        super().__init__(text.format(**values) if values else text)
        self.text = text
        self.status = status
        self.values = values


@cache
def table(language: str) -> dict[str, str]:
    """English -> the language; nothing for English itself."""
    if language == "en":
        return {}
    words: dict[str, str] = json.loads((TABLES / f"{language}.json").read_text(encoding="utf-8"))
    return words


def translate(text: str, language: str, **values: object) -> str:
    """A text in a language, with values put in; in English where the table lacks it."""
    words = table(language).get(text, text)
    # In a page, values are escaped and the text's own tags stay.
    return words.format(**values) if values else words


def markup(text: str, language: str, **values: object) -> Markup:
    """As `translate`, for texts with tags: the values are escaped."""
    return Markup(table(language).get(text, text)).format(**values)


def sentence(error: BthubError, language: str) -> str:
    """What an error says, in a language. Messages of the other packages are recognized by their pattern."""
    if isinstance(error, Refusal):
        return translate(error.text, language, **error.values)
    return foreign(str(error), language)


def foreign(text: str, language: str) -> str:
    """A message of another package of bthub in a language; as it is where the table has no pattern for it."""
    if language == "en" or not text:
        return text
    for pattern, words in _patterns(language):
        if match := pattern.fullmatch(text):
            return words.format(**{name: _phrase(part, language) for name, part in match.groupdict().items()})
    return text


def _phrase(part: str, language: str) -> str:
    """A part of a message that is a phrase of the table itself: what a file is, what mends it, how many are what."""
    known = table(language)
    counts = [re.fullmatch(r"([\d,]+) files?: (.+)", piece) for piece in part.split("; ")]
    if all(counts):
        return "; ".join(f"{one[1]}\u00a0× {known.get(one[2], one[2])}" for one in counts if one)
    return known.get(part, part)


@cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """The table's entries as patterns: {name} stands for anything."""
    return [
        (re.compile("".join(_part(part) for part in re.split(r"(\{\w+\})", english)), re.DOTALL), words)
        for english, words in sorted(table(language).items(), key=lambda item: -len(re.sub(r"\{\w+\}", "", item[0])))
    ]


def _part(part: str) -> str:
    return f"(?P<{part[1:-1]}>.+)" if re.fullmatch(r"\{\w+\}", part) else re.escape(part)


def choose(accepted: str | None) -> str:
    """The first language of an Accept-Language header that there is; else English."""
    wanted = []
    for item in (accepted or "").split(",")[:20]:
        name, _, quality = item.partition(";q=")
        try:
            wanted.append((-float(quality or 1), name.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    return next((name for _, name in sorted(wanted, key=lambda pair: pair[0]) if name in LANGUAGES), "en")


def number(value: float, language: str, digits: int = 0) -> str:
    """A number as the language writes it, with thousands set apart."""
    text = f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text.translate(str.maketrans(",.", ".,")) if language == "de" else text


def percent(share: float, language: str) -> str:
    """A share in percent; never 0 or 100, which no model can promise."""
    if 0 < share < 0.001:
        return translate("under {limit}", language, limit=_percent(0.001, language))
    if 0.999 < share < 1:
        return translate("over {limit}", language, limit=_percent(0.999, language))
    return _percent(share, language)


def _percent(share: float, language: str) -> str:
    return number(100 * share, language, 1) + ("\u00a0%" if language == "de" else "%")
