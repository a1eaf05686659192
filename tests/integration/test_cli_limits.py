"""`kagura-tasks limits`: what is used, who waits, what is closed."""

from __future__ import annotations

import re

import pytest

from kagura_tasks.connections import async_client
from kagura_tasks.limits.store import Ask, Budget, Ended, Limit, LimitStore
from kagura_tasks.limits.terms import LimitTerms
from kagura_tasks.settings import RedisUrl
from tests.integration.test_cli import document, kagura


@pytest.fixture
async def used(redis_url: RedisUrl) -> None:
    """A limit with a call that runs and one that waits, one that its provider paused, and a budget."""
    store = LimitStore(async_client(redis_url, 2.0))
    busy = Limit("openai/*", LimitTerms(requests_per_min=600, tokens_per_min=9000, concurrency=1), 100)
    paused = Limit("anthropic/*", LimitTerms(concurrency=8))

    def call(name: str, limit: Limit, budgets: list[Budget]) -> Ask:
        return Ask(name, name, "acme", 1.0, 3, [limit], budgets, 60.0)

    calls = [call("runs", busy, [Budget("acme", 5.0, 0.25)]), call("waits", busy, []), call("refused", paused, [])]
    for one in calls:
        await store.reserve(one, stay_s=60, may_leave=True)
    await store.settle(calls[2], Ended("limited", pause_s=60))


def test_limits_and_budgets_stand_in_a_table(used: None, redis_url: str):
    """A line for each."""
    lines = kagura("limits", redis_url=redis_url).stdout.splitlines()
    anthropic, openai = (next(line for line in lines if line.startswith(name)) for name in ("anthropic", "openai"))
    assert openai.split() == ["openai/*", "1", "of", "600", "100", "of", "9,000", "1", "of", "1", "1", "open"]
    assert re.search(r"paused by the provider for (5\d|60)\.", anthropic)
    assert any("0.2500 set aside, of 5.0000 today" in line for line in lines)


def test_json_is_for_machines(used: None, redis_url: str):
    """Limits by their pattern, budgets by their tenant."""
    found = document(kagura("limits", "--json", redis_url=redis_url))
    assert (found["limits"]["openai/*"]["running"], found["limits"]["openai/*"]["waiting"]) == (1, 1)
    assert found["limits"]["anthropic/*"]["paused_ms"] > 50_000
    assert found["budgets"] == {"acme": {"allowed_usd": 5.0, "spent_usd": 0.0, "reserved_usd": 0.25}}


def test_nothing_is_said_to_be_nothing(redis_url: RedisUrl):
    """And which setting makes it something."""
    assert "KAGURA_TASKS_LIMITS" in kagura("limits", redis_url=redis_url).stdout
