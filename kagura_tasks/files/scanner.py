"""Which files a folder has. Everything that is found is told of: a file, or a row that says why it is none."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from kagura_tasks.errors import FileError, FileNotAllowed, FileTooLarge, FileUnreadable, InvalidRequest
from kagura_tasks.files.documents import FileRef, FileRow, row_of_error
from kagura_tasks.files.ignoring import (
    IGNORE_FILES,
    MAX_IGNORE_BYTES,
    IgnoreRule,
    IgnoreRules,
    parse_rule,
    parse_rules,
)
from kagura_tasks.files.media_types import HEAD_BYTES, detect
from kagura_tasks.files.opening import explain, kind_of, open_folder, opened_file, opened_root

#: Folders in folders. Each level holds a descriptor open.
MAX_LEVELS: Final = 64

#: Left out everywhere: what git and we keep for ourselves.
_OWN: Final = (".git", *IGNORE_FILES)

#: Why a name cannot travel.
NOT_TEXT: Final = "its name is not UTF-8"

#: A file, or what is told of what is none.
Found = FileRef | FileRow


def scan(root: str | Path, *, pattern: str | None = None, allowed: Sequence[str] | None = None) -> Iterator[Found]:
    """All files below a folder, in the order of their paths; what is left out or cannot be read is a row.

    Links are not followed: what is in the folder is found by its own name. At every level, `.gitignore` and
    `.kaguraignore` are gone by; a folder that is left out is one row.

    Args:
        root: The folder.
        pattern: Only files that this matches, in the form of a line of `.gitignore`: "*.md", "docs/**/*.pdf".
        allowed: The folders of which one has to contain the root; None: any root may be read.

    Raises:
        FileNotAllowed: The root is in none of the allowed folders.
        FileUnreadable: The root is no folder, or cannot be read.
        InvalidRequest: The pattern matches nothing at all.
    """
    place = os.path.realpath(root)
    if not is_text(place):
        raise FileUnreadable(shown(place), NOT_TEXT)
    wanted = None if pattern is None else _rule_of(pattern)
    with opened_root(place, allowed) as folder:
        yield from _Scan(place, folder, wanted).folder(os.dup(folder), (), IgnoreRules())


def _rule_of(pattern: str) -> IgnoreRule:
    rule = parse_rule(pattern, "pattern")
    if rule is None or rule.is_negated:
        raise InvalidRequest(f"pattern {pattern!r} matches no file: take a glob such as '*.md' or 'docs/**/*.pdf'")
    return rule


@dataclass(frozen=True)
class _Scan:
    root: str
    root_folder: int
    wanted: IgnoreRule | None

    def folder(self, folder: int, names: tuple[str, ...], above: IgnoreRules) -> Iterator[Found]:
        """What is in the folder, which is closed at the end."""
        path = "/".join(names) or "."
        try:
            try:
                with os.scandir(folder) as entries:
                    listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
            except OSError as error:
                yield row_of_error(explain(error, path))
                return
            rules = above
            for name in IGNORE_FILES:
                if any(entry.name == name for entry in listed):
                    try:
                        rules = rules.below(len(names), self._rules_in("/".join((*names, name))))
                    except FileError as error:
                        # Without its rules, what was to be left out would go to a model.
                        yield row_of_error(error)
                        return
            for entry in listed:
                yield from self._entry(folder, entry, (*names, entry.name), rules)
        finally:
            os.close(folder)

    def _entry(
        self, folder: int, entry: os.DirEntry[str], names: tuple[str, ...], rules: IgnoreRules
    ) -> Iterator[Found]:
        path = "/".join(names)
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
            is_folder = stat.S_ISDIR(mode)
            if row := self._left_out(names, is_folder, rules):
                yield row
            elif not is_text(entry.name):
                yield row_of_error(FileUnreadable(shown(path), NOT_TEXT))
            elif is_folder and len(names) > MAX_LEVELS:
                yield row_of_error(FileTooLarge(path, len(names), MAX_LEVELS, "levels of folders"))
            elif is_folder:
                yield from self.folder(open_folder(folder, entry.name, path), names, rules)
            elif stat.S_ISLNK(mode):
                yield self._link(names)
            elif not stat.S_ISREG(mode):
                yield row_of_error(FileNotAllowed(path, f"is {kind_of(mode)}, no regular file"))
            else:
                yield self._file(path)
        except OSError as error:
            yield row_of_error(explain(error, shown(path)))
        except FileError as error:
            yield row_of_error(error)

    def _left_out(self, names: tuple[str, ...], is_folder: bool, rules: IgnoreRules) -> FileRow | None:
        """The row of what a rule leaves out."""
        if names[-1] in _OWN:
            why = f"{names[-1]} is left out everywhere"
        elif rule := rules.rule_for(names, is_folder):
            why = f"{rule.source}: {rule.line}"
        elif self.wanted is not None and not is_folder and not self.wanted.matches(names, is_folder):
            why = f"pattern: {self.wanted.line}"
        else:
            return None
        return FileRow(path=shown("/".join(names)) + "/" * is_folder, status="skipped", reason=shown(why))

    def _file(self, path: str) -> Found:
        with opened_file(self.root_folder, path) as file:
            found = detect(path, os.pread(file, HEAD_BYTES, 0))
            size_bytes = os.fstat(file).st_size
        return FileRef(root=self.root, path=path, size_bytes=size_bytes, media_type=found.media_type)

    def _link(self, names: tuple[str, ...]) -> FileRow:
        path = "/".join(names)
        target = os.path.realpath(os.path.join(self.root, *names))  # noqa: PTH118 (a loop makes Path.resolve raise)
        if not PurePosixPath(target).is_relative_to(self.root):
            return row_of_error(FileNotAllowed(path, "is a link that leads out of the folder"))
        if not os.path.lexists(target) or Path(target).is_symlink():
            return row_of_error(FileUnreadable(path, "is a link that leads nowhere"))
        return FileRow(path=path, status="skipped", reason="a link into the folder: what it leads to has its own row")

    def _rules_in(self, path: str) -> list[IgnoreRule]:
        with opened_file(self.root_folder, path) as file:
            text = os.pread(file, MAX_IGNORE_BYTES + 1, 0)
        if len(text) > MAX_IGNORE_BYTES:
            raise FileTooLarge(path, len(text), MAX_IGNORE_BYTES, "bytes or more of rules")
        return parse_rules(text.decode("utf-8-sig", "surrogateescape"), path)


def is_text(name: str) -> bool:
    """The name can travel: it is UTF-8."""
    with suppress(UnicodeEncodeError):
        return bool(name.encode())
    return False


def shown(path: str) -> str:
    """The path as text that can be written anywhere: bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode()
