"""A cache in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from kagura_tasks.cache.backend import CacheEntry, CacheStats, Selection, usage_of
from kagura_tasks.forks import ProcessLock, watch_forks

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    tenant TEXT, key TEXT, value BLOB NOT NULL, expires_at REAL NOT NULL, used_at REAL NOT NULL,
    PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_use ON entries (used_at);
CREATE TABLE IF NOT EXISTS tags (
    tenant TEXT, key TEXT, tag TEXT, PRIMARY KEY (tenant, tag, key),
    FOREIGN KEY (tenant, key) REFERENCES entries ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (tenant TEXT, name TEXT, value REAL NOT NULL, PRIMARY KEY (tenant, name));
"""
_COUNT: Final = """
INSERT INTO counters VALUES (?, ?, ?) ON CONFLICT (tenant, name) DO UPDATE SET value = value + excluded.value
"""


#: Connections of this process's parent, kept so that nobody closes them.
_inherited: Final[list[sqlite3.Connection]] = []


def default_path() -> Path:
    """Where the file is by default: the user's own cache folder."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "kagura_tasks" / "cache.sqlite3"


def _prefer_wal(connection: sqlite3.Connection) -> None:
    """Let readers and a writer at the file at once.

    The mode belongs to the file. SQLite does not wait for this switch, whatever the timeout, so whoever finds the
    file busy leaves the switch to a later process and works in the mode that there is.
    """
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")


class DiskBackend:
    """At most `max_size` entries in a file that only its owner can read; least recently used entries go first."""

    name = "disk"

    def __init__(self, path: Path | None = None, max_size: int = 1000, clock: Callable[[], float] = time.time) -> None:
        """Take the file, the number of entries to keep, and the clock that expiry is measured by (Unix s)."""
        self._path = path or default_path()
        self._max_size = max_size
        self._clock = clock
        self._lock = ProcessLock()
        self._connection: sqlite3.Connection | None = None
        watch_forks(self)

    def lookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend."""
        now = self._clock()
        with self._lock, self._open() as database:
            row = cast(
                "tuple[bytes] | None",
                database.execute(
                    "UPDATE entries SET used_at = ? WHERE tenant = ? AND key = ? AND expires_at > ? RETURNING value",
                    (now, tenant, key, now),
                ).fetchone(),
            )
            if row is None:
                database.execute(_COUNT, (tenant, "misses", 1))
                return None
            tokens, usd = usage_of(row[0])
            counted = [("hits", 1), ("tokens_saved", tokens), ("usd_saved", usd)]
            database.executemany(_COUNT, [(tenant, name, by) for name, by in counted])
            return row[0]

    async def alookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend."""
        return await asyncio.to_thread(self.lookup, tenant, key)

    async def store(self, entry: CacheEntry) -> None:
        """See CacheBackend."""
        await asyncio.to_thread(self._store, entry)

    async def discard(self, tenant: str, key: str) -> None:
        """See CacheBackend."""
        await asyncio.to_thread(self._discard, tenant, key)

    async def invalidate(self, selection: Selection) -> int:
        """See CacheBackend."""
        return await asyncio.to_thread(self._invalidate, selection)

    async def stats(self, tenant: str | None = None) -> CacheStats:
        """See CacheBackend."""
        return await asyncio.to_thread(self._stats, tenant)

    async def close(self) -> None:
        """See CacheBackend."""
        with self._lock:
            if self._connection is not None:
                _ = self._closing()
                self._connection = None

    def on_fork(self) -> None:
        """See Inherited: SQLite lets a child neither use nor close its parent's connections.

        See https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_
        """
        if self._connection is not None:
            _inherited.append(self._connection)
            _ = self._closing.detach()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        """The connection; as a context manager it is one transaction."""
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            _prefer_wal(connection)
            connection.executescript("PRAGMA synchronous = NORMAL;" + _SCHEMA)
            connection.execute("PRAGMA foreign_keys = ON")
            # Python 3.13 and later warn of one that nobody closes.
            self._closing = weakref.finalize(self, connection.close)
            self._connection = connection
        return self._connection

    def _store(self, entry: CacheEntry) -> None:
        value, now = entry.encode(), self._clock()
        with self._lock, self._open() as database:
            database.execute("DELETE FROM entries WHERE tenant = ? AND key = ?", (entry.tenant, entry.key))
            database.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (entry.tenant, entry.key, value, now + entry.ttl, now)
            )
            database.executemany(
                "INSERT INTO tags VALUES (?, ?, ?)", [(entry.tenant, entry.key, t) for t in entry.tags]
            )
            database.execute("DELETE FROM entries WHERE expires_at <= ?", (now,))
            database.execute(
                "DELETE FROM entries WHERE (tenant, key) IN "
                "(SELECT tenant, key FROM entries ORDER BY used_at DESC LIMIT -1 OFFSET ?)",
                (self._max_size,),
            )

    def _discard(self, tenant: str, key: str) -> None:
        with self._lock, self._open() as database:
            database.execute("DELETE FROM entries WHERE tenant = ? AND key = ?", (tenant, key))
            counted = [("corrupt", 1), ("misses", 1), ("hits", -1)]
            database.executemany(_COUNT, [(tenant, name, by) for name, by in counted])

    def _invalidate(self, selection: Selection) -> int:
        with self._lock, self._open() as database:
            rows = cast(
                "list[tuple[str, str]]",
                database.execute(
                    "SELECT tenant, key FROM entries WHERE expires_at > :now AND (:tenant IS NULL OR tenant = :tenant)"
                    " AND (:tag IS NULL OR EXISTS (SELECT 1 FROM tags WHERE tags.tenant = entries.tenant"
                    " AND tags.key = entries.key AND tag = :tag))",
                    {"now": self._clock(), "tenant": selection.tenant, "tag": selection.tag},
                ).fetchall(),
            )
            doomed = [row for row in rows if selection.covers_key(row[1])]
            database.executemany("DELETE FROM entries WHERE tenant = ? AND key = ?", doomed)
            return len(doomed)

    def _stats(self, tenant: str | None) -> CacheStats:
        only = {"tenant": tenant, "now": self._clock()}
        with self._lock, self._open() as database:
            counted = cast(
                "list[tuple[str, float]]",
                database.execute(
                    "SELECT name, sum(value) FROM counters WHERE :tenant IS NULL OR tenant = :tenant GROUP BY name",
                    only,
                ).fetchall(),
            )
            (size,) = cast(
                "tuple[int]",
                database.execute(
                    "SELECT count(*) FROM entries WHERE expires_at > :now AND (:tenant IS NULL OR tenant = :tenant)",
                    only,
                ).fetchone(),
            )
        found = dict(counted)
        usd_saved = found.pop("usd_saved", 0.0)
        return CacheStats(**{name: int(value) for name, value in found.items()}, size=size, usd_saved=usd_saved)
