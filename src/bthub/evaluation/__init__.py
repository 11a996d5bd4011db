"""Measure a run on a split, and compare runs."""
