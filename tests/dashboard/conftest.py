"""What the dashboard's tests share."""

from collections.abc import Iterator

import pytest
from streamlit import config as st_config
from streamlit.components.v2 import manifest_scanner


@pytest.fixture(scope="session", autouse=True)
def as_it_is_served() -> Iterator[None]:
    """Without what Streamlit's test runner does for every page and the dashboard has no use for.

    It looks for components in every installed package, which takes longer than the page, and rewrites the code to show
    expressions that stand by themselves, which the dashboard's own settings switch off.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(manifest_scanner, "scan_component_manifests", lambda: [])
    magic = st_config.get_option("runner.magicEnabled")
    st_config.set_option("runner.magicEnabled", False)
    yield
    st_config.set_option("runner.magicEnabled", magic)
    patch.undo()
