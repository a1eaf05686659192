"""The cache as its users see it: any backend, one set of rules."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from redis.exceptions import RedisError

from kagura_tasks.cache.backend import (
    CacheBackend,
    CacheEntry,
    CacheStats,
    Selection,
    decode_completion,
    decode_response,
)
from kagura_tasks.cache.disk import DiskBackend
from kagura_tasks.cache.key import cache_key, key_for
from kagura_tasks.cache.memory import MemoryBackend
from kagura_tasks.cache.redis import RedisBackend
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.schemas import Completion, CompletionRequest, Message
from kagura_tasks.settings import RedisUrl, Settings, load_settings

log = logging.getLogger(__name__)

BackendName = Literal["memory", "redis", "disk"]

#: A cache that cannot be reached is a cache without this answer.
_UNAVAILABLE = (RedisError, sqlite3.Error, OSError)


class LLMCache:
    """Remembered answers.

    Only complete answers are kept; a value that does not parse is a miss; a backend that is away is a miss.
    Each of these is logged, and the corrupt ones are counted.
    """

    def __init__(
        self,
        backend: BackendName | CacheBackend = "memory",
        default_ttl: int = 3600,
        max_size: int = 1000,
        *,
        redis_url: str | None = None,
        path: Path | str | None = None,
        tenant: str = "default",
    ) -> None:
        """Choose where entries live.

        Args:
            backend: "memory" (this process), "redis" (the fleet), "disk" (this machine), or a backend of your own.
            default_ttl: Seconds for which an entry is valid where `set` does not say.
            max_size: Entries that memory and disk keep; Redis has its own `maxmemory`.
            redis_url: The address for "redis"; default: `KAGURA_TASKS_CACHE_URL`, else `KAGURA_TASKS_REDIS_URL`.
            path: The file for "disk"; default: in the user's cache folder.
            tenant: Whose entries `get`, `set` and `key_for` mean where they do not say.

        Raises:
            ConfigurationError: An unknown backend, a wrong address, or a TTL or size below 1.
        """
        if default_ttl < 1 or max_size < 1:
            raise ConfigurationError("default_ttl and max_size of a cache are whole numbers from 1 on")
        self._store = _open_backend(backend, max_size, redis_url, path) if isinstance(backend, str) else backend
        self.backend: str = self._store.name
        self.default_ttl = default_ttl
        self.max_size = max_size
        self.tenant = tenant

    @classmethod
    def from_settings(cls, settings: Settings) -> LLMCache:
        """The fleet's cache, as applications and workers share it."""
        store = RedisBackend(settings.cache, settings.redis_timeout_s)
        return cls(store, default_ttl=settings.cache_ttl_s, tenant=settings.tenant)

    def key_for(self, prompt: str | Sequence[Message | Mapping[str, object]], model: str, **params: object) -> str:
        """The key of this request: equal for all that deserve the same answer. See `cache.key`."""
        tenant = params.pop("tenant", self.tenant)
        return key_for(prompt, model, str(tenant), params)

    async def get(self, key: str, *, tenant: str | None = None) -> object | None:
        """What is stored under the key (a Completion, or the JSON value that was set), or None."""
        tenant = tenant or self.tenant
        try:
            value = await self._store.alookup(tenant, key)
            return None if value is None else await self._decode(tenant, key, value)
        except _UNAVAILABLE as error:
            return _as_miss("read", error)

    async def set(
        self,
        key: str,
        response: object,
        ttl: int | None = None,
        *,
        model: str = "unknown",
        tags: Sequence[str] = (),
        tenant: str | None = None,
    ) -> bool:
        """Keep a response (a Completion, or any JSON value) for `ttl` seconds; False where it was not kept.

        Not kept are incomplete completions, and everything while the backend is away.
        """
        if isinstance(response, Completion) and not response.is_complete:
            return False
        entry = CacheEntry(
            key, response, ttl=ttl or self.default_ttl, model=model, tenant=tenant or self.tenant, tags=tuple(tags)
        )
        try:
            await self._store.store(entry)
        except _UNAVAILABLE as error:
            _as_miss("written", error)
            return False
        return True

    async def invalidate(
        self,
        pattern: str | None = None,
        *,
        model: str | None = None,
        tag: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Drop all entries, or those that fit everything given; how many went.

        A pattern is a glob over keys, which name the model (`v1:openai/gpt-4o:...`); without a wildcard it is a
        text that the key contains.
        """
        return await self._store.invalidate(Selection(tenant=tenant, tag=tag, model=model, pattern=pattern))

    async def stats(self, tenant: str | None = None) -> dict[str, int | float | str]:
        """What the cache did, for all processes that share it: of one tenant, or of all.

        Keys: backend, size, max_size, hits, misses, shared, corrupt, hit_rate, tokens_saved, usd_saved.
        """
        found: CacheStats = await self._store.stats(tenant)
        return {"backend": self.backend, "max_size": self.max_size, **vars(found), "hit_rate": found.hit_rate}

    async def close(self) -> None:
        """Let go of files and connections."""
        await self._store.close()

    def lookup(self, request: CompletionRequest) -> Completion | None:
        """The remembered answer to this request, marked as cached. Blocks for one round trip at most.

        A corrupt entry is None and stays where it is: the worker that is asked instead drops and counts it.
        """
        key = cache_key(request)
        try:
            value = self._store.lookup(request.tenant, key)
        except _UNAVAILABLE as error:
            return _as_miss("read", error)
        return None if value is None else decode_completion(value, request.model)

    async def alookup(self, request: CompletionRequest) -> Completion | None:
        """The same, without blocking the event loop. A corrupt entry is dropped, and counted as a miss."""
        key = cache_key(request)
        try:
            value = await self._store.alookup(request.tenant, key)
            completion = None if value is None else decode_completion(value, request.model)
            if value is not None and completion is None:
                await self._drop_corrupt(request.tenant, key)
            return completion
        except _UNAVAILABLE as error:
            return _as_miss("read", error)

    async def remember(self, request: CompletionRequest, completion: Completion) -> bool:
        """Keep the answer to this request; False where it was incomplete, or the backend is away."""
        return await self.set(
            cache_key(request),
            completion,
            request.cache_ttl_s,
            model=request.model,
            tags=request.tags,
            tenant=request.tenant,
        )

    async def _decode(self, tenant: str, key: str, value: bytes) -> object | None:
        try:
            return decode_response(value)
        except ValueError:
            await self._drop_corrupt(tenant, key)
            return None

    async def _drop_corrupt(self, tenant: str, key: str) -> None:
        log.warning("a cache entry of tenant %s is corrupt: dropped, and counted as a miss", tenant)
        await self._store.discard(tenant, key)


class RedisCache(LLMCache):
    """The cache in Redis, by the RFC's name."""

    def __init__(self, redis_url: str | None = None, default_ttl: int = 3600, *, tenant: str = "default") -> None:
        """Take the address; default: `KAGURA_TASKS_CACHE_URL`, else `KAGURA_TASKS_REDIS_URL`."""
        super().__init__("redis", default_ttl, redis_url=redis_url, tenant=tenant)


def _open_backend(name: str, max_size: int, redis_url: str | None, path: Path | str | None) -> CacheBackend:
    match name:
        case "memory":
            return MemoryBackend(max_size)
        case "disk":
            return DiskBackend(Path(path) if path else None, max_size)
        case "redis":
            settings = Settings(cache_url=RedisUrl(redis_url)) if redis_url else load_settings()
            return RedisBackend(settings.cache, settings.redis_timeout_s)
        case _:
            raise ConfigurationError(f"{name!r} is no cache backend: memory, redis or disk")


def _as_miss(what: str, error: Exception) -> None:
    log.warning("the cache could not be %s (%s): going on without it", what, type(error).__name__)
