"""A cache in this process: least recently used entries go first."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kagura_tasks.cache.backend import CacheEntry, CacheStats, Selection, usage_of
from kagura_tasks.forks import ProcessLock


@dataclass(frozen=True)
class _Kept:
    value: bytes
    expires_at: float
    tags: tuple[str, ...]


class MemoryBackend:
    """At most `max_size` entries in a dict; safe to share between threads and event loops of one process."""

    name = "memory"

    def __init__(self, max_size: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the number of entries to keep, and the clock that expiry is measured by (s)."""
        self._max_size = max_size
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._counters: dict[str, Counter[str]] = {}
        self._usd_saved: dict[str, float] = {}
        self._lock = ProcessLock()

    def lookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend."""
        with self._lock:
            kept = self._valid(tenant, key)
            self._count(tenant, "misses" if kept is None else "hits")
            if kept is None:
                return None
            self._entries.move_to_end((tenant, key))
            self._count_saved(tenant, kept.value)
            return kept.value

    async def alookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend."""
        return self.lookup(tenant, key)

    async def store(self, entry: CacheEntry) -> None:
        """See CacheBackend."""
        kept = _Kept(entry.encode(), self._clock() + entry.ttl, entry.tags)
        with self._lock:
            self._entries[entry.tenant, entry.key] = kept
            self._entries.move_to_end((entry.tenant, entry.key))
            while len(self._entries) > self._max_size:
                self._entries.popitem(last=False)

    async def discard(self, tenant: str, key: str) -> None:
        """See CacheBackend."""
        with self._lock:
            self._entries.pop((tenant, key), None)
            self._count(tenant, "corrupt")
            self._count(tenant, "misses")
            self._count(tenant, "hits", -1)

    async def invalidate(self, selection: Selection) -> int:
        """See CacheBackend."""
        with self._lock:
            doomed = [name for name, kept in self._entries.items() if _covers(selection, name, kept)]
            went = [name for name in doomed if self._valid(*name)]
            for name in doomed:
                self._entries.pop(name, None)
            return len(went)

    async def stats(self, tenant: str | None = None) -> CacheStats:
        """See CacheBackend."""
        with self._lock:
            tenants = [tenant] if tenant else sorted({*self._counters, *(name[0] for name in self._entries)})
            total = CacheStats()
            for name in tenants:
                total = total.plus(self._tenant_stats(name))
            return total

    async def close(self) -> None:
        """See CacheBackend. Forgets all entries."""
        with self._lock:
            self._entries.clear()

    def _valid(self, tenant: str, key: str) -> _Kept | None:
        kept = self._entries.get((tenant, key))
        if kept is not None and kept.expires_at <= self._clock():
            del self._entries[tenant, key]
            return None
        return kept

    def _count(self, tenant: str, name: str, by: int = 1) -> None:
        self._counters.setdefault(tenant, Counter())[name] += by

    def _count_saved(self, tenant: str, value: bytes) -> None:
        tokens, usd = usage_of(value)
        self._count(tenant, "tokens_saved", tokens)
        self._usd_saved[tenant] = self._usd_saved.get(tenant, 0.0) + usd

    def _tenant_stats(self, tenant: str) -> CacheStats:
        names = [key for owner, key in list(self._entries) if owner == tenant]
        size = sum(self._valid(tenant, key) is not None for key in names)
        counters = dict(self._counters.get(tenant, {}))
        return CacheStats(**counters, size=size, usd_saved=self._usd_saved.get(tenant, 0.0))


def _covers(selection: Selection, name: tuple[str, str], kept: _Kept) -> bool:
    tenant, key = name
    return (
        selection.tenant in (None, tenant)
        and (selection.tag is None or selection.tag in kept.tags)
        and selection.covers_key(key)
    )
