"""The one exception that users are meant to read."""


class BthubError(Exception):
    """A problem the user can mend. Its text is one sentence or two: what is wrong, where, and the mend."""
