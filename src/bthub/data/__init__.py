"""Data sets: from a download to Parquet (`build`), what is in it (`summary`), its splits (`splits`)."""
