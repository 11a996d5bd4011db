"""What data sets call the class without a tumor."""

import re


def is_healthy(label: str) -> bool:
    """Whether a class is the one without a tumor, by the names that data sets give it."""
    return re.sub("[^a-z]", "", label.lower()) in ("notumor", "notumour", "no", "healthy", "normal", "negative")
