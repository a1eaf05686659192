"""dramatiq, with its Redis result backend."""

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.queues.bodies import Bodies

client = redis.Redis.from_url(os.environ["BENCHMARKS_REDIS_URL"], socket_timeout=None)
broker = RedisBroker(client=client)
broker.add_middleware(Results(backend=RedisBackend(client=client)))
dramatiq.set_broker(broker)
bodies = Bodies.of_this_worker()


@dramatiq.actor(actor_name="noop", store_results=True)
def noop() -> None:
    bodies.note()
