"""The files of a download, read the same way from a folder and from a zip that is never unpacked."""

import stat
import sys
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from types import TracebackType

from bthub.errors import BthubError
from bthub.imaging.folders import Tree, is_hidden, left_out, look_below
from bthub.imaging.zips import open_zip

# The files of the supported sets are under 1 MB each; what unpacks to far more is not one of them.
MAX_FILE_BYTES = 64 * 2**20


class Source:
    """Files below a folder or inside a zip, by their posix path relative to it.

    Files that operating systems leave behind (names that start with a dot, ``__MACOSX``, ``Thumbs.db``,
    ``desktop.ini``) are not listed. Links are followed, each once.

    Attributes:
        path: of the source.
        names: the files.
        left_out: why files are not read -> their names; who reads the source adds to it.

    Raises:
        BthubError: the path is missing, is neither a folder nor a zip, holds odd names, or the zip is damaged
            or encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self.left_out: dict[str, list[str]] = {}
        if path.is_dir():
            self._sizes, tree = _folder_files(path)
            self.left_out = {"hidden": tree.hidden, "links to files already included": tree.repeated}
        elif path.is_file():
            self._open_zip()
        else:
            raise BthubError(f"{path}: no such folder or zip; give the path of the data as you downloaded it")
        self.names = sorted(self._sizes)
        # The set's name for its card: the same for the zip and the folder.
        resolved = path.resolve()
        self.title = resolved.name if self._zip is None else resolved.stem

    def _open_zip(self) -> None:
        try:
            self._zip = open_zip(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise BthubError(
                f"{self.path}: neither a folder nor a readable zip ({error}); if it is a zip, download it again"
            ) from error
        try:
            self._members = self._list_members(self._zip)
        except BthubError:
            self._zip.close()
            raise
        self._sizes = {name: (info.file_size, info.CRC) for name, info in self._members.items()}

    def _list_members(self, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        hidden = self.left_out.setdefault("hidden", [])
        for info in archive.infolist():
            # Some Windows tools write backslashes although the format asks for slashes.
            name = PurePosixPath(info.filename.replace("\\", "/"))
            if info.is_dir():
                continue
            if _is_litter(name):
                hidden.append(info.filename)
                continue
            where = f"{self.path}: member {info.filename!r}"
            parts = name.parts or ("",)
            if name.is_absolute() or ".." in parts or ":" in parts[0] or not str(name).isprintable():
                raise BthubError(f"{where} is not a valid file name; download the zip again, and don't change it")
            if info.flag_bits & 0x1:
                raise BthubError(f"{where} is encrypted; unpack the zip with its password and give the folder")
            if str(name) in members:
                raise BthubError(f"{where} is in the zip twice; download the zip again, and don't change it")
            members[str(name)] = info
        return members

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zip is not None:
            self._zip.close()

    def say_what_is_left_out(self) -> None:
        """One line on standard error, that counts and names the files that aren't read; none where all are."""
        if note := left_out(self.left_out):
            print(f"bthub: {self.path}: left out {note}", file=sys.stderr)

    def where(self, name: str) -> str:
        """The path of a file (or of a folder, or of the whole with "") as an error message names it."""
        return str(self.path / name)

    def identity(self, name: str) -> object:
        """What tells two copies of a file apart without reading them: the size, and in a zip the checksum."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """The whole content of a file.

        Raises:
            BthubError: the file cannot be read, or is far too large for an image.
        """
        size = self._sizes[name][0]
        if size > MAX_FILE_BYTES:
            raise BthubError(
                f"{self.where(name)}: {size:,} bytes is too large for an image (at most {MAX_FILE_BYTES:,}); "
                "remove the file or download it again"
            )
        try:
            if self._zip is None:
                return (self.path / name).read_bytes()
            return self._zip.read(self._members[name])
        except Exception as error:
            # Besides OSError and BadZipFile, the decompressors behind zipfile raise types of their own.
            raise BthubError(f"{self.where(name)}: cannot be read ({error}); download it again") from error


def _is_litter(name: PurePosixPath) -> bool:
    return any(is_hidden(part) and part != ".." for part in name.parts)


def _folder_files(root: Path) -> tuple[dict[str, tuple[int]], Tree]:
    """Sizes of all files below a folder, by their path relative to it; and how they were found."""
    sizes: dict[str, tuple[int]] = {}
    tree = look_below(str(root), lambda file: Path(file).suffix != "")
    for error in tree.unreadable:
        raise BthubError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error
    for file in tree.files:
        path = Path(file)
        name = PurePosixPath(path.relative_to(root).as_posix())
        try:
            status = path.stat()
        except OSError as error:
            raise BthubError(f"{path}: cannot be read ({error.strerror}); restore or remove it") from error
        if not stat.S_ISREG(status.st_mode) or not str(name).isprintable():
            raise BthubError(f"{str(path)!r}: not a regular file with a readable name; rename or remove it")
        sizes[str(name)] = (status.st_size,)
    return sizes, tree


def pick_root(source: Source, files_of: dict[str, list[str]], what: str) -> str:
    """The one root to read among folders that each hold a copy of the data.

    Kaggle's zips hold the whole set twice, the second time one level deeper. Copies (the same names and
    sizes) are read once, from the shallowest root.

    Args:
        files_of: for each candidate root its files, all paths relative to the source.
        what: what a root is, for the message.

    Raises:
        BthubError: the roots hold different files, so reading one would lose some.
    """

    def content(root: str) -> Counter[tuple[str, object]]:
        return Counter((str(PurePosixPath(f).relative_to(root)), source.identity(f)) for f in files_of[root])

    first, *others = sorted(files_of, key=lambda root: (len(PurePosixPath(root).parts), root))
    for other in others:
        if content(other) != content(first):
            inside = ""
            if what == "classes" and PurePosixPath(first).parent == PurePosixPath(other).parent:
                inside = (
                    "; or, if these are the classes and the folders in them are patients, move all pictures of a class "
                    "into its folder"
                )
            raise BthubError(
                f"{source.where(first)} and {source.where(other)}: two folders of {what} that differ; "
                f"give the one to read as SOURCE, or remove the other{inside}"
            )
    return first
