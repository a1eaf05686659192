"""One promise, three backends: every test here runs on memory, on Redis and on disk."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kagura_tasks.cache.backend import CacheBackend, CacheEntry, CacheStats, Selection
from kagura_tasks.cache.disk import DiskBackend
from kagura_tasks.cache.memory import MemoryBackend
from kagura_tasks.cache.redis import RedisBackend
from kagura_tasks.connections import sync_client
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.settings import RedisUrl
from tests.support.wait import until


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Kind:
    """One kind of backend under test.

    Attributes:
        open: Another backend on the same entries, as another process would have it; memory has none.
        advance: Let seconds pass.
    """

    backend: CacheBackend
    open: Callable[[], CacheBackend] | None
    advance: Callable[[float], object]


@pytest_asyncio.fixture(params=["memory", "redis", "disk"])
async def kind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kind]:
    """Each kind of backend, empty."""
    clock = Clock()

    def advance(seconds: float) -> None:
        clock.now += seconds

    if request.param == "memory":
        kind = Kind(MemoryBackend(clock=clock), None, advance)
    elif request.param == "disk":
        file = tmp_path / "cache.sqlite3"
        kind = Kind(DiskBackend(file, clock=clock), lambda: DiskBackend(file, clock=clock), advance)
    else:
        url: RedisUrl = request.getfixturevalue("redis_url")
        kind = Kind(RedisBackend(url), lambda: RedisBackend(url), lambda seconds: _let_redis_pass(url, seconds))
    yield kind
    await kind.backend.close()


@pytest.fixture
def backend(kind: Kind) -> CacheBackend:
    """The backend alone."""
    return kind.backend


def _let_redis_pass(url: RedisUrl, seconds: float) -> None:
    """Redis's clock cannot be moved: wait until it says that the time has passed."""

    def now() -> float:
        whole, micro = sync_client(url, 2.0).time()
        return whole + micro / 1e6

    end = now() + seconds
    until(lambda: now() > end, seconds + 30)


def entry(key: str, response: object = "answer", **fields: Any) -> CacheEntry:
    """An entry that only says what the test is about."""
    return CacheEntry(key, response, **fields)


def paid(tokens: int, usd: float | None) -> Completion:
    """A completion that cost this much."""
    return Completion(text="hi", model="openai/m", finish_reason="stop", usage=Usage(total_tokens=tokens, cost_usd=usd))


async def found(backend: CacheBackend, key: str, tenant: str = "default") -> bool:
    """Whether both look-ups find it; they must agree."""
    value = await backend.alookup(tenant, key)
    assert await asyncio.to_thread(backend.lookup, tenant, key) == value
    return value is not None


async def test_what_was_never_stored_is_none(backend: CacheBackend):
    """An absent entry is None, in both worlds."""
    assert not await found(backend, "absent")


async def test_a_stored_value_comes_back_byte_for_byte(backend: CacheBackend):
    """Values are opaque: any JSON, any language, a megabyte."""
    for number, response in enumerate(["", "日本語 🎴", {"a": [1, 2.5, None, True]}, "x" * 1_000_000, paid(1, None)]):
        stored = entry(f"key-{number}", response)
        await backend.store(stored)
        assert await backend.alookup("default", stored.key) == stored.encode()


async def test_an_entry_is_gone_after_its_ttl(kind: Kind):
    """An entry is there for its TTL and not longer; it no longer counts in the size either."""
    await kind.backend.store(entry("short", ttl=1))
    await kind.backend.store(entry("long", ttl=60))
    assert await found(kind.backend, "short")
    await asyncio.to_thread(kind.advance, 1.05)
    assert not await found(kind.backend, "short")
    assert await found(kind.backend, "long")
    assert (await kind.backend.stats()).size == 1


async def test_storing_again_replaces_value_and_ttl(kind: Kind):
    """The newest answer counts, and its TTL starts anew."""
    await kind.backend.store(entry("key", "old", ttl=1))
    await kind.backend.store(entry("key", "new", ttl=60))
    await asyncio.to_thread(kind.advance, 1.05)
    assert b'"new"' in (await kind.backend.alookup("default", "key") or b"")
    assert (await kind.backend.stats()).size == 1


async def test_storing_again_replaces_the_tags(backend: CacheBackend):
    """A tag that the newer entry does not have no longer drops it."""
    await backend.store(entry("key", tags=("old",)))
    await backend.store(entry("key", tags=("new",)))
    assert await backend.invalidate(Selection(tag="old")) == 0
    assert await found(backend, "key")
    assert await backend.invalidate(Selection(tag="new")) == 1


async def test_invalidating_nothing_in_particular_drops_all(backend: CacheBackend):
    """Without a selection everything goes, of all tenants, and is counted."""
    for number in range(5):
        await backend.store(entry(f"key-{number}", tenant=f"tenant-{number % 2}"))
    assert await backend.invalidate(Selection()) == 5
    assert (await backend.stats()).size == 0
    assert await backend.invalidate(Selection()) == 0


@pytest.mark.parametrize(
    ("selection", "gone"),
    [
        (Selection(pattern="v1:openai/*"), {"v1:openai/a:1", "v1:openai/b:2"}),
        (Selection(pattern="openai"), {"v1:openai/a:1", "v1:openai/b:2"}),
        (Selection(pattern="*:?"), {"v1:openai/a:1", "v1:openai/b:2", "v1:groq/a:3"}),
        (Selection(pattern="nothing"), set()),
        (Selection(model="openai/a"), {"v1:openai/a:1"}),
        (Selection(model="a"), set()),
        (Selection(tag="odd"), {"v1:openai/a:1", "v1:groq/a:3"}),
        (Selection(tag="absent"), set()),
        (Selection(tag="odd", model="groq/a"), {"v1:groq/a:3"}),
        (Selection(tag="odd", pattern="openai"), {"v1:openai/a:1"}),
        (Selection(tenant="default"), {"v1:openai/a:1", "v1:openai/b:2", "v1:groq/a:3"}),
        (Selection(tenant="stranger"), set()),
    ],
)
async def test_invalidating_drops_what_fits_and_nothing_else(
    backend: CacheBackend, selection: Selection, gone: set[str]
):
    """Pattern, model, tag and tenant narrow a selection down; the count is what went."""
    tags = {"v1:openai/a:1": ("odd",), "v1:openai/b:2": (), "v1:groq/a:3": ("odd", "last")}
    for key in tags:
        await backend.store(entry(key, tags=tags[key]))
    assert await backend.invalidate(selection) == len(gone)
    assert {key for key in tags if not await found(backend, key)} == gone


async def test_an_expired_entry_is_not_counted_as_invalidated(kind: Kind):
    """The count says how many valid entries went."""
    await kind.backend.store(entry("short", ttl=1, tags=("tag",)))
    await kind.backend.store(entry("long", ttl=60, tags=("tag",)))
    await asyncio.to_thread(kind.advance, 1.05)
    assert await kind.backend.invalidate(Selection(tag="tag")) == 1


async def test_tenants_never_see_each_other(backend: CacheBackend):
    """The same key of two tenants is two entries, also when one is dropped, and their counters are apart."""
    await backend.store(entry("key", "mine", tenant="me", tags=("tag",)))
    await backend.store(entry("key", "yours", tenant="you", tags=("tag",)))
    assert b"mine" in (await backend.alookup("me", "key") or b"")
    assert b"yours" in (await backend.alookup("you", "key") or b"")
    assert await backend.alookup("stranger", "key") is None
    assert await backend.invalidate(Selection(tenant="me", tag="tag")) == 1
    assert await found(backend, "key", tenant="you")
    mine, yours = await backend.stats("me"), await backend.stats("you")
    assert (mine.hits, mine.size) == (1, 0)
    assert (yours.hits, yours.size) == (3, 1)


async def test_stats_count_hits_misses_and_what_was_saved(backend: CacheBackend):
    """Each hit saves what the stored answer once cost; an unknown price saves tokens alone."""
    await backend.store(entry("priced", paid(100, 0.25)))
    await backend.store(entry("unpriced", paid(10, None)))
    await backend.store(entry("no completion", {"usage": {"total_tokens": 99}}))
    for key in ("priced", "priced", "unpriced", "no completion", "absent"):
        await backend.alookup("default", key)
    stats = await backend.stats()
    assert stats == CacheStats(hits=4, misses=1, size=3, tokens_saved=210, usd_saved=pytest.approx(0.5))
    assert stats.hit_rate == 0.8


async def test_stats_of_an_unused_cache_are_zero(backend: CacheBackend):
    """Nothing looked up is a hit rate of 0, not a division by zero."""
    assert await backend.stats() == await backend.stats("anybody") == CacheStats()
    assert (await backend.stats()).hit_rate == 0.0


async def test_stats_of_all_tenants_are_their_sum(backend: CacheBackend):
    """Without a tenant the counters are the whole fleet's, also of a tenant that only ever missed."""
    await backend.store(entry("key", paid(5, 0.5), tenant="hitter"))
    await backend.alookup("hitter", "key")
    await backend.alookup("misser", "key")
    assert await backend.stats() == CacheStats(hits=1, misses=1, size=1, tokens_saved=5, usd_saved=pytest.approx(0.5))


async def test_a_discarded_entry_was_a_miss_after_all(backend: CacheBackend):
    """What turned out to be corrupt is gone, and its hit is taken back and counted as corrupt."""
    await backend.store(entry("key"))
    await backend.alookup("default", "key")
    await backend.discard("default", "key")
    assert await backend.stats() == CacheStats(hits=0, misses=1, corrupt=1, size=0)
    assert not await found(backend, "key")


async def test_a_tenant_is_not_forgotten_with_its_shortest_entry(kind: Kind):
    """Invalidating all reaches a tenant's long-lived entries, also after a later and shorter one has expired."""
    await kind.backend.store(entry("long", tenant="me", ttl=60))
    await kind.backend.store(entry("short", tenant="me", ttl=1))
    await asyncio.to_thread(kind.advance, 1.05)
    await kind.backend.store(entry("other", tenant="you"))
    assert await kind.backend.invalidate(Selection()) == 2


@pytest.mark.parametrize("kind", ["memory", "disk"], indirect=True)
async def test_the_least_recently_used_entry_goes_first(kind: Kind, tmp_path: Path):
    """A full cache drops what was neither stored nor looked up for longest. (Redis has its own `maxmemory`.)"""
    clock = Clock()
    small = {"memory": lambda: MemoryBackend(3, clock), "disk": lambda: DiskBackend(tmp_path / "small", 3, clock)}
    backend = small[kind.backend.name]()
    for key in ("a", "b", "c"):
        clock.now += 1
        await backend.store(entry(key))
    clock.now += 1
    await backend.alookup("default", "a")
    clock.now += 1
    await backend.store(entry("d"))
    assert (await backend.stats()).size == 3
    assert [await found(backend, key) for key in ("a", "b", "c", "d")] == [True, False, True, True]
    await backend.close()


@pytest.mark.parametrize("kind", ["redis", "disk"], indirect=True)
async def test_another_process_sees_the_same_entries(kind: Kind):
    """Redis is shared by the fleet, the file by the processes of a machine: entries and counters alike."""
    assert kind.open is not None
    other = kind.open()
    await kind.backend.store(entry("key", tags=("tag",)))
    assert await other.alookup("default", "key")
    assert await kind.backend.stats() == await other.stats() == CacheStats(hits=1, size=1)
    assert await other.invalidate(Selection(tag="tag")) == 1
    assert await kind.backend.alookup("default", "key") is None
    await other.close()


async def test_twenty_threads_at_once_lose_no_count(backend: CacheBackend):
    """Threads share a backend: every look-up is counted once, and every value is one that was stored."""
    start, rounds = threading.Barrier(20), 25
    await backend.store(entry("key", "x"))

    def look() -> set[bytes | None]:
        start.wait()
        return {backend.lookup("default", "key" if number % 2 else "absent") for number in range(rounds * 2)}

    with ThreadPoolExecutor(20) as pool:
        seen = await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, look) for _ in range(20)))
    assert {len(values) for values in seen} == {2}
    stats = await backend.stats()
    assert (stats.hits, stats.misses) == (20 * rounds, 20 * rounds)


_PROCESS = """
import asyncio, sys
from pathlib import Path
from kagura_tasks.cache.backend import CacheEntry
from kagura_tasks.cache.disk import DiskBackend
from kagura_tasks.cache.redis import RedisBackend
from kagura_tasks.settings import RedisUrl

async def work(where, me):
    backend = DiskBackend(Path(where)) if where.startswith("/") else RedisBackend(RedisUrl(where))
    async def one(number):
        await backend.store(CacheEntry(f"{me}-{number}", number, tags=("shared",)))
        assert await backend.alookup("default", f"{me}-{number}")
    await asyncio.gather(*(one(number) for number in range(25)))
    await backend.close()

sys.stdin.readline()
asyncio.run(work(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["redis", "disk"], indirect=True)
async def test_four_processes_at_once_lose_nothing(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest):
    """Processes that write at the same time, on a cache that did not exist yet, lose no entry and no count."""
    on_disk = kind.backend.name == "disk"
    where = str(tmp_path / "shared.sqlite3") if on_disk else request.getfixturevalue("redis_url")

    def run() -> list[tuple[int, bytes]]:
        command = [sys.executable, "-W", "error", "-c", _PROCESS, where]
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = [subprocess.Popen([*command, str(number)], **pipes) for number in range(4)]
        for process in started:
            process.stdin.write(b"\n")
            process.stdin.flush()
        return [(process.wait(30), process.communicate()[1]) for process in started]

    assert await asyncio.to_thread(run) == [(0, b"")] * 4
    backend = DiskBackend(Path(where)) if on_disk else kind.backend
    stats = await backend.stats()
    assert (stats.size, stats.hits, stats.misses) == (100, 100, 0)
    assert await backend.invalidate(Selection(tag="shared")) == 100
    await backend.close()


def test_a_new_file_that_another_process_is_preparing_is_waited_for(tmp_path: Path):
    """SQLite itself waits for a busy file, except at the switch of its journal: who meets that waits all the same."""
    file = tmp_path / "cache.sqlite3"
    other = sqlite3.connect(file, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    backend = DiskBackend(file)
    assert backend.lookup("default", "key") is None
    release.join()
    other.close()
    asyncio.run(backend.close())


def test_the_file_on_disk_is_private(tmp_path: Path):
    """Answers may be confidential: only their owner can read the file, and its folder is made for it."""
    file = tmp_path / "new" / "cache.sqlite3"
    backend = DiskBackend(file)
    asyncio.run(backend.store(entry("key")))
    for path in (file.parent, *file.parent.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    asyncio.run(backend.close())
