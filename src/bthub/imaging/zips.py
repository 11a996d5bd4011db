"""Untrusted zips: any problem with one is raised as a single kind of error."""

import zipfile
from os import PathLike
from typing import IO


def open_zip(file: str | PathLike[str] | IO[bytes]) -> zipfile.ZipFile:
    """A zip whose entries all have names, which `zipfile` takes for granted.

    Raises:
        OSError: the file can't be read.
        zipfile.BadZipFile: anything else.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile):
        raise
    except Exception as error:  # struct.error, ValueError, NotImplementedError, by what is damaged
        raise zipfile.BadZipFile(str(error)) from error
    if not all(entry.filename for entry in archive.infolist()):
        archive.close()
        raise zipfile.BadZipFile("an entry has no name")
    return archive
