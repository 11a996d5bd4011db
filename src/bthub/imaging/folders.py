"""The files below a folder, each once even if several links lead to it, and which are skipped and why."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from bthub.imaging.checks import printable

# What operating systems and file servers leave behind.
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"})
_NAMED = 3


@dataclass
class Tree:
    """What was found below a folder.

    Attributes:
        files: their paths, beginning with the folder's as given, in no order.
        hidden: files and folders, not looked into, that start with a dot or that operating systems leave behind.
        repeated: links to files already included, or to a folder above.
        unreadable: folders that can't be listed.
    """

    files: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no one's data, by its name."""
    return name.startswith(".") or name.lower() in _LITTER


def look_below(folder: str, reads: Callable[[str], bool] | None = None) -> Tree:
    """All files below a folder. Links are followed, each once, and after what lies there itself.

    Args:
        folder: its path.
        reads: whether a file of this path is read, where that depends on its name; by default all are. A link with such
            a name stands for a file without one, as in a cache of the Hub: `snapshots/1/a.png` for `blobs/8f3e`.
    """
    tree = Tree()
    root = os.path.realpath(folder)
    seen: set[str] = set()
    links = [folder]
    file_links: list[str] = []
    while links:
        start = links.pop(0)
        real = os.path.realpath(start)
        if real in seen or (root != real and root.startswith(os.path.join(real, ""))):
            tree.repeated.append(start)
            continue
        found: list[str] = []
        for parent, folders, names in os.walk(start, onerror=tree.unreadable.append):
            parent_real = os.path.realpath(parent)
            if parent_real in seen:  # a link led here before
                folders.clear()
                continue
            seen.add(parent_real)
            tree.hidden += [os.path.join(parent, name) for name in (*folders, *names) if is_hidden(name)]
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for name in [name for name in folders if os.path.islink(os.path.join(parent, name))]:
                folders.remove(name)
                found.append(os.path.join(parent, name))
            for name in (name for name in names if not is_hidden(name)):
                path = os.path.join(parent, name)
                if os.path.islink(path):
                    file_links.append(path)
                else:
                    tree.files.append(path)
        links += found
    found_as = {
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)): path for path in tree.files
    }
    for path in sorted(file_links):
        real = os.path.realpath(path)
        if real not in found_as or (reads is not None and reads(path) and not reads(found_as[real])):
            found_as[real] = path
        else:
            tree.repeated.append(path)
    tree.files = list(found_as.values())
    return tree


def left_out(reasons: dict[str, list[str]]) -> str:
    """What was left out, counted and named: "masks: 4 (a_mask.png, b_mask.png, c_mask.png and 1 more), ..."; or "".

    Args:
        reasons: what the files are, in words -> their paths.
    """
    return ", ".join(f"{reason}: {len(paths)} ({_some(paths)})" for reason, paths in reasons.items() if paths)


def _some(paths: Iterable[str]) -> str:
    names = sorted({printable(PurePath(path).name) for path in paths})
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
