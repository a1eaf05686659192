"""From what a caller names to files: a folder, or a list of files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from kagura_tasks.errors import FileNotAllowed, FileUnreadable, InvalidRequest, UnsupportedFile
from kagura_tasks.files.documents import FileRef, row_of_error
from kagura_tasks.files.loaders.table import loader_for
from kagura_tasks.files.scanner import NOT_TEXT, Found, is_text, scan, shown

#: A folder, or files: by their paths, or by references of an earlier scan.
Files = str | Path | FileRef | Iterable[str | Path | FileRef]


def files_in(files: Files, pattern: str | None = None, allowed: Sequence[str] | None = None) -> Iterator[Found]:
    """Every file that is named, or found in the folder; what cannot be one is a row.

    Args:
        files: A folder, a file, or a list of files, whose paths are then told relative to the folder that all are in.
        pattern: See `scan`; for a folder alone.
        allowed: See `scan`.

    Raises:
        FileNotAllowed: The folder is in none of the allowed ones.
        FileUnreadable: The folder is none, or cannot be read.
        InvalidRequest: A list and a pattern, or a pattern that matches nothing at all.
    """
    if isinstance(files, str | Path) and not Path(files).is_file():
        found: Iterable[Found] = scan(files, pattern=pattern, allowed=allowed)
    elif pattern is not None:
        raise InvalidRequest("a pattern narrows a folder down: of a list, leave out what you do not want")
    else:
        found = _named([files] if isinstance(files, str | Path | FileRef) else list(files))
    return (_unless_passed_over(one) for one in found)


def _unless_passed_over(found: Found) -> Found:
    """A file of a type that nothing reads is a row: no worker need look at it."""
    if not isinstance(found, FileRef) or not found.media_type:
        return found
    try:
        _ = loader_for(found.path, found.media_type)
    except UnsupportedFile as error:
        return row_of_error(error, found) if error.is_passed_over else found
    return found


def _named(files: Sequence[str | Path | FileRef]) -> Iterator[Found]:
    root = _common_folder(one for one in files if not isinstance(one, FileRef))
    for one in files:
        yield one if isinstance(one, FileRef) else _below(root, str(one))


def _common_folder(files: Iterable[str | Path]) -> str:
    folders = [Path(file).absolute().parent for file in files if not _climbs(file)]
    return os.path.commonpath(folders) if folders else "/"


def _below(root: str, file: str) -> Found:
    """The file, by its name in the folder. Whether a part of that is a link is seen when it is opened."""
    if not is_text(file):
        return row_of_error(FileUnreadable(shown(file), NOT_TEXT))
    try:
        if _climbs(file):
            raise ValueError
        return FileRef(root=os.path.realpath(root), path=Path(file).absolute().relative_to(root).as_posix())
    except ValueError:  # pydantic's is one
        return row_of_error(FileNotAllowed(shown(file), "is no path below its root"))


def _climbs(file: str | Path) -> bool:
    return ".." in PurePath(file).parts
