"""taskiq, on its two Redis brokers. Each worker is started with one of them."""

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queues.apps.llm_call import ask

URL = os.environ["BENCHMARKS_REDIS_URL"]

stream = RedisStreamBroker(URL, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(URL))
one_list = ListQueueBroker(URL, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(URL))

for broker in (stream, one_list):
    broker.task("complete")(ask)
