"""The caller's side of Celery, and what the caller's side of every queue does for these benchmarks."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, cast

import redis
from celery import Celery

from benchmarks.celery_records import all_answered
from benchmarks.harness import Stage

#: Every queue's job that does nothing.
NOOP: Final = "noop"

_TIMEOUT_S: Final = 30


class QueueClient(ABC):
    """Sends jobs that do nothing, and looks from outside how far they are."""

    def __init__(self, stage: Stage, database: int) -> None:
        """Connect to a database of the stage."""
        self.url = str(stage.url(database))
        self.redis: redis.Redis = stage.redis(database)

    @abstractmethod
    def enqueue(self, jobs: int) -> list[str]:
        """Send so many, one by one; returns the keys of their results in Redis."""

    def are_stored(self, keys: Sequence[str]) -> bool:
        """All results are in Redis."""
        return cast(int, self.redis.exists(*keys)) == len(keys)

    @abstractmethod
    def is_acknowledged(self) -> bool:
        """No message is left that a worker holds, or might get again."""

    @abstractmethod
    def round_trips(self, count: int, at_most_s: float) -> list[float]:
        """Send a job and wait for its result, one after the other, until one of the limits; each in ms."""

    def close(self) -> None:
        """Let go of the connections."""
        self.redis.close()


class CeleryClient(QueueClient):
    """A Celery app as the caller's side has it: stock, or ours."""

    def __init__(self, stage: Stage, database: int, app: Celery) -> None:
        """Take the app, which nobody else uses."""
        super().__init__(stage, database)
        self._app = app

    def send(self) -> Any:
        """One job; returns the AsyncResult."""
        return self._app.send_task(NOOP)

    def enqueue(self, jobs: int) -> list[str]:
        """See QueueClient."""
        return [self.key(self.send().id) for _ in range(jobs)]

    def are_stored(self, keys: Sequence[str]) -> bool:
        """All have succeeded. Raises BenchmarkError where one has failed."""
        return super().are_stored(keys) and all_answered(self.redis, [key.removeprefix(self.key("")) for key in keys])

    def is_acknowledged(self) -> bool:
        """See QueueClient."""
        return self.redis.hlen("unacked") == 0

    def round_trips(self, count: int, at_most_s: float) -> list[float]:
        """See QueueClient."""
        return timed(lambda: self.send().get(timeout=_TIMEOUT_S), count, at_most_s)

    def close(self) -> None:
        """See QueueClient."""
        backend: Any = self._app.backend
        backend.result_consumer.stop()
        backend.client.close()
        self._app.close()
        super().close()

    def key(self, task_id: str) -> str:
        """Where Celery keeps the result."""
        return f"celery-task-meta-{task_id}"


class AsyncQueueClient(QueueClient):
    """The caller's side of a queue whose API is async, on an event loop of its own."""

    def __init__(self, stage: Stage, database: int) -> None:
        """Open the loop."""
        super().__init__(stage, database)
        self._runner = asyncio.Runner()
        self._runner.run(self.open())

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def send(self, job: str = NOOP, *arguments: str) -> str:
        """One job; returns the key of its result."""

    @abstractmethod
    async def round_trip(self) -> None:
        """Send a job and wait for its result."""

    @abstractmethod
    async def shut(self) -> None:
        """Disconnect."""

    def enqueue(self, jobs: int) -> list[str]:
        """See QueueClient."""

        return self.enqueue_each([(NOOP,)] * jobs)

    def enqueue_each(self, jobs: Sequence[tuple[str, ...]]) -> list[str]:
        """Send these, each its name and its arguments; returns the keys of their results in Redis."""

        async def send_all() -> list[str]:
            return [await self.send(*job) for job in jobs]

        return self._runner.run(send_all())

    def round_trips(self, count: int, at_most_s: float) -> list[float]:
        """See QueueClient."""

        async def all_trips() -> list[float]:
            times_ms: list[float] = []
            deadline = time.monotonic() + at_most_s
            while len(times_ms) < count and time.monotonic() < deadline:
                started_at = time.perf_counter()
                await asyncio.wait_for(self.round_trip(), _TIMEOUT_S)
                times_ms.append((time.perf_counter() - started_at) * 1000)
            return times_ms

        return self._runner.run(all_trips())

    def close(self) -> None:
        """See QueueClient."""
        self._runner.run(self.shut())
        self._runner.close()
        super().close()


def timed(call: Any, count: int, at_most_s: float) -> list[float]:
    """Call it until one of the limits is reached; each in ms."""
    times_ms: list[float] = []
    deadline = time.monotonic() + at_most_s
    while len(times_ms) < count and time.monotonic() < deadline:
        started_at = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - started_at) * 1000)
    return times_ms
