"""Run folders, which are Hub repos: written by training, read by everything after it."""
