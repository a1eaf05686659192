"""What the unit tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from kagura_tasks.cache.llm_cache import LLMCache, RedisCache
from kagura_tasks.settings import RedisUrl


@pytest_asyncio.fixture
async def fleet_cache(redis_url: RedisUrl) -> AsyncIterator[LLMCache]:
    """The fleet's cache, on a Redis that is there."""
    cache = RedisCache(redis_url)
    yield cache
    await cache.close()
