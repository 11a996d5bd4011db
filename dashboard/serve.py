"""Serve the dashboard: `streamlit run app.py`, with what is slow to import already there for the first page.

PORT and HOST say where, by default http://127.0.0.1:8501.
"""

import os
import sys
from pathlib import Path

import altair  # noqa: F401
import pandas  # noqa: F401
import streamlit.web.cli

import bthub.compare  # noqa: F401

HERE = Path(__file__).parent

if __name__ == "__main__":
    # Settings that are not the surroundings' business are in .streamlit/config.toml, next to app.py.
    options = [
        f"--server.port={os.environ.get('PORT', '8501')}",
        f"--server.address={os.environ.get('HOST', '127.0.0.1')}",
    ]
    sys.exit(streamlit.web.cli.main(["run", str(HERE / "app.py"), *options]))
