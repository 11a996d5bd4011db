"""What the dashboard's tests share."""

from collections.abc import Iterator

import pytest
from streamlit.components.v2 import manifest_scanner


@pytest.fixture(scope="session", autouse=True)
def no_components() -> Iterator[None]:
    """Before each page, Streamlit's test runner looks for components in every installed package.

    That takes longer than the page, and the dashboard uses none.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(manifest_scanner, "scan_component_manifests", lambda: [])
    yield
    patch.undo()
