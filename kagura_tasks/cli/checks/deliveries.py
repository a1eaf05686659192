"""What became of deliveries that did not go the usual way, and of messages that no worker will try again."""

from __future__ import annotations

from collections.abc import Iterator

from kagura_tasks.cli.checks.check import Check
from kagura_tasks.connections import redis_errors, sync_client
from kagura_tasks.dead_letters import DeadLetters
from kagura_tasks.delivery_keys import COUNTS
from kagura_tasks.settings import Settings


def check(settings: Settings) -> Iterator[Check]:
    """Read the fleet's counters, and count the dead letters."""
    with redis_errors(settings.broker):
        counts = sync_client(settings.broker, settings.redis_timeout_s).hgetall(COUNTS)
    yield judge({name.decode(): int(number) for name, number in counts.items()})
    dead = DeadLetters(settings).count()
    if dead:
        messages = "message that" if dead == 1 else "messages that"
        yield Check("delivery", "warning", f"{dead:,} {messages} no worker will try again", "kagura-tasks dead list")


def judge(counts: dict[str, int]) -> Check:
    """The counters in words. They are kept for 30 days after the last change: no fault by themselves."""
    told = [f"{name.replace('_', ' ')} {number:,}" for name, number in sorted(counts.items()) if number]
    return Check("delivery", "ok", ", ".join(told) or "every delivery went the usual way")
