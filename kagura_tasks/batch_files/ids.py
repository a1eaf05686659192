"""Which rows there are, by their `custom_id`, in flat memory."""

from __future__ import annotations

import sqlite3
import weakref
from typing import cast

from kagura_tasks.errors import OutputUnwritable


class SeenIds:
    """The line in which each id was first seen. SQLite moves it to a temporary file where it is large."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        # Rows may be read by another thread than the one that opened their file, and never by two at once.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # Python 3.13 and later warn of one that nobody closes.
        weakref.finalize(self, self._database.close)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID; BEGIN"
        )

    def note(self, custom_id: str, line: int) -> int | None:
        """Remember it; the line in which it was seen before, or None."""
        try:
            added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (custom_id, line))
        except sqlite3.Error as error:
            raise OutputUnwritable(
                f"no room for the ids of the rows in the folder for temporary files: {error}"
            ) from None
        return None if added.rowcount else self.line_of(custom_id)

    def line_of(self, custom_id: str) -> int | None:
        """The line in which it was first seen, or None."""
        found = self._database.execute("SELECT line FROM seen WHERE id = ?", (custom_id,)).fetchone()
        return cast("tuple[int]", found)[0] if found else None

    def __contains__(self, custom_id: str) -> bool:
        return self.line_of(custom_id) is not None

    def close(self) -> None:
        """Forget all of them."""
        self._database.close()
