"""SAQ."""

import os

import redis.asyncio
from saq.queue.redis import RedisQueue

from benchmarks.queues.bodies import Bodies

bodies = Bodies.of_this_worker()


async def noop(_context: object) -> None:
    bodies.note()


URL = os.environ["BENCHMARKS_REDIS_URL"]

settings = {
    # redis-py refuses the 101st connection unless told otherwise, and SAQ holds one for each job that it waits for.
    "queue": RedisQueue(redis.asyncio.Redis.from_url(URL, max_connections=2000, socket_timeout=None)),
    "functions": [noop],
    "concurrency": int(os.environ["BENCHMARKS_CONCURRENCY"]),
}
