"""The app of a worker for canvas: `workers.main` with tasks of a team's own. What they are told is a list in Redis."""

from __future__ import annotations

import os
from typing import Any

import redis

from workers.main import app

_redis = redis.Redis.from_url(os.environ["KAGURA_TASKS_REDIS_URL"])


@app.task
def add(one: int, two: int) -> int:
    """A number, not a completion."""
    return one + two


@app.task
def tell(what: Any, where: str) -> None:
    """A link."""
    with _redis.pipeline() as pipe:
        pipe.rpush(where, str(what))
        pipe.expire(where, 300)
        pipe.execute()


@app.task
def tell_of_error(request: Any, error: Any, traceback: Any, where: str) -> None:
    """An errback."""
    tell(repr(error), where)
