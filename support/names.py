"""What a path means: whether two paths name one file, and by which of its names a file goes.

    from egodistill.support.names import Names, is_same

    is_same("day1/cam.mp4", "./day1/cam.mp4")       # True; also of links, and of another case where the disk ignores it
    name = Names(["day1/cam.mp4"])
    name("./day1/cam.mp4")                          # 'day1/cam.mp4', the first of its names

There are three cases:

- The file exists: it is known by device and inode, and where a file system has none, by its real path.
- It is gone: it is known by its absolute path, without "." and "..".
- A store or run was moved together with the recordings: `Place` finds a file by where it lies relative to them.

A copy is another file. No other module compares paths of recordings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import PurePath
from typing import NamedTuple

__all__ = ["Names", "Place", "absolute_path", "identity", "is_same", "name_files", "portable", "real_path"]


def absolute_path(path: str | os.PathLike) -> str:
    """Return a path from the root on, without "." and ".."; links in it stay."""
    return os.path.abspath(path)


def real_path(path: str | os.PathLike) -> str:
    """Return the absolute path of what a path leads to, without links."""
    return os.path.realpath(path)


def identity(path: str | os.PathLike) -> Hashable:
    """Return a value that two paths share if, and only if, they name one file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "gone", os.path.normcase(absolute_path(path))
    return (found.st_dev, found.st_ino) if found.st_ino else ("real", os.path.normcase(real_path(path)))


def is_same(path: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Return whether two paths name one file."""
    return path == other or identity(path) == identity(other)


def shortest_unique_suffixes(paths: Iterable[str]) -> dict[str, str]:
    """Return {path: as much of its end as no other of the paths has}, with "/": the file name of most.

    >>> from egodistill.support import names
    >>> sorted(names.shortest_unique_suffixes(["a/day1/cam.mp4", "a/day2/cam.mp4", "a/walk.mp4"]).values())
    ['day1/cam.mp4', 'day2/cam.mp4', 'walk.mp4']
    """
    parts = {path: PurePath(absolute_path(path)).parts for path in paths}
    found: dict[str, str] = {}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {path: "/".join(parts[path][-length:]) for path in parts.keys() - found.keys()}
        counts = Counter(names.values())
        found |= {path: name for path, name in names.items() if counts[name] == 1}
    return found


def name_files(source: str | Iterable[str]) -> str:
    """Return the file of an IMU, or both, as text."""
    return source if isinstance(source, str) else " and ".join(source)


def portable(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """Return a path as it stays when a folder is moved: relative to it, with "/", if it is inside; else absolute.

    >>> from egodistill.support import names
    >>> names.portable("./films/../films/walk.mp4", "films"), names.portable("/data/walk.mp4", "films")
    ('walk.mp4', '/data/walk.mp4')
    """
    whole, home = PurePath(absolute_path(path)), absolute_path(folder)
    return (whole.relative_to(home) if whole.is_relative_to(home) else whole).as_posix()


class Place(NamedTuple):
    """Where a store or run was when it wrote down paths."""

    cwd: str  # the working folder, to which its paths are relative
    home: str  # the store or run itself

    @classmethod
    def of(cls, home: str | os.PathLike) -> Place:
        """Return the place of a store or run here and now."""
        return cls(os.getcwd(), absolute_path(home))

    def find(self, path: str, home: str | os.PathLike) -> str:
        """Return a path by which a file can be opened that was written down as `path`; `home` is the present one."""
        now, whole = self.of(home), os.path.join(self.cwd, path)
        if now == self:
            return path
        if now.home != self.home:  # first, since a copy may have stayed where it was
            moved = os.path.normpath(os.path.join(now.home, os.path.relpath(whole, self.home)))
            if os.path.exists(moved) and not (os.path.exists(whole) and size(whole) != size(moved)):
                return moved
        return path if is_same(path, whole) or not os.path.exists(whole) else whole


def size(path: str) -> int:
    """Return the size of a file; 0 of a folder."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


class Names:
    """The first name of each file, of paths in the order in which they count.

    >>> from egodistill.support.names import Names
    >>> name = Names(["walk.mp4"])
    >>> name("./walk.mp4"), name("walk.csv"), name.find("gone.mp4")
    ('walk.mp4', 'walk.csv', None)
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self.first: dict[Hashable, str] = {}
        self._known: dict[str, str] = {}
        for path in paths:
            self(path)

    def __call__(self, path: str) -> str:
        """Return the first name of a file; a path of another file becomes its first name."""
        if path not in self._known:
            self._known[path] = self.first.setdefault(identity(path), path)
        return self._known[path]

    def find(self, path: str) -> str | None:
        """Return the first name of a file; None if it has none yet."""
        return self.first.get(identity(path))
