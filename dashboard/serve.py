"""Serve the dashboard: `streamlit run app.py`, with what is slow the first time already done for the first page.

PORT and BTHUB_HOST say where, by default http://127.0.0.1:8501. With BTHUB_HOST=0.0.0.0 strangers reach it too.
"""

import sys
from pathlib import Path

import altair as alt
import pandas as pd
import streamlit.web.cli

import frame
from bthub.data.network import app_host, app_port, spare_loopback
from bthub.errors import report_errors

HERE = Path(__file__).parent


def warm_up() -> None:
    """Draw a chart and a table, whose first ones read Altair's schema and import much, and read the runs."""
    rows = pd.DataFrame({"x": [0.0], "y": ["a"]})
    alt.Chart(rows).mark_point().encode(x="x", y="y").to_dict()
    rows.style.to_html()
    frame.warm_up()


def main() -> int:
    spare_loopback()
    # Settings that are not the surroundings' business are in .streamlit/config.toml, next to app.py.
    options = [f"--server.port={app_port(8501)}", f"--server.address={app_host()}"]
    warm_up()
    return streamlit.web.cli.main(["run", str(HERE / "app.py"), *options])


if __name__ == "__main__":
    sys.exit(report_errors(main))
