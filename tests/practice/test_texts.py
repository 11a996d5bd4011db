"""Every string that a person reads, in both languages."""

import ast
import re
import string
from pathlib import Path

import pytest

from bthub.imaging.kinds import ROUGH, TITLES
from bthub.practice import texts
from bthub.practice.models import PROFESSIONS
from bthub.practice.web.context import TEMPLATES

PACKAGE = Path(texts.__file__).parent
# Functions whose first argument is shown, here or by whoever reports the error.
SPEAKING = {"t", "Refusal", "check_length", "MissingFile", "translate", "markup", "__init__", "_fail", "plain"}
# Names, units and formats, the same in both languages.
SAME = {
    "bthub",
    "PNG",
    "NIfTI",
    "DICOM",
    "SEG",
    "PDF",
    "HTML",
    "JSON",
    "–",
    "·",
    "→",
    "×",
    "ml",
    "mm",
    "…",
    "sha256",
    "%",
}


def constants(node: ast.AST) -> set[str]:
    """The strings in an expression that can be its value: not those that look something up."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, (ast.IfExp, ast.BoolOp, ast.JoinedStr)):
        branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else getattr(node, "values", [])
        return {text for branch in branches for text in constants(branch)}
    return set()


def spoken() -> set[str]:
    """What templates and modules say, in English."""
    found = set(PROFESSIONS)
    for path in (PACKAGE / "web" / "templates").glob("*.html"):
        for _, kind, value in TEMPLATES.lex(path.read_text(encoding="utf-8")):
            if kind == "string":
                found.add(ast.literal_eval(value))
    # Of the strings in templates only those that are sentences or labels: keys and addresses have no place in a table.
    called = set()
    for path in (PACKAGE / "web" / "templates").glob("*.html"):
        called |= {ast.literal_eval(m) for m in re.findall(r"""\b[tm]\(("[^"]*")""", path.read_text(encoding="utf-8"))}
    options = (PACKAGE / "web" / "templates" / "history.html").read_text(encoding="utf-8")
    called |= set(re.findall(r'\("\w*", "([^"]+)"\)', options))
    assert called <= found
    found = called | set(PROFESSIONS)
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in SPEAKING:
                second = ast.unparse(node.func).rpartition(".")[2] in ("_fail", "plain")
                spoken_here = node.args[1:2] if second else node.args[:1]
                found |= {text for argument in spoken_here for text in constants(argument)}
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
                "FAILURE",
                "FAILED",
                "AWAY",
                "TOO_LARGE",
                "TOO_MANY",
                "DISCLAIMER",
                "WRONG",
                "WAIT",
                "_FORGED",
                "_CHANGED",
                "_OVERTAKEN",
                "OVERTAKEN",
                "_LACKING",
                "texts",
                "text",
            ):
                values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
                found |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return {text for text in found if re.search(r"[A-Za-z]{2}", text)}


@pytest.mark.parametrize("language", [code for code in texts.NAMES if code != "en"])
def test_every_string_is_in_the_table(language):
    missing = spoken() - set(texts.table(language))
    assert not missing, sorted(missing)


@pytest.mark.parametrize("language", [code for code in texts.NAMES if code != "en"])
def test_translations_take_the_same_values(language):
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    for english, words in texts.table(language).items():
        assert fields(english) == fields(words), english


def test_templates_say_nothing_past_the_table():
    """No text between tags that isn't a call, a value or a name."""
    for path in (PACKAGE / "web" / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "\0", text, flags=re.DOTALL)
        text = re.sub(r"<script.*?</script>|<style.*?</style>|<kbd>.*?</kbd>", "\0", text, flags=re.DOTALL)
        for part in re.findall(r">([^<>]*)(?=<)", text, flags=re.DOTALL):
            for words in re.split(r"[\0\s]+", part):
                assert not re.search(r"[A-Za-z]{2}", words) or words in SAME, f"{path.name}: {words}"
        for words in re.findall(r'\b(?:placeholder|aria-label|alt|title)="([^"]*)"', text):
            assert not re.search(r"[A-Za-z]{2}", words), f"{path.name}: {words}"


def test_numbers_and_shares():
    assert texts.number(1234567.891, "en", 1) == "1,234,567.9"
    assert texts.number(1234567.891, "de", 1) == "1.234.567,9"
    assert texts.percent(0.5, "en") == "50.0%"
    assert texts.percent(0.00001, "en") == "under 0.1%"
    assert "99,9" in texts.percent(0.99999, "de")


def test_values_cant_break_out_of_a_translation():
    assert texts.markup("The slice <b>{name}</b>", "en", name="<script>") == "The slice <b>&lt;script&gt;</b>"


def test_messages_of_the_reader_are_translated():
    text = "brain.png: this is not a picture that can be read; expected PNG, TIFF, JPEG, BMP, WebP or GIF"
    told = texts.foreign(text, "de")
    assert told.startswith("brain.png") and told != text and "WebP" in told
    assert texts.foreign("something unknown", "de") == "something unknown"


# Modules whose refusals a person reads on a page, and what of them no upload can cause: Python's callers alone.
REFUSING = ("imaging/dicom", "imaging/formats", "imaging/image_io", "imaging/intake", "imaging/nifti", "imaging/pages")
REFUSING += ("imaging/tiff", "imaging/volume", "inference/study", "practice/study")
FOR_PROGRAMS = re.compile(
    r"^(the array: |a picture must be|this \w+ isn't a path|the slices|no files were given|masks of )"
)


def said(node: ast.AST, names: dict[str, str]) -> str | None:
    """An expression's text, with a value in the place of each part that isn't known; None where nothing is."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part, names) or "7" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return names.get(ast.unparse(node.value))
    if isinstance(node, ast.BinOp):
        return (said(node.left, names) or "7") + (said(node.right, names) or "7")
    return None


def refusals() -> set[str]:
    from bthub.imaging.formats import FORMATS, other_kind

    found = set()
    for module in REFUSING:
        tree = ast.parse((PACKAGE.parent / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            raised = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "BthubError",
                "super().__init__",
                "notes.append",
            )
            for one in [node.args[0]] if raised and node.args else []:
                text = said(one, {"name": "file.png", "FORMATS": FORMATS, "_WANTED": "expected slices of an MR scan"})
                found |= {text} if text else set()
    found.discard("file.png: 7")  # its kinds follow
    contents = (
        b"%PDF-1.7",
        b"8BPS",
        b"<svg>",
        b"<html>",
        b"PK\3\4",
        b"\x1f\x8b",
        b"\x93NUMPY",
        b"NRRD0004",
        b"nothing",
    )
    found |= {f"file.png: {other_kind(content)}" for content in contents}
    return {text for text in found if not FOR_PROGRAMS.search(text)}


@pytest.mark.parametrize("language", [code for code in texts.NAMES if code != "en"])
def test_every_refusal_of_an_upload_is_in_the_table(language):
    found = refusals()
    assert len(found) > 60
    missing = {text for text in found if texts.foreign(text, language) == text}
    assert not missing, sorted(missing)


@pytest.mark.parametrize("language", [code for code in texts.NAMES if code != "en"])
def test_what_a_file_is_and_what_mends_it_is_in_the_table(language):
    from bthub.imaging import dicom, formats

    phrases = {phrase for _, what, mend in formats._OTHERS for phrase in (what, mend)}
    phrases |= {*dicom._NO_SCAN.values(), *dicom._OTHER_MODALITIES.values()}
    for module in ("dicom", "intake"):
        source = (PACKAGE.parent / "imaging" / f"{module}.py").read_text(encoding="utf-8")
        for pattern in (r'left_out\["([^"]+)"\]', r'NoScanError\(name, "([^"]+)"\)'):
            phrases |= set(re.findall(pattern, source))
    assert len(phrases) > 50 and phrases <= set(texts.table(language)), phrases - set(texts.table(language))


def test_the_accepted_language():
    assert texts.choose("de-AT") == "de"
    assert texts.choose("fr;q=0.9, de;q=0.5, en;q=0.7") == "en"
    assert texts.choose("x;q=nonsense") == texts.choose(None) == "en"


@pytest.mark.parametrize("language", [code for code in texts.NAMES if code != "en"])
def test_kinds_of_pictures_are_in_the_table(language):
    assert {*TITLES.values(), ROUGH} <= set(texts.table(language))
