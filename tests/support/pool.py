"""A worker on the asyncio pool, with the tasks of pool_app, and what the tests ask of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from celery import Signature
from celery.result import AsyncResult

from kagura_tasks import Settings
from kagura_tasks.app import create_app
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from tests.support.llm import StubServer
from tests.support.results import collect_results
from tests.support.wait import until
from tests.support.workers import Fleet, Worker, WorkerOptions

APP: Final = "tests.support.pool_app"


class PoolScene:
    """A Redis, a worker on the pool, and the caller's side."""

    def __init__(self, server: EmbeddedRedis, stub: StubServer, folder: Path) -> None:
        self.server = server
        self.stub = stub
        self.app = create_app(Settings(redis_url=server.url))
        self.fleet = Fleet(server.url, stub.base_url, folder)

    def start(self, concurrency: int, pool: str = "asyncio", **options: Any) -> Worker:
        """A further worker."""
        (worker,) = self.fleet(1, WorkerOptions(pool=pool, concurrency=concurrency, app=APP, **options))
        return worker

    @property
    def worker(self) -> Worker:
        """The last one that was started."""
        return self.fleet.workers[-1]

    def s(self, name: str, *args: Any, **options: Any) -> Signature[Any]:
        """A signature of one of pool_app's tasks."""
        return self.app.signature(f"{APP}.{name}", args=args, **options)

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Send one of pool_app's tasks."""
        return self.app.send_task(f"{APP}.{name}", args=args, **options)

    @property
    def redis(self) -> redis.Redis:
        """A plain client, to look behind the scenes."""
        return sync_client(self.server.url, 2.0)

    def notes(self, where: str) -> list[str]:
        """What tasks left word of, in order."""
        return [one.decode() for one in self.redis.lrange(where, 0, -1)]

    def stats(self) -> dict[str, Any]:
        """What `inspect stats` says of the pool."""
        # What is asked of a worker that has just begun to listen may be lost.
        inspect = self.app.control.inspect([self.worker.hostname], timeout=5.0)
        found = until(lambda: inspect.stats() or {}, what="an answer of the worker")
        return found[self.worker.hostname]["pool"]

    def until_settled(self) -> None:
        """Wait until no worker holds anything."""
        until(lambda: not self.redis.exists("unacked", "unacked_index"), what="nothing held")


@contextmanager
def pool_scene(stub: StubServer, folder: Path, *, appendonly: bool = False) -> Generator[PoolScene]:
    """One, with nothing started yet."""
    with EmbeddedRedis(appendonly=appendonly) as server:
        scene = PoolScene(server, stub, folder)
        try:
            yield scene
        finally:
            collect_results()
            scene.app.close()
            scene.fleet.stop()
