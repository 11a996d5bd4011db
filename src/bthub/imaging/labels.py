"""Names that data sets give to the class without a tumor, and which class of a detector means tumor."""

import re
from collections.abc import Sequence

from bthub.errors import BthubError


def is_healthy(label: str) -> bool:
    """Whether a class is the one without a tumor, by the names that data sets give it."""
    return re.sub("[^a-z]", "", label.lower()) in ("notumor", "notumour", "no", "healthy", "normal", "negative")


def tumor_index(labels: Sequence[str]) -> int:
    """The place of the class that means tumor, for a model that tells tumor from no tumor.

    Raises:
        BthubError: the model knows other classes.
    """
    if "tumor" not in labels:
        raise BthubError(f'this classifier has the labels {", ".join(labels)}; a detector needs the label "tumor"')
    return labels.index("tumor")
