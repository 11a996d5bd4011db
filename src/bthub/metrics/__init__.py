"""Metrics: pure functions on arrays, with bootstrap intervals over patients."""
