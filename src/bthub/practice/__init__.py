"""The practice: accounts, cases and reports around the pipeline, served on this machine."""
