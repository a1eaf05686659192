"""The fleet's cache: entries in Redis, each look-up one round trip, everything with a TTL."""

from __future__ import annotations

from typing import Final, cast

from kagura_tasks.cache.backend import CacheEntry, CacheStats, Selection, tags_of
from kagura_tasks.connections import async_client, close_async_clients, sync_client
from kagura_tasks.lua import LuaScript
from kagura_tasks.metrics.steps import ADD_UP
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.settings import RedisUrl

PREFIX: Final = "kagura:cache:"

#: Counters that nobody touched for a month go.
STATS_TTL_S: Final = 30 * 86_400

_LOOKUP = LuaScript.load(__package__ or "", "count.lua", "lookup.lua").behind(ADD_UP)
_STORE = LuaScript.load(__package__ or "", "store.lua", "store_entry.lua")
_BATCH: Final = 500


def entry_key(tenant: str, key: str) -> str:
    """Where an entry is."""
    return f"{PREFIX}{tenant}:entry:{key}"


def stats_key(tenant: str) -> str:
    """Where a tenant's counters are."""
    return f"{PREFIX}{tenant}:stats"


def store_keys(entry: CacheEntry) -> list[str]:
    """KEYS of store.lua."""
    tags = [_tag_key(entry.tenant, tag) for tag in entry.tags]
    return [entry_key(entry.tenant, entry.key), _index_key(entry.tenant), _TENANTS, *tags]


def store_args(entry: CacheEntry) -> list[Argument]:
    """ARGV of store.lua."""
    return [entry.encode(), entry.ttl, entry.key, entry.tenant]


_TENANTS: Final = f"{PREFIX}tenants"


def _index_key(tenant: str) -> str:
    return f"{PREFIX}{tenant}:index"


def _tag_key(tenant: str, tag: str) -> str:
    return f"{PREFIX}{tenant}:tag:{tag}"


class RedisBackend:
    """Entries in one Redis, shared by all processes that name it."""

    name = "redis"

    def __init__(self, url: RedisUrl, timeout_s: float = 2.0) -> None:
        """Take the address, and the seconds after which an answer is no longer waited for. Connects when used."""
        self._url = url
        self._timeout_s = timeout_s

    def lookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend. One round trip."""
        client = sync_client(self._url, self._timeout_s)
        return cast("bytes | None", _LOOKUP.run(client, [entry_key(tenant, key), stats_key(tenant)], [STATS_TTL_S]))

    async def alookup(self, tenant: str, key: str) -> bytes | None:
        """See CacheBackend. One round trip."""
        keys = [entry_key(tenant, key), stats_key(tenant)]
        return cast("bytes | None", await _LOOKUP.arun(self._client, keys, [STATS_TTL_S]))

    async def store(self, entry: CacheEntry) -> None:
        """See CacheBackend. One round trip."""
        await _STORE.arun(self._client, store_keys(entry), store_args(entry))

    async def discard(self, tenant: str, key: str) -> None:
        """See CacheBackend."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.delete(entry_key(tenant, key))
            pipe.zrem(_index_key(tenant), key)
            for name, by in (("corrupt", 1), ("misses", 1), ("hits", -1)):
                pipe.hincrby(stats_key(tenant), name, by)
            pipe.expire(stats_key(tenant), STATS_TTL_S)
            await pipe.execute()

    async def invalidate(self, selection: Selection) -> int:
        """See CacheBackend. Goes through the index in batches; an entry that Redis has evicted is not counted."""
        tenants = [selection.tenant] if selection.tenant else await self._tenants()
        return sum([await self._invalidate_tenant(tenant, selection) for tenant in tenants])

    async def stats(self, tenant: str | None = None) -> CacheStats:
        """See CacheBackend."""
        total = CacheStats()
        for name in [tenant] if tenant else await self._tenants():
            total = total.plus(await self._tenant_stats(name))
        return total

    async def close(self) -> None:
        """See CacheBackend."""
        await close_async_clients()

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._url, self._timeout_s)

    async def _tenants(self) -> list[str]:
        """Whoever has an entry or a counter. The counters outlive the entries, so that both are asked."""
        found = {name.decode() for name in await self._client.zrange(_TENANTS, 0, -1)}
        async for key in self._client.scan_iter(match=stats_key("*"), count=1000):
            found.add(key.decode().removeprefix(PREFIX).removesuffix(":stats"))
        return sorted(found)

    async def _invalidate_tenant(self, tenant: str, selection: Selection) -> int:
        index = _tag_key(tenant, selection.tag) if selection.tag is not None else _index_key(tenant)
        names = [name.decode() for name in await self._client.zrange(index, 0, -1)]
        doomed = [name for name in names if selection.covers_key(name)]
        went = 0
        for start in range(0, len(doomed), _BATCH):
            batch = doomed[start : start + _BATCH]
            tagged = batch if selection.tag is None else await self._tagged(tenant, selection.tag, batch)
            went += await self._drop(tenant, index, tagged) if tagged else 0
        return went

    async def _tagged(self, tenant: str, tag: str, names: list[str]) -> list[str]:
        """Those that have the tag now: an index still lists an entry that was stored anew without it."""
        values = await self._client.mget([entry_key(tenant, name) for name in names])
        tags = [tags_of(value) if value is not None else None for value in values]
        return [name for name, found in zip(names, tags, strict=True) if found is None or tag in found]

    async def _drop(self, tenant: str, index: str, names: list[str]) -> int:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.delete(*(entry_key(tenant, name) for name in names))
            pipe.zrem(_index_key(tenant), *names)
            pipe.zrem(index, *names)
            return cast("list[int]", await pipe.execute())[0]

    async def _tenant_stats(self, tenant: str) -> CacheStats:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(stats_key(tenant))
            pipe.time()
            counters, (now_s, now_us) = cast("tuple[dict[bytes, bytes], tuple[int, int]]", await pipe.execute())
        size = await self._client.zcount(_index_key(tenant), f"({now_s}.{now_us:06}", "+inf")
        found = {name.decode(): float(value) for name, value in counters.items()}
        usd_saved = found.pop("usd_saved", 0.0)
        known = {name: int(value) for name, value in found.items() if name in CacheStats.__dataclass_fields__}
        return CacheStats(**known, size=size, usd_saved=usd_saved)
