"""Data sets: from a download to Parquet (`build`), what is in it (`summary`), its splits (`splits`)."""

__all__ = ["load_split"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # When it is first used: `datasets` takes a second to import, and reading split tables must not wait for it.
    from bthub.data.dataset import load_split

    return load_split
