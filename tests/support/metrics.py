"""Counters as a fleet would have left them, for whoever looks at them."""

from __future__ import annotations

import math
import random
from collections import Counter

import redis

from kagura_tasks.metrics.names import DAY, MINUTE, OPEN, TOTAL, Histogram, Series
from kagura_tasks.settings import RedisUrl

#: Tenants, what they ask, calls a minute, tokens of a prompt and of an answer, cached ones among them, and USD a call.
_WORK = (
    (Series("shop", "openai/gpt-4o-mini", "kagura.complete"), 90, 620, 180, 380, 0.00017),
    (Series("shop", "anthropic/claude-sonnet-4-5", "kagura.route"), 14, 1900, 420, 1200, 0.0091),
    (Series("research", "openai/gpt-4o", "kagura.map_item"), 46, 1400, 350, 0, 0.0070),
    (Series("research", "openai/gpt-4o", "kagura.reduce"), 3, 9000, 800, 0, 0.0305),
)


def an_hour_of_work(url: RedisUrl) -> None:
    """Write the counters of an hour, the same each time but for the time itself."""
    client, dice = redis.Redis.from_url(url), random.Random(7)
    now_s = client.time()[0]
    client.set(OPEN, now_s // 60, ex=2_592_000)
    # The minute after this one as well: a picture may be taken then.
    for back in range(59, -2, -1):
        minute = now_s // 60 - back
        for series, rate, *tokens, usd in _WORK:
            wave = 1 + 0.45 * math.sin(back / 9 + rate) + dice.uniform(-0.12, 0.12)
            calls = round(rate * wave * (1 if back > 0 else 0.5))
            _add(client, minute, series, _counts(calls, tokens, usd, dice), is_closed=back > 0)
            _add(client, minute, series._replace(task="(none)"), _lookups(calls, dice), is_closed=back > 0)


def _counts(calls: int, tokens: list[int], usd: float, dice: random.Random) -> Counter[str]:
    prompt, completion, cached = tokens
    counts = Counter(
        done=calls - calls // 40,
        failed=calls // 40,
        calls=calls,
        prompt_tokens=calls * prompt,
        completion_tokens=calls * completion,
        cached_prompt_tokens=calls * cached,
        cost_picousd=round(calls * usd * 1e12),
    )
    counts["error:RateLimited"] = calls // 40
    for histogram, typical in ((Histogram.CALL, 9), (Histogram.FIRST_CHUNK, 5.6), (Histogram.QUEUE_WAIT, 2.4)):
        for _ in range(calls):
            bucket = min(max(round(dice.gauss(typical, 1.1)), 0), 14)
            counts[Histogram.bucket(histogram, bucket)] += 1
    return counts


def _lookups(calls: int, dice: random.Random) -> Counter[str]:
    return Counter(cache_misses=calls, cache_hits=round(calls * dice.uniform(0.5, 0.9)))


def _add(client: redis.Redis, minute: int, series: Series, counts: Counter[str], *, is_closed: bool) -> None:
    places = [(f"{MINUTE}{minute}", 7_200)]
    if is_closed:
        places += [(TOTAL, 2_592_000), (f"{DAY}{minute // 1440}", 691_200)]
    for key, ttl_s in places:
        with client.pipeline(transaction=False) as pipe:
            for name, by in counts.items():
                pipe.hincrby(key, f"{series} {name}", by)
            pipe.expire(key, ttl_s)
            pipe.execute()
