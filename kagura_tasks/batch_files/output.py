"""A file of answers: whole lines, each `custom_id` once, whatever happens to the process or to the disk."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from kagura_tasks.batch_files.answers import format_of_answer, is_failure
from kagura_tasks.batch_files.ids import SeenIds
from kagura_tasks.batch_files.lines import finished_lines, line_of
from kagura_tasks.batch_files.rows import RowFormat
from kagura_tasks.errors import InvalidRequest, OutputUnwritable
from kagura_tasks.schemas import Json

#: What to do with a file that exists: refuse it, go on with it, go on but for the rows that failed, empty it.
Existing = Literal["refuse", "resume", "retry", "overwrite"]

_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class OutputFile:
    """Answers, appended a whole line at a time, by one process at a time. A row that is there is not written again.

    Attributes:
        path: Where it is.
        format: The form of the rows that were there; None where there were none.
        answered: Rows that are in it and have an answer.
        failed: Rows that are in it and say why there is none.
    """

    def __init__(self, path: Path, existing: Existing = "refuse") -> None:
        """Open it, or create it. A line that a killed process left unfinished is cut off.

        Raises:
            InvalidRequest: It exists and is to be refused, or holds something else than answers.
            OutputUnwritable: It cannot be opened, or another process writes it.
        """
        self.path = path.resolve()
        self.format: RowFormat | None = None
        self.answered = self.failed = 0
        self._seen = SeenIds()
        with self._os_errors():
            self._is_new = not self.path.exists()
            self._fd = os.open(self.path, _APPEND, 0o666)
        try:
            self._open(existing)
        except BaseException:
            os.close(self._fd)
            raise

    def __contains__(self, custom_id: str) -> bool:
        return custom_id in self._seen

    def write(self, custom_id: str, row: Json) -> bool:
        """Append the row, unless there is one of this id; whether it was. Raises OutputUnwritable."""
        if custom_id in self._seen:
            return False
        self._append(line_of(row))
        self._note(custom_id, row)
        return True

    def clear(self) -> None:
        """Drop all rows. Raises OutputUnwritable."""
        with self._os_errors():
            if self._is_regular:
                os.ftruncate(self._fd, 0)
        self._size = self.answered = self.failed = 0
        self._seen = SeenIds()
        self.format = None

    def close(self) -> None:
        """Have all of it on the disk. A file that was created in vain is removed. Raises OutputUnwritable."""
        try:
            with self._os_errors():
                if self._is_regular:
                    os.fsync(self._fd)
                if self._is_regular and self._is_new and not self._size:
                    self.path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)
            self._seen.close()

    def _open(self, existing: Existing) -> None:
        with self._os_errors():
            status = os.fstat(self._fd)
            self._is_regular = stat.S_ISREG(status.st_mode)
            self._size = status.st_size if self._is_regular else 0
            if self._is_regular:
                self._lock(self._fd)
                # Whoever had the lock may have put another file in its place meanwhile.
                if not os.path.samestat(status, self.path.stat()):
                    raise self._busy()
        if self._size and existing == "refuse":
            raise output_exists(self.path)
        if self._size and existing in ("resume", "retry"):
            self._take_up(without_failures=existing == "retry")

    def _lock(self, descriptor: int) -> None:
        """Two processes would write rows twice. Where the file system knows no locks, nobody is kept out."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._busy() from None
        except OSError:
            return

    def _take_up(self, *, without_failures: bool) -> None:
        """Note the rows that are there, and cut off what is behind them."""
        with self._os_errors():
            rows = self._rows()
            if without_failures:
                self._rewrite(line for line, row in rows if not is_failure(row))
                rows = self._rows()
            end = 0
            for number, (line, row) in enumerate(rows, start=1):
                self._note(_id_in(row, self.path, number), row)
                self.format = self.format or format_of_answer(row)
                end += len(line)
            os.ftruncate(self._fd, end)
            self._size = end
            self._end_last_line()

    def _rows(self) -> Iterator[tuple[bytes, Json]]:
        with open(os.dup(self._fd), "rb") as file:  # noqa: PTH123 (a descriptor has no path)
            file.seek(0)
            yield from finished_lines(file, _cannot_be_resumed(self.path))

    def _end_last_line(self) -> None:
        """A whole row may lack its line's end, where just that was not written any more."""
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._append(b"\n")

    def _rewrite(self, lines: Iterator[bytes]) -> None:
        """Put a file with these lines in this one's place, in one step."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        descriptor = os.open(beside, _APPEND | os.O_EXCL, 0o600)
        try:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(self._fd).st_mode))
            with open(os.dup(descriptor), "wb") as file:  # noqa: PTH123 (as above)
                file.writelines(line if line.endswith(b"\n") else line + b"\n" for line in lines)
            os.fsync(descriptor)
            self._lock(descriptor)
            beside.replace(self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(self._fd)
        self._fd = descriptor

    def _append(self, line: bytes) -> None:
        try:
            with self._os_errors():
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except BaseException:  # also Ctrl-C: half a line is worth nothing
            with suppress(OSError):
                if self._is_regular:
                    os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def _note(self, custom_id: str, row: Json) -> None:
        if self._seen.note(custom_id, 0) is not None:
            raise InvalidRequest(f"{_cannot_be_resumed(self.path)}: it has a custom_id twice")
        if is_failure(row):
            self.failed += 1
        else:
            self.answered += 1

    def _busy(self) -> OutputUnwritable:
        return OutputUnwritable(f"cannot write {self.path}: another process is writing it")

    @contextmanager
    def _os_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise OutputUnwritable(f"cannot write {self.path}: {error.strerror or type(error).__name__}") from None


def output_exists(path: Path) -> InvalidRequest:
    """The refusal of a file that somebody may need."""
    return InvalidRequest(f"{path} exists: --resume goes on with it, --overwrite replaces it")


def ids_in(path: Path, *, without_failures: bool) -> SeenIds:
    """The rows that are in a file of answers, which is only read. Raises what opening it to resume it would raise."""
    seen = SeenIds()
    with path.open("rb") as file:
        for number, (_, row) in enumerate(finished_lines(file, _cannot_be_resumed(path)), start=1):
            if not (without_failures and is_failure(row)):
                _ = seen.note(_id_in(row, path, number), number)
    return seen


def _id_in(row: Json, path: Path, number: int) -> str:
    name = row.get("custom_id")
    if not isinstance(name, str):
        raise InvalidRequest(f"{_cannot_be_resumed(path)}: line {number} is no row of answers")
    return name


def _cannot_be_resumed(path: Path) -> str:
    return f"{path} cannot be resumed"
