"""From a picture to a result: the two-stage pipeline and what loads it."""
