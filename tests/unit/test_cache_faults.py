"""Bad days of the cache: planted bytes, Redis away, a file that is none. No error reaches a caller, no code runs."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis

from kagura_tasks.cache.backend import CacheEntry
from kagura_tasks.cache.key import cache_key
from kagura_tasks.cache.llm_cache import LLMCache, RedisCache
from kagura_tasks.cache.redis import entry_key
from tests.support.samples import completion, request


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


GARBAGE = {
    "nothing": b"",
    "no json": b"not json",
    "no text": b"\xff\xfe\x00",
    "half an entry": CacheEntry("key", completion()).encode()[:-5],
    "another document": b'{"hello": 1}',
    "a list": b"[1, 2]",
    "a number": b"1",
    "an incomplete completion": b'{"kind": "completion", "response": {"text": "hi"}}',
    "a completion with more": b'{"kind": "completion", "response": {"text": 1, "model": [], "evil": true}}',
    "ten thousand brackets": b"[" * 10_000,
    "brackets in an entry": b'{"response":' + b"[" * 10_000,
    "a huge number": b'{"kind": "completion", "response": {"usage": {"total_tokens": 1e400, "cost_usd": 1e400}}}',
}


def plant(client: redis.Redis, value: bytes) -> None:
    """Put these bytes where the answer to `request()` would be."""
    client.set(entry_key("default", cache_key(request())), value, ex=60)


async def test_planted_pickle_is_a_miss_and_nothing_runs(
    fleet_cache: LLMCache, client_of_redis: redis.Redis, tmp_path: Path
):
    """Whoever can write to Redis cannot make us run code: the bytes are a miss, counted, and never unpickled."""
    folder = tmp_path / "made by pickle"
    plant(client_of_redis, pickle.dumps(Trap(folder)))
    assert fleet_cache.lookup(request()) is None
    assert await fleet_cache.alookup(request()) is None
    assert not folder.exists()
    stats = await fleet_cache.stats()
    assert (stats["hits"], stats["misses"]) == (0, 2)
    assert stats["corrupt"] >= 1
    assert await fleet_cache.remember(request(), completion())
    assert await fleet_cache.alookup(request()) == completion().as_cached()


@pytest.mark.parametrize("name", GARBAGE)
async def test_bytes_that_are_no_entry_are_a_miss(fleet_cache: LLMCache, client_of_redis: redis.Redis, name: str):
    """Whatever the bytes are: a miss in both worlds, no error, and the next answer takes their place."""
    plant(client_of_redis, GARBAGE[name])
    assert fleet_cache.lookup(request()) is None
    before = await fleet_cache.stats()
    plant(client_of_redis, GARBAGE[name])
    assert await fleet_cache.alookup(request()) is None
    after = await fleet_cache.stats()
    assert [after[name] - before[name] for name in ("hits", "misses", "corrupt")] == [0, 1, 1]
    assert await fleet_cache.remember(request(), completion())
    assert await fleet_cache.alookup(request()) == completion().as_cached()


async def test_a_corrupt_entry_is_told_without_its_content(
    fleet_cache: LLMCache, client_of_redis: redis.Redis, caplog: pytest.LogCaptureFixture
):
    """What the log says names no prompt and no answer."""
    plant(client_of_redis, b'{"kind": "completion", "response": {"text": "secret answer"}}')
    with caplog.at_level(logging.DEBUG):
        assert await fleet_cache.alookup(request("secret prompt")) is None
        assert await fleet_cache.alookup(request()) is None
    assert "secret" not in caplog.text


async def test_redis_that_is_away_is_a_miss_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Without its cache an application is slower, not broken; the warning holds no address."""
    cache = RedisCache(f"unix://:hunter2@{tmp_path}/nobody.sock")
    assert cache.lookup(request()) is None
    assert await cache.alookup(request()) is None
    assert not await cache.remember(request(), completion())
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert "hunter2" not in caplog.text
    await cache.close()


async def test_a_file_that_is_no_database_is_a_miss_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Somebody else's file is not overwritten, and breaks no call."""
    file = tmp_path / "cache.sqlite3"
    file.write_bytes(b"This is no database. " * 100)
    cache = LLMCache("disk", path=file)
    assert cache.lookup(request()) is None
    assert not await cache.remember(request(), completion())
    assert await cache.alookup(request()) is None
    assert len(caplog.records) == 3
    assert file.read_bytes() == b"This is no database. " * 100
    await cache.close()


async def test_a_folder_that_cannot_be_made_is_a_miss(tmp_path: Path):
    """A disk cache where no file can be is a cache without answers."""
    (tmp_path / "file").touch()
    cache = LLMCache("disk", path=tmp_path / "file" / "cache.sqlite3")
    assert await cache.alookup(request()) is None
    assert not await cache.remember(request(), completion())


async def test_the_disk_cache_outlives_its_process(tmp_path: Path):
    """Another cache on the same file has the answers; by default the file is in the user's cache folder."""
    first = LLMCache("disk", path=tmp_path / "cache.sqlite3")
    await first.remember(request(), completion())
    await first.close()
    second = LLMCache("disk", path=str(tmp_path / "cache.sqlite3"))
    assert second.lookup(request()) == completion().as_cached()
    await second.close()
