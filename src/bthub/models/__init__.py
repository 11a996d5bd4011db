"""Models, and how they are saved to and loaded from a run folder."""
