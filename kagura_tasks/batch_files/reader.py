"""A file of rows, checked while it is read: once, from the beginning to its end, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO, Final

from kagura_tasks.batch_files.ids import SeenIds
from kagura_tasks.batch_files.lines import check_characters, numbered_lines, object_in
from kagura_tasks.batch_files.rows import RowFormat, RowOptions
from kagura_tasks.errors import InvalidRequest, RowsInvalid
from kagura_tasks.groups import MapItem
from kagura_tasks.schemas import Json

#: Problems that are told; of all others only their number.
_TOLD: Final = 10

#: A character of a prompt has up to six bytes in JSON, and there is more in a row than the prompt.
_LINE_TO_PROMPT: Final = 8


class RowReader:
    """The items of a file. Iterate it once; it raises RowsInvalid at the end of a file that has invalid rows.

    No item is given after an invalid row, unless invalid rows are skipped: all that is left is checked.

    Attributes:
        format: How the rows are written; None before the first valid one was read.
        given: Items that were given.
        answered: Rows that were left out because they have an answer.
        invalid: Rows that cannot be sent.
        is_read: All of the file was read.
        problems: Why, a line each, for the first of them.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        options: RowOptions,
        *,
        skip_invalid: bool = False,
        is_answered: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Take the file, what to call it, and who knows which rows, by their `custom_id`, have an answer."""
        self.format: RowFormat | None = None
        self.given = self.answered = self.invalid = 0
        self.problems: list[str] = []
        self.is_read = False
        self._file = file
        self._name = name
        self._options = options
        self._skip_invalid = skip_invalid
        self._is_answered = is_answered
        self._seen = SeenIds()
        self._items = self._read()

    def begin(self) -> bool:
        """Read the first item, so that `format` is known; whether there is one. Raises RowsInvalid."""
        first = next(self._items, None)
        if first is None:
            return False
        self._items = chain([first], self._items)
        return True

    def __iter__(self) -> Iterator[MapItem]:
        """The items, in the file's order."""
        return self._items

    def check(self) -> None:
        """Raises RowsInvalid if any row that was read is invalid."""
        more = self.invalid - len(self.problems)
        told = [*self.problems, *([f"and {more:,} more"] if more else [])]
        if self.invalid:
            raise RowsInvalid(self._name, self.invalid, "\n".join(told))

    def _read(self) -> Iterator[MapItem]:
        for line, text in numbered_lines(self._file, self._options.settings.max_prompt_bytes * _LINE_TO_PROMPT):
            item = self._checked(text, line)
            if item is None or (self.invalid and not self._skip_invalid):
                continue
            if self._is_answered(item.custom_id):
                self.answered += 1
                continue
            self.given += 1
            yield item
        self._seen.close()
        self.is_read = True
        if not self._skip_invalid:
            self.check()

    def _checked(self, text: bytes | None, line: int) -> MapItem | None:
        """The row's item; None where it has none, which is noted."""
        try:
            row = object_in(text)
            check_characters(row)
            item = self._options.item(row, line)
            self._check_format(row)
            self._check_name(item.custom_id, line)
        except InvalidRequest as error:
            self.invalid += 1
            if len(self.problems) < _TOLD:
                self.problems.append(f"line {line}: {error}")
            return None
        return item

    def _check_format(self, row: Json) -> None:
        found = self._options.format_of(row)
        if self.format not in (None, found):
            raise InvalidRequest("is in another form than the rows before it: one has `body`, the other has not")
        self.format = found

    def _check_name(self, custom_id: str, line: int) -> None:
        before = self._seen.note(custom_id, line)
        if before is not None:
            raise InvalidRequest(f"has the custom_id of line {before}")
