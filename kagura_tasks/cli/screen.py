"""What a command prints: for people, or one JSON document for machines. Readable in a terminal, a log and a pipe."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

#: Characters in a line that holds a row of most tables; and more than any table has.
_WIDE: Final = 150
_NO_LIMIT: Final = 10_000


class Screen:
    """Standard output for results, standard error for everything that is over when the command is."""

    def __init__(self, as_json: bool = False) -> None:
        """Choose whom to print for."""
        self.as_json = as_json
        self.notes = Console(stderr=True, highlight=False, markup=False)
        self._out = Console(highlight=False, markup=False)

    @property
    def width(self) -> int:
        """Characters in a line that is comfortable to read."""
        return min(self._out.width, 100)

    @property
    def is_narrow(self) -> bool:
        """A terminal in which a wide table has to be broken."""
        return self._out.is_terminal and self._out.width < _WIDE

    def say(self, what: RenderableType = "", style: str | None = None) -> None:
        """A result for people; nothing where a machine reads. A text is never wrapped: it may be there to be copied."""
        if not self.as_json:
            self._out.print(what, style=style, soft_wrap=isinstance(what, str | Text))

    def line(self, text: Text) -> None:
        """A line for people, cut where the terminal ends."""
        if not self.as_json:
            self._out.print(text, no_wrap=True, overflow="ellipsis")

    def table(self, table: Table) -> None:
        """A table for people; in a log or a pipe it is as wide as it needs, so that a line holds a row."""
        if not self._out.is_terminal:
            anything = self._out.options.update(width=_NO_LIMIT)
            self._out.width = max(self._out.width, self._out.measure(table, options=anything).maximum)
        self.say(table)

    def title(self, text: str) -> None:
        """What comes next, for people."""
        self.say()
        self.say(text, style="bold")

    def document(self, fields: dict[str, object]) -> None:
        """The result for machines; nothing where a person reads."""
        if self.as_json:
            text = json.dumps(fields, ensure_ascii=False, indent=2)
            # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, is written as its escape.
            print(text if _is_utf8(text) else json.dumps(fields, indent=2), flush=True)

    def note(self, text: str) -> None:
        """A line on standard error."""
        self.notes.print(text, soft_wrap=True)

    @property
    def is_live(self) -> bool:
        """Somebody watches, so that something may move."""
        return self.notes.is_terminal and not self.notes.is_dumb_terminal

    @contextmanager
    def waiting(self, for_what: str, *, in_a_log: bool = True) -> Generator[None]:
        """A spinner while the block runs; where nobody watches, a line for the log."""
        if self.is_live:
            with self.notes.status(Text(for_what)):
                yield
        else:
            if in_a_log:
                self.note(f"{for_what} ...")
            yield

    @contextmanager
    def counting(self, what: str, total: int) -> Generator[Callable[[], None]]:
        """A progress bar, and what moves it on; in a log, one line."""
        if not self.is_live:
            self.note(f"{what} ...")
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self.notes, transient=True) as progress:
            bar = progress.add_task(what, total=total)
            yield lambda: progress.advance(bar)


def printable(text: str) -> str:
    """The text without what would steer a terminal, or has no bytes: a model's answer may hold anything."""
    return "".join(sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs")
                   else "\N{REPLACEMENT CHARACTER}" for sign in text)  # fmt: skip


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
