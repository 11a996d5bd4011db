"""The dependency audit: what it finds fails, and what it couldn't look up is never an all-clear."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", SCRIPT)
assert spec is not None and spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
ILL = {
    "name": "pydicom",
    "version": "3.0.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.0.2"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited: jinja2 (3.1)"}


def test_what_is_sound_passes():
    code, lines = audit.judged({"dependencies": [SOUND]})
    assert code == 0 and "1 packages, no known vulnerability" in lines[0]


def test_what_is_vulnerable_fails_and_says_what_mends_it():
    code, lines = audit.judged({"dependencies": [SOUND, ILL, UNKNOWN]})
    assert code == 1 and lines[0] == "pydicom 3.0.1: PYSEC-1, mended in 3.0.2"


def test_what_could_not_be_looked_up_is_no_all_clear():
    for packages in ([UNKNOWN, SOUND], [UNKNOWN], []):
        code, lines = audit.judged({"dependencies": packages})
        assert code == 3 and "not audited" in lines[-1] and "no known" not in lines[-1]


def test_every_pinned_package_is_asked_for():
    assert audit.REQUIREMENTS.is_file()
    assert all("==" in line for line in audit.REQUIREMENTS.read_text().splitlines() if line and line[0] not in "#-")
