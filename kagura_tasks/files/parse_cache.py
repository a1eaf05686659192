"""Documents that were parsed before, by what their files contain: a file that did not change is not parsed again."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol

from pydantic import ValidationError
from redis.exceptions import RedisError

from kagura_tasks.cache.backend import CacheBackend, CacheEntry, decode_response
from kagura_tasks.cache.disk import DiskBackend, default_path
from kagura_tasks.cache.memory import MemoryBackend
from kagura_tasks.connections import async_client
from kagura_tasks.files.documents import Document
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.schemas import problems_of
from kagura_tasks.settings import Settings

log = logging.getLogger(__name__)

#: Raise it when a document's form changes: what was kept in the old one is then never read, and expires.
_VERSION: Final = 1

#: Larger documents, most of them media, are quicker read again than kept.
_MAX_ENTRY_BYTES: Final = 5_000_000

#: A limit of time or memory does not change what is in a document that kept it.
_NOT_IN_KEY: Final = frozenset({"parse_timeout_s", "parse_memory_bytes"})

_UNAVAILABLE: Final = (RedisError, sqlite3.Error, OSError)


class ParseCache(Protocol):
    """Where parsed documents are kept, as bytes. A failure of its own may be raised: it is a miss and a warning."""

    async def get(self, key: str) -> bytes | None:
        """What is kept under the key; None where nothing is, or not any more."""
        ...

    async def set(self, key: str, value: bytes) -> None:
        """Keep it, for as long as the cache keeps things."""
        ...


def parse_key(sha256: str, media_type: str, loader: str, limits: FileLimits) -> str:
    """The document's name: equal for files with the same content, read by the same loader within the same limits."""
    bounds = {name: limit for name, limit in asdict(limits).items() if name not in _NOT_IN_KEY}
    fields = json.dumps([sha256, media_type, loader, bounds], sort_keys=True)
    return f"v{_VERSION}:{hashlib.sha256(fields.encode()).hexdigest()}"


async def recall(cache: ParseCache, key: str) -> Document | None:
    """The document that is kept under the key. What is no document is a miss and a warning."""
    try:
        value = await cache.get(key)
        return None if value is None else Document.model_validate_json(value)
    except _UNAVAILABLE as error:
        log.warning("parsed documents could not be looked up (%s): going on without them", type(error).__name__)
    except ValidationError as error:
        log.warning("a parsed document that was kept is corrupt, and is made anew: %s", problems_of(error)[:200])
    return None


async def remember(cache: ParseCache, key: str, document: Document) -> None:
    """Keep a document that was parsed. A failure to do so is a warning."""
    value = document.model_dump_json().encode()
    if len(value) > _MAX_ENTRY_BYTES:
        return
    try:
        await cache.set(key, value)
    except _UNAVAILABLE as error:
        log.warning("a parsed document could not be kept (%s): going on without", type(error).__name__)


class LocalParseCache:
    """Parsed documents in this process, or in a file of this machine."""

    def __init__(self, backend: CacheBackend, ttl_s: int = 7 * 86_400) -> None:
        """Take where entries live, and for how long (s). See `in_memory` and `on_disk`."""
        self._backend = backend
        self._ttl_s = ttl_s

    @classmethod
    def in_memory(cls, max_size: int = 1000, ttl_s: int = 7 * 86_400) -> LocalParseCache:
        """At most `max_size` documents in this process."""
        return cls(MemoryBackend(max_size), ttl_s)

    @classmethod
    def on_disk(
        cls, path: Path | str | None = None, max_size: int = 10_000, ttl_s: int = 7 * 86_400
    ) -> LocalParseCache:
        """At most `max_size` documents in a file; default: in the user's cache folder, beside the answers."""
        return cls(DiskBackend(Path(path) if path else default_path().with_name("documents.sqlite3"), max_size), ttl_s)

    async def get(self, key: str) -> bytes | None:
        """See ParseCache."""
        value = await self._backend.alookup(_OWNER, key)
        try:
            response = None if value is None else decode_response(value)
        except ValueError:
            return b""
        return response.encode() if isinstance(response, str) else None

    async def set(self, key: str, value: bytes) -> None:
        """See ParseCache."""
        await self._backend.store(CacheEntry(key, value.decode(), ttl=self._ttl_s, tenant=_OWNER))

    async def close(self) -> None:
        """Let go of the file."""
        await self._backend.close()


#: A machine's own documents are no tenant's.
_OWNER: Final = "files"


class RedisParseCache:
    """Parsed documents for all processes of a fleet, for each tenant apart."""

    def __init__(self, settings: Settings, tenant: str | None = None, ttl_s: int = 86_400) -> None:
        """Take the address of the cache, whose documents these are, and for how long they are kept (s)."""
        self._settings = settings
        self._tenant = tenant or settings.tenant
        self._ttl_s = ttl_s

    async def get(self, key: str) -> bytes | None:
        """See ParseCache."""
        return await self._client().get(self._name(key))

    async def set(self, key: str, value: bytes) -> None:
        """See ParseCache."""
        await self._client().set(self._name(key), value.decode(), ex=self._ttl_s, nx=False)

    def _client(self) -> AsyncRedis:
        return async_client(self._settings.cache, self._settings.redis_timeout_s)

    def _name(self, key: str) -> str:
        return f"kagura:files:{self._tenant}:parsed:{key}"
