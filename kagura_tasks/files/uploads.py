"""Files' contents in Redis, by their hash: for workers that do not see the disk on which the files are."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from kagura_tasks.connections import async_client
from kagura_tasks.errors import FileUnreadable
from kagura_tasks.files.documents import FileRef
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.settings import Settings

#: Bytes that are read, or fetched, in one step.
_PIECE_BYTES: Final = 1 << 20


class Uploads:
    """The contents of one tenant's files, on the broker's Redis, which throws nothing away. Each expires by itself."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        """Take where the broker is, and whose files these are."""
        self._settings = settings
        self._tenant = tenant

    async def put(self, file: int, path: str) -> str:
        """Keep what an open file contains; the name under which it is found. What is there already is not sent again.

        Raises:
            FileUnreadable: Somebody writes to it.
            RedisError: Redis is away, or full.
        """
        name = await asyncio.to_thread(sha256_of, file, self._settings.file_max_bytes)
        ttl_s = self._settings.upload_ttl_s
        if not await self._client.expire(self._key(name), ttl_s):
            content = await asyncio.to_thread(_content, file)
            if hashlib.sha256(content).hexdigest() != name:
                raise FileUnreadable(path, "was changed while it was read")
            await self._client.set(self._key(name), content, ex=ttl_s, nx=False)
        return name

    @asynccontextmanager
    async def opened(self, ref: FileRef) -> AsyncGenerator[int]:
        """A descriptor of what was uploaded: a file that has no name, and is gone when the block ends.

        Raises:
            FileUnreadable: It has expired.
            RedisError: Redis is away.
        """
        with tempfile.TemporaryFile(buffering=0) as file:
            key, size = self._key(ref.upload), 0
            while piece := await self._client.getrange(key, size, size + _PIECE_BYTES - 1):
                size += await asyncio.to_thread(file.write, piece)
            if sha256_of(file.fileno(), size) != ref.upload:
                raise FileUnreadable(ref.path, "its upload has expired: send it again")
            file.seek(0)
            yield file.fileno()

    def _key(self, name: str) -> str:
        return f"kagura:files:{self._tenant}:upload:{name}"

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._settings.broker, self._settings.redis_timeout_s)


def sha256_of(file: int, most_bytes: int) -> str:
    """The hash of an open file, by offsets of its own: what is shared with a parser stays at its beginning."""
    hashed, offset = hashlib.sha256(), 0
    while offset <= most_bytes and (piece := os.pread(file, _PIECE_BYTES, offset)):
        hashed.update(piece)
        offset += len(piece)
    return hashed.hexdigest()


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
