"""What a worker says at its start about the servers that it depends on."""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from kagura_tasks.broker_health import problems_of
from kagura_tasks.connections import sync_client
from kagura_tasks.settings import RedisUrl, Settings

log = logging.getLogger(__name__)


def log_broker_problems(settings: Settings) -> None:
    """Warn of what may cost tasks or results one day: eviction, little memory, nothing on a disk.

    Never raises: one round trip to each server, and one that is away, or does not tell, is passed over. Connecting says
    what is to be said about it.
    """
    duties: dict[RedisUrl, list[str]] = {}
    for duty, url in (("broker", settings.broker), ("results", settings.results)):
        duties.setdefault(url, []).append(duty)
    for url, of_it in duties.items():
        for problem in problems_of(_info(url, settings.redis_timeout_s), of_it):
            log.warning("Redis at %s (%s): %s: %s", url.masked(), ", ".join(of_it), problem.message, problem.mend)


def _info(url: RedisUrl, timeout_s: float) -> dict[str, object]:
    """What the server tells about itself; nothing where it is away, or refuses."""
    try:
        return sync_client(url, timeout_s).info()
    except (RedisError, OSError, ValueError):  # ValueError: such as a host's name that cannot be one
        return {}
