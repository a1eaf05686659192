"""The caller's side of the other task queues. Each is imported only where it is installed and used.

Jobs are sent by name: the workers' programs, which define them, are in `apps`.
"""

from __future__ import annotations

from typing import Any, Final, cast

import redis.asyncio

from benchmarks.harness import Stage
from benchmarks.queues.clients import NOOP, AsyncQueueClient, QueueClient, timed

#: Callers that can only ask again and again for a result do so in this interval.
POLL_S: Final = 0.002

_TIMEOUT_MS: Final = 30_000


class TaskiqClient(AsyncQueueClient):
    """taskiq, with one of its two Redis brokers."""

    async def open(self) -> None:
        """See AsyncQueueClient."""
        from taskiq.kicker import AsyncKicker
        from taskiq_redis import RedisAsyncResultBackend

        self._broker: Any = self.new_broker().with_result_backend(RedisAsyncResultBackend(self.url))
        await self._broker.startup()
        self._noop: Any = AsyncKicker(NOOP, self._broker, {})

    def new_broker(self) -> Any:
        """The list broker, which knows no acknowledgement: a message is gone when a worker has it."""
        from taskiq_redis import ListQueueBroker

        return ListQueueBroker(self.url)

    async def send(self, job: str = NOOP, *arguments: str) -> str:
        """See AsyncQueueClient."""
        from taskiq.kicker import AsyncKicker

        return str((await AsyncKicker(job, self._broker, {}).kiq(*arguments)).task_id)

    async def round_trip(self) -> None:
        """See AsyncQueueClient."""
        await (await self._noop.kiq()).wait_result(check_interval=POLL_S)

    async def shut(self) -> None:
        """See AsyncQueueClient."""
        await self._broker.shutdown()

    def is_acknowledged(self) -> bool:
        """See QueueClient."""
        return self.redis.llen("taskiq") == 0


class TaskiqStreamClient(TaskiqClient):
    """taskiq on a stream with a consumer group."""

    def new_broker(self) -> Any:
        """See TaskiqClient."""
        from taskiq_redis import RedisStreamBroker

        return RedisStreamBroker(self.url)

    def is_acknowledged(self) -> bool:
        """See QueueClient."""
        (group,) = cast("list[dict[str, Any]]", self.redis.xinfo_groups("taskiq"))
        return group["pending"] == 0 and group["lag"] == 0


class SaqClient(AsyncQueueClient):
    """SAQ. A job's own record holds its result, and is there from the start."""

    async def open(self) -> None:
        """See AsyncQueueClient."""
        from saq.queue.redis import RedisQueue

        self._queue = RedisQueue(redis.asyncio.Redis.from_url(self.url))

    async def send(self, job: str = NOOP, *_: str) -> str:
        """See AsyncQueueClient. No benchmark gives SAQ a job with arguments."""
        enqueued = await self._queue.enqueue(job)
        assert enqueued is not None
        return enqueued.id

    async def round_trip(self) -> None:
        """See AsyncQueueClient."""
        await self._queue.apply(NOOP, poll_interval=POLL_S)

    async def shut(self) -> None:
        """See AsyncQueueClient."""
        await self._queue.disconnect()

    def is_acknowledged(self) -> bool:
        """A job leaves these in the transaction that stores its result."""
        return not self.redis.exists("saq:default:incomplete", "saq:default:queued", "saq:default:active")


class ArqClient(AsyncQueueClient):
    """arq."""

    async def open(self) -> None:
        """See AsyncQueueClient."""
        from arq.connections import ArqRedis

        self._pool = ArqRedis.from_url(self.url)

    async def send(self, job: str = NOOP, *arguments: str) -> str:
        """See AsyncQueueClient."""
        enqueued = await self._pool.enqueue_job(job, *arguments)
        assert enqueued is not None
        return f"arq:result:{enqueued.job_id}"

    async def round_trip(self) -> None:
        """See AsyncQueueClient."""
        from arq.jobs import ResultNotFound

        job = await self._pool.enqueue_job(NOOP)
        assert job is not None
        try:
            await job.result(poll_delay=POLL_S)
        except ResultNotFound:
            # It asks for the result, and then for the job: where the job ended in between, it misses both.
            await job.result()

    async def shut(self) -> None:
        """See AsyncQueueClient."""
        await self._pool.aclose()

    def is_acknowledged(self) -> bool:
        """See QueueClient."""
        return self.redis.zcard("arq:queue") == 0


class DramatiqClient(QueueClient):
    """dramatiq."""

    def __init__(self, stage: Stage, database: int) -> None:
        """See QueueClient."""
        from dramatiq.brokers.redis import RedisBroker
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend

        super().__init__(stage, database)
        self._results: Any = RedisBackend(url=self.url)
        self._broker: Any = RedisBroker(url=self.url)
        self._broker.add_middleware(Results(backend=self._results))
        self._broker.declare_queue("default")

    def enqueue(self, jobs: int) -> list[str]:
        """See QueueClient."""
        return [self._results.build_message_key(self._send()) for _ in range(jobs)]

    def is_acknowledged(self) -> bool:
        """See QueueClient."""
        return self.redis.hlen("dramatiq:default.msgs") == 0

    def round_trips(self, count: int, at_most_s: float) -> list[float]:
        """See QueueClient."""
        return timed(lambda: self._results.get_result(self._send(), block=True, timeout=_TIMEOUT_MS), count, at_most_s)

    def close(self) -> None:
        """See QueueClient."""
        self._broker.close()
        super().close()

    def _send(self) -> Any:
        from dramatiq import Message

        return self._broker.enqueue(Message(queue_name="default", actor_name=NOOP, args=(), kwargs={}, options={}))
