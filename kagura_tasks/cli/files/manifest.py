"""The lines about files: read of an earlier run, and written as each file ends."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kagura_tasks.batch_files.ids import SeenIds
from kagura_tasks.batch_files.lines import finished_lines
from kagura_tasks.cli.inputs import opened
from kagura_tasks.cli.screen import printable
from kagura_tasks.errors import InvalidRequest
from kagura_tasks.files.documents import FileRef
from kagura_tasks.schemas import Json

if TYPE_CHECKING:
    from kagura_tasks.batch_files.output import OutputFile
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.file_results import FileOutcome


class Lines:
    """What became of the files: a line each in a file; without one, on the screen, or in the document at the end.

    Attributes:
        counts: Files by what became of them.
        told: The lines for the document at the end.
    """

    def __init__(self, output: OutputFile | None, screen: Screen, *, prints: bool) -> None:
        """Take the file, opened, or None, and whether answers are printed."""
        self.counts: Counter[str] = Counter()
        self.told: list[Json] = []
        self._output = output
        self._screen = screen
        self._prints = prints
        self._seen = SeenIds()

    def keep(self, lines: Iterator[Json]) -> None:
        """Write lines of an earlier run. What failed and cannot be tried again has failed still. No other counts."""
        for line in lines:
            self.counts["failed"] += line["status"] == "failed"
            if self._output is not None:
                _ = self._output.write(str(line["path"]), line)

    def write(self, outcome: FileOutcome) -> None:
        """Tell what became of a file, once. Raises OutputUnwritable."""
        if self._seen.note(outcome.path, 0) is not None:
            return
        if self._output is not None:
            _ = self._output.write(outcome.path, outcome.to_json())
        else:
            self._tell(outcome)
        self.counts[outcome.row.status] += 1

    def close(self) -> None:
        """Forget which files there were."""
        self._seen.close()

    def _tell(self, outcome: FileOutcome) -> None:
        if self._screen.as_json:
            self.told.append(outcome.to_json())
        if outcome.row.status == "failed":
            self._screen.note(_in_one_line(f"failed: {outcome.path}: {outcome.row.reason}"))
        elif self._prints and outcome.completion is not None:
            self._screen.title(_in_one_line(outcome.path))
            self._screen.say(printable(outcome.completion.text))


def lines_in(manifest: str) -> Iterator[Json]:
    """The lines of an earlier run, but for one that was never finished. Raises InvalidRequest."""
    wrong = f"{manifest} is no manifest"
    with opened(manifest) as file:
        for number, (_, row) in enumerate(finished_lines(file, wrong), start=1):
            if not (isinstance(row.get("path"), str) and isinstance(row.get("status"), str)):
                raise InvalidRequest(f"{wrong}: line {number} has no path and status")
            yield row


def failed_file(line: Json, folder: str) -> FileRef | None:
    """The file of a line that says that it failed, by its name in the folder; None for a line that stays as it is."""
    if line["status"] != "failed":
        return None
    named = Path(os.path.realpath(folder))
    root, path = named.parent if named.is_file() else named, str(line["path"])
    if _is_folder(root / path):
        return None
    try:
        return FileRef(root=str(root), path=path, size_bytes=_size_bytes(root / path))
    except ValidationError:  # such as a path that leads out of the folder: no other try makes it right
        return None


def _in_one_line(text: str) -> str:
    """A file's name may hold anything."""
    return printable(text).replace("\n", " ")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # ValueError: a zero in its name
        return False


def _size_bytes(file: Path) -> int:
    """Its size now; whoever opens it says what is wrong with it."""
    try:
        return file.lstat().st_size
    except (OSError, ValueError):
        return 0
