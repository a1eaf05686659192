"""Opening files of a folder, and no others: whatever links say, and whatever changes between two looks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Final

from kagura_tasks.errors import FileNotAllowed, FileUnreadable

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Without O_NONBLOCK, opening a pipe that took a file's place would wait for somebody to write into it.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_IN_WORDS: Final = {
    errno.ENOENT: "is not there, or not any more",
    errno.EACCES: "this process may not read it",
    errno.EPERM: "this process may not read it",
    errno.ENAMETOOLONG: "its name is too long",
}

_KINDS: Final = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def opened_root(root: str, allowed: Sequence[str] | None) -> Generator[int]:
    """A descriptor of the folder, walked to from an allowed root without following a link on the way.

    Args:
        root: An absolute path, with links resolved.
        allowed: The folders of which one has to be this or contain it; None where the caller may read anything.

    Raises:
        FileNotAllowed: It is in none of these.
        FileUnreadable: It is no folder, or cannot be read.
    """
    start, names = (root, ()) if allowed is None else _below_one_of(allowed, root)
    if not Path(root).is_dir():
        raise FileUnreadable(root, "there is no such folder")
    with _explained(root):
        folder = os.open(start, _FOLDER & ~os.O_NOFOLLOW)
    try:
        for name in names:
            folder = _step(folder, name, root)
        yield folder
    finally:
        os.close(folder)


@contextmanager
def opened_file(root: int, path: str) -> Generator[int]:
    """A descriptor of the regular file at `path` below the folder `root`.

    Raises:
        FileNotAllowed: The path leads out, a part of it is a link, or it is no regular file. A device is never opened.
        FileUnreadable: It is not there, or this process may not read it.
    """
    *folders, name = _names(path)
    folder = os.dup(root)
    try:
        for one in folders:
            folder = _step(folder, one, path)
        with _explained(path):
            require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), path)
            file = os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        # Once more: what was looked at may have been replaced before it was opened.
        require_regular(os.fstat(file), path)
        yield file
    finally:
        os.close(file)


def open_folder(folder: int, name: str, path: str) -> int:
    """A descriptor of the folder `name` in `folder`. Raises as `opened_file`; `path` is what errors call it."""
    with _explained(path):
        return os.open(name, _FOLDER, dir_fd=folder)


def require_regular(found: os.stat_result, path: str) -> None:
    """Raise FileNotAllowed for what is no regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise FileNotAllowed(path, f"is {kind_of(found.st_mode)}, no regular file")


def kind_of(mode: int) -> str:
    """What stands there instead of a file, in words."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")


def explain(error: OSError, path: str) -> FileNotAllowed | FileUnreadable:
    """The operating system's error as one of ours."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return FileNotAllowed(path, "a part of its path is a link, or no folder")
    return FileUnreadable(path, _IN_WORDS.get(error.errno or 0, os.strerror(error.errno or errno.EIO)))


@contextmanager
def _explained(path: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, path) from None


def _step(folder: int, name: str, path: str) -> int:
    """The folder `name` in `folder`, which is closed."""
    below = open_folder(folder, name, path)
    os.close(folder)
    return below


def _names(path: str) -> list[str]:
    names = path.split("/")
    if path.startswith("/") or "\0" in path or {"", ".", ".."} & {*names}:
        raise FileNotAllowed(path, "is no path below its root")
    return names


def _below_one_of(allowed: Sequence[str], root: str) -> tuple[str, tuple[str, ...]]:
    """The allowed root that contains `root`, and the names on the way down."""
    if ".." not in PurePath(root).parts:
        for one in allowed:
            start = Path(one).resolve()
            if PurePath(root).is_relative_to(start):
                return str(start), PurePath(root).relative_to(start).parts
    raise FileNotAllowed(root, "is not below one of KAGURA_TASKS_FILE_ROOTS")
