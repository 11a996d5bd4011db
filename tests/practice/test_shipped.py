"""From the upload to the signed report with the models that come with the clone, on a real slice."""

from pathlib import Path

import pytest
from practice_help import Browser
from starlette.testclient import TestClient

from bthub.practice.analysis import shipped
from bthub.practice.web.app import create_app
from bthub.project import DEFAULTS, SHIPPED_RUNS

EXAMPLES = Path(__file__).parents[2] / "space" / "examples"


@pytest.mark.slow
def test_real_slices_with_the_shipped_models(sqlite_settings, monkeypatch):
    monkeypatch.setenv("BTHUB_BACKEND", "torch")  # not whatever is fastest here, which would have to be timed
    if not all((SHIPPED_RUNS / name / "config.json").is_file() for name in DEFAULTS.values()):
        pytest.skip("the runs aren't there: fetch the whole repository")
    app = create_app(sqlite_settings, shipped)
    with TestClient(app):
        browser = Browser(TestClient(app)).begin()
        names = ("TCGA_DU_5871_19941206_22.png", "TCGA_HT_7475_19970918_14.png")
        id = browser.analyze(*((EXAMPLES / name).read_bytes() for name in names), seconds=600)
        page = browser.get(f"/examinations/{id}").text
        assert "Tumor suspected" in page and DEFAULTS["detector"] in page and "1 of 2" in page
        case = browser.post(f"/examinations/{id}/save", pseudonym="P", examined_on="2026-01-01").url.path
        slice_ = browser.slices(case)[0]
        heat = browser.get(slice_["heat"])
        assert heat.status_code == 200 and heat.content[:4] == b"\x89PNG"
        report = browser.post(f"/examinations/{id}/reports").url.path
        answer = browser.write(report, findings="x", impression="As before.", action="sign")
        # How good the models are, from the evaluation in their folders.
        assert "Tumor slices found" in answer.text and "15 patients" in answer.text
        content = browser.get(f"{report}/report.json").json()
        assert content["quality"]["localizer"]["figures"]["dice_volume_mean"]["low"] > 0.5
        # A second date: the difference is held against the measured error of areas.
        other = browser.analyze((EXAMPLES / names[0]).read_bytes(), seconds=600)
        browser.post(f"/examinations/{other}/save", pseudonym="P", examined_on="2026-03-01")
        assert "within the measurement" in browser.get(f"{case}/follow-up").text
