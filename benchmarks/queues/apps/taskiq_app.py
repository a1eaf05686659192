"""taskiq, on its two Redis brokers. Each worker is started with one of them."""

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queues.bodies import Bodies

URL = os.environ["BENCHMARKS_REDIS_URL"]
bodies = Bodies.of_this_worker()

stream = RedisStreamBroker(URL, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(URL))
one_list = ListQueueBroker(URL, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(URL))


@stream.task("noop")
async def noop_of_stream() -> None:
    bodies.note()


@one_list.task("noop")
async def noop_of_list() -> None:
    bodies.note()
