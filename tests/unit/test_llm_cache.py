"""The cache as its users see it: the RFC's list first, then what is kept and what is not."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from kagura_tasks.cache.backend import CacheEntry
from kagura_tasks.cache.key import cache_key
from kagura_tasks.cache.llm_cache import LLMCache, RedisCache
from kagura_tasks.cache.redis import entry_key
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.settings import RedisUrl, Settings
from tests.support.samples import MODEL, completion, request
from tests.support.wait import auntil


@pytest.fixture
def cache() -> LLMCache:
    """The RFC's default: in memory."""
    return LLMCache()


# The RFC's list.


async def test_get_of_an_absent_key_is_none(cache: LLMCache):
    """A miss is None, not an error."""
    assert await cache.get("absent") is None


async def test_get_returns_what_was_set(cache: LLMCache):
    """A hit is the stored answer: a Completion comes back as one."""
    answer = completion(usage=Usage(total_tokens=3, cost_usd=0.1))
    assert await cache.set("key", answer)
    assert await cache.get("key") == answer


async def test_any_json_value_can_be_set(cache: LLMCache):
    """Also what is no completion, as the RFC has it: texts, lists, objects."""
    for value in ("text", ["a", 1], {"a": {"b": None}}):
        assert await cache.set("key", value)
        assert await cache.get("key") == value


async def test_an_entry_expires(cache: LLMCache):
    """After its TTL an entry is gone."""
    await cache.set("key", "value", ttl=1)
    assert await cache.get("key") == "value"

    async def is_gone() -> bool:
        return await cache.get("key") is None

    await auntil(is_gone)


async def test_the_least_recently_used_entry_is_evicted():
    """`max_size` is a limit; what was used last stays."""
    cache = LLMCache(max_size=2)
    await cache.set("a", 1)
    await cache.set("b", 2)
    await cache.get("a")
    await cache.set("c", 3)
    assert [await cache.get(key) for key in ("a", "b", "c")] == [1, None, 3]


async def test_max_size_is_kept():
    """However many are set, no more than `max_size` stay."""
    cache = LLMCache(max_size=10)
    for number in range(100):
        await cache.set(f"key-{number}", number)
    assert (await cache.stats())["size"] == 10


def test_key_for_is_deterministic(cache: LLMCache):
    """The same request has the same key, in every cache."""
    assert cache.key_for("hello", MODEL, temperature=1) == LLMCache().key_for("hello", MODEL, temperature=1)
    assert cache.key_for("hello", MODEL) != cache.key_for("bye", MODEL)


def test_key_for_does_not_depend_on_the_order_of_keywords(cache: LLMCache):
    """Keywords have no order."""
    assert cache.key_for("hello", MODEL, a=1, b=2) == cache.key_for("hello", MODEL, b=2, a=1)


async def test_invalidate_all(cache: LLMCache):
    """Without arguments everything goes."""
    await cache.set("a", 1)
    await cache.set("b", 2)
    assert await cache.invalidate() == 2
    assert await cache.get("a") is None


async def test_invalidate_by_pattern(cache: LLMCache):
    """With a pattern, what matches goes, and the rest stays."""
    await cache.set("user:1", 1)
    await cache.set("user:2", 2)
    await cache.set("order:1", 3)
    assert await cache.invalidate("user") == 2
    assert await cache.get("order:1") == 3


async def test_stats_and_hit_rate(cache: LLMCache):
    """The RFC's keys, and what a hit rate is."""
    await cache.set("key", completion(usage=Usage(total_tokens=10, cost_usd=0.5)))
    for key in ("key", "key", "key", "absent"):
        await cache.get(key)
    stats = await cache.stats()
    assert stats == {
        "backend": "memory",
        "size": 1,
        "max_size": 1000,
        "hits": 3,
        "misses": 1,
        "hit_rate": 0.75,
        "shared": 0,
        "corrupt": 0,
        "tokens_saved": 30,
        "usd_saved": 1.5,
    }


async def test_an_empty_cache_has_zeros(cache: LLMCache):
    """A cache that nobody used has a hit rate, too."""
    stats = await cache.stats()
    assert (stats["hits"], stats["misses"], stats["size"], stats["hit_rate"]) == (0, 0, 0, 0.0)
    assert await cache.invalidate() == 0


async def test_concurrent_use_loses_nothing(fleet_cache: LLMCache):
    """A hundred sets and gets at once, over fewer connections than that."""

    async def one(number: int) -> object:
        await fleet_cache.set(f"key-{number}", number)
        return await fleet_cache.get(f"key-{number}")

    assert await asyncio.gather(*(one(number) for number in range(100))) == list(range(100))
    stats = await fleet_cache.stats()
    assert (stats["hits"], stats["size"]) == (100, 100)


async def test_a_large_response_is_kept_whole(fleet_cache: LLMCache):
    """Five megabytes of text come back as they went."""
    answer = completion("長い" * 800_000)
    assert await fleet_cache.set("key", answer)
    assert await fleet_cache.get("key") == answer


def test_an_entry_knows_whether_it_is_expired():
    """CacheEntry, as the RFC has it."""
    now = datetime.now(UTC)
    assert not CacheEntry("key", "value").is_expired
    assert not CacheEntry("key", "value", created_at=now - timedelta(seconds=59), ttl=60).is_expired
    assert CacheEntry("key", "value", created_at=now - timedelta(seconds=61), ttl=60).is_expired


# What is kept.


@pytest.mark.parametrize(
    "answer",
    [
        completion(finish_reason="length"),
        completion(finish_reason="content_filter"),
        completion(finish_reason="error"),
        completion(finish_reason="made up"),
        completion(finish_reason=""),
        completion(""),
        completion(" \n\t"),
        completion("", "tool_calls"),
    ],
    ids=lambda answer: f"{answer.finish_reason!r} with {answer.text!r}",
)
async def test_an_incomplete_answer_is_not_kept(cache: LLMCache, answer: Completion):
    """Cut, filtered, empty, or ended for a reason that nobody knows: the next caller asks again."""
    assert not await cache.set("key", answer)
    assert not await cache.remember(request(), answer)
    assert await cache.get("key") is None
    assert (await cache.stats())["size"] == 0


@pytest.mark.parametrize(
    "answer",
    [completion(), completion("", "tool_calls", tool_calls=({"id": "1"},)), completion("see:", "tool_calls")],
    ids=["text", "tools", "text and tools"],
)
async def test_a_complete_answer_is_kept(cache: LLMCache, answer: Completion):
    """A text that ended by itself, or a call for tools."""
    assert await cache.remember(request(), answer)
    assert await cache.alookup(request()) == answer.as_cached()


async def test_a_remembered_answer_says_that_it_cost_nothing(fleet_cache: LLMCache):
    """It is marked as cached, took no attempt, and keeps the usage of the call behind it; in both worlds."""
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cost_usd=0.25)
    await fleet_cache.remember(request(), completion(usage=usage, attempts=2))
    remembered = fleet_cache.lookup(request())
    assert remembered == await fleet_cache.alookup(request())
    assert remembered is not None
    assert (remembered.cached, remembered.attempts, remembered.usage) == (True, 0, usage)


async def test_a_requests_own_ttl_and_tags_count(fleet_cache: LLMCache, client_of_redis: redis.Redis):
    """`cache_ttl_s` is the entry's TTL, and its tags drop it."""
    asked = request(cache_ttl_s=7, tags=("news",))
    await fleet_cache.remember(asked, completion())
    assert 5 < client_of_redis.ttl(entry_key("default", cache_key(asked))) <= 7
    assert await fleet_cache.invalidate(tag="news") == 1
    assert await fleet_cache.alookup(asked) is None


async def test_each_tenant_has_answers_of_its_own(fleet_cache: LLMCache):
    """The same request of two tenants is asked twice."""
    await fleet_cache.remember(request(tenant="me"), completion())
    assert await fleet_cache.alookup(request(tenant="you")) is None
    assert await fleet_cache.invalidate(tenant="you") == 0
    assert await fleet_cache.invalidate(tenant="me") == 1


async def test_what_has_no_json_form_is_refused(cache: LLMCache):
    """The caller's mistake is an error, not a silent miss."""
    with pytest.raises(TypeError):
        await cache.set("key", object())


async def test_a_text_that_somebody_set_is_an_answer(cache: LLMCache):
    """As in the RFC, the answer to a request can be set by hand; another JSON value answers no request."""
    key = cache_key(request())
    await cache.set(key, "just a text")
    answer = cache.lookup(request())
    assert answer is not None
    assert answer == await cache.alookup(request())
    assert (answer.text, answer.cached, answer.model) == ("just a text", True, MODEL)
    await cache.set(key, {"text": "no text"})
    assert cache.lookup(request()) is None
    assert await cache.alookup(request()) is None


# How it is opened.


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "memcached"},
        {"default_ttl": 0},
        {"default_ttl": -1},
        {"max_size": 0},
        {"backend": "redis", "redis_url": "http://localhost"},
        {"backend": "redis", "redis_url": "nonsense"},
    ],
    ids=str,
)
def test_a_wrong_cache_is_a_configuration_error(wrong: dict[str, Any]):
    """An unknown backend, an address that is none, a TTL or size below 1."""
    with pytest.raises(ConfigurationError):
        LLMCache(**wrong)


async def test_the_fleets_cache_follows_the_settings(redis_url: RedisUrl):
    """`from_settings` takes address, TTL and tenant; `cache_url` wins over `redis_url`."""
    settings = Settings(redis_url=RedisUrl("redis://nowhere:1/0"), cache_url=redis_url, cache_ttl_s=9, tenant="acme")
    cache = LLMCache.from_settings(settings)
    assert (cache.backend, cache.default_ttl, cache.tenant) == ("redis", 9, "acme")
    assert await cache.set("key", "value")
    assert await RedisCache(redis_url, tenant="acme").get("key") == "value"
    await cache.close()


async def test_the_address_is_read_from_the_environment(redis_url: RedisUrl, monkeypatch: pytest.MonkeyPatch):
    """RedisCache() without an address uses KAGURA_TASKS_REDIS_URL."""
    monkeypatch.setenv("KAGURA_TASKS_REDIS_URL", str(redis_url))
    cache = RedisCache()
    assert await cache.set("key", "value")
    assert await cache.get("key") == "value"
    await cache.close()


async def test_stored_values_are_plain_json(fleet_cache: LLMCache, client_of_redis: redis.Redis):
    """Whoever looks into Redis sees JSON, with the answer in it, and no prompt."""
    await fleet_cache.remember(request("the prompt"), completion("the answer"))
    (name,) = client_of_redis.scan_iter(match=entry_key("default", "*"))
    value = client_of_redis.get(name)
    assert json.loads(value)["response"]["text"] == "the answer"
    assert b"the prompt" not in value
