"""Readers in threads of their own, and workers of all pools, so that a test may do harm while a stream is written."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.streaming.events import Chunk, Event
from kagura_tasks.streams import LLMStream
from tests.support.chaos import worker_options
from tests.support.llm import StubServer
from tests.support.results import collect_results
from tests.support.stream_places import text_of
from tests.support.wait import until
from tests.support.workers import Worker


class Reading:
    """Reads a stream to its end in the background.

    Attributes:
        stream: What is read.
        events: What was read so far.
        error: What ended the reading, if not the stream's end.
    """

    def __init__(self, stream: LLMStream) -> None:
        """Begin."""
        self.stream = stream
        self.events: list[Event] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def until_text(self, attempt: int = 1, pieces: int = 2) -> None:
        """Wait until so many pieces of that attempt's text are there."""
        until(lambda: self.error or self._pieces_of(attempt) >= pieces, what=f"text of attempt {attempt}")
        if self.error is not None:
            raise self.error

    def until_over(self, timeout_s: float = 40.0) -> Event:
        """Wait for the end; the last event."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"no end within {timeout_s:g} s after {self.kinds[-3:]}"
        if self.error is not None:
            raise self.error
        return self.events[-1]

    @property
    def kinds(self) -> list[str]:
        """What was read, without text and heartbeats."""
        return [event.kind for event in self.events if event.kind not in ("chunk", "heartbeat")]

    @property
    def text(self) -> str:
        """The text of the last attempt."""
        return text_of(self.events)

    def _pieces_of(self, attempt: int) -> int:
        return sum(isinstance(event, Chunk) and event.attempt == attempt for event in list(self.events))

    def _read(self) -> None:
        try:
            for event in self.stream.events():
                self.events.append(event)
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits for the end)
            self.error = error


def all_text(events: Iterable[Event]) -> str:
    """Every piece of text in them, of whatever attempt."""
    return "".join(event.text for event in events if isinstance(event, Chunk))


@dataclass(frozen=True)
class PoolScene:
    """A worker of one pool, which lives as long as the session, with a database of its own."""

    server: EmbeddedRedis
    stub: StubServer
    settings: Settings
    worker: Worker
    concurrency: int

    @cached_property
    def client(self) -> LLMClient:
        """Sends to this worker."""
        return LLMClient(self.settings)

    @property
    def redis(self) -> redis.Redis:
        """A plain client, to look behind the scenes."""
        return sync_client(self.settings.results, 2.0)

    def request_of(self, prompt: str) -> dict[str, Any]:
        """What the provider's ledger has of the prompt's last call, once that is there."""
        return until(lambda: self._requests(prompt)[-1:], what="a call")[0]

    def calls_of(self, prompt: str) -> int:
        """How often the provider was asked."""
        return len(self._requests(prompt))

    def _requests(self, prompt: str) -> list[dict[str, Any]]:
        requests = self.stub.ledger()["requests"]
        return [one for one in requests if one["body"]["messages"][-1]["content"] == prompt]


@contextmanager
def pool_scenes(server: EmbeddedRedis, stub: StubServer, folder: Path) -> Iterator[dict[str, PoolScene]]:
    """A scene for each pool, on one server. Their workers' terms are short."""
    environment = {
        "KAGURA_TASKS_VISIBILITY_TIMEOUT_S": "3",
        "KAGURA_TASKS_FLIGHT_LEASE_S": "1",
        "KAGURA_TASKS_STREAM_HEARTBEAT_S": "0.5",
    }
    started: dict[str, tuple[str, Worker]] = {}
    concurrency = 4
    try:
        for number, pool in enumerate(("threads", "prefork", "asyncio")):
            url = re.sub(r"0$", str(number), server.url)
            options = worker_options(pool, concurrency, environment=environment)
            started[pool] = url, Worker(url, stub.base_url, folder, options)
        terms = {"visibility_timeout_s": 3.0, "stream_heartbeat_s": 0.5}
        yield {
            pool: PoolScene(server, stub, Settings(redis_url=url, **terms), worker.ready(), concurrency)
            for pool, (url, worker) in started.items()
        }
    finally:
        collect_results()
        for _, worker in started.values():
            worker.kill9()
