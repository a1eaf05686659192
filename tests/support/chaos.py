"""A server, a provider and workers that a test may kill, freeze and restart, and the account afterwards."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.result import AsyncResult

from kagura_tasks import LLMClient, Settings
from kagura_tasks.app import create_app
from kagura_tasks.connections import sync_client
from kagura_tasks.delivery_keys import COUNTS, LEASES
from kagura_tasks.embedded_redis import EmbeddedRedis
from tests.support.llm import StubServer
from tests.support.results import collect_results
from tests.support.wait import until
from tests.support.workers import Fleet, Worker, WorkerOptions

#: What the workers here are started with, unless a test says otherwise. Seconds.
VISIBILITY_TIMEOUT_S = 3.0
RENEWAL_S = 0.5


class Scene:
    """One test's Redis, provider and workers. Everything that a test kills was started by it."""

    def __init__(self, server: EmbeddedRedis, stub: StubServer, folder: Path) -> None:
        self.server = server
        self.stub = stub
        self.settings = Settings(
            redis_url=server.url, visibility_timeout_s=VISIBILITY_TIMEOUT_S, lease_renewal_s=RENEWAL_S
        )
        self.client = LLMClient(self.settings)
        self.fleet = Fleet(server.url, stub.base_url, folder)
        self._app: Celery | None = None

    def workers(self, count: int = 1, pool: str = "threads", concurrency: int = 4, **options: Any) -> list[Worker]:
        """Start workers that forget the dead quickly. `environment` and `arguments` as in WorkerOptions."""
        leases = {
            "KAGURA_TASKS_VISIBILITY_TIMEOUT_S": str(VISIBILITY_TIMEOUT_S),
            "KAGURA_TASKS_LEASE_RENEWAL_S": str(RENEWAL_S),
        }
        environment = {**leases, **options.pop("environment", {})}
        return self.fleet(count, worker_options(pool, concurrency, environment=environment, **options))

    def ask(self, prompt: str, task: str = "team.ask", **options: Any) -> AsyncResult[Any]:
        """Send a task of the team's own."""
        if self._app is None:
            self._app = create_app(self.settings)
        return self._app.send_task(task, args=[prompt], queue="llm", **options)

    @property
    def redis(self) -> redis.Redis:
        """A plain client, to look behind the scenes."""
        return sync_client(self.settings.broker, 2.0)

    def counts(self) -> dict[str, int]:
        """What happened to deliveries that did not go the usual way."""
        return {name.decode(): int(number) for name, number in self.redis.hgetall(COUNTS).items()}

    def calls(self) -> Counter[str]:
        """How often the provider was asked each prompt."""
        return Counter(one["body"]["messages"][-1]["content"] for one in self.stub.ledger()["requests"])

    def until_called(self, *prompts: str, times: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until the provider was asked all of these so often."""
        until(lambda: all(self.calls()[one] >= times for one in prompts), timeout_s, f"calls for {prompts}")

    def until_settled(self, timeout_s: float = 20.0) -> None:
        """Wait until no worker holds anything, and nothing waits."""
        keys = ["unacked", "unacked_index", LEASES, "llm", "llm\x06\x163", "llm\x06\x166", "llm\x06\x169"]
        until(lambda: not self.redis.exists(*keys), timeout_s, "nothing held and nothing waiting")

    def close(self) -> None:
        """End the workers."""
        collect_results()
        if self._app is not None:
            self._app.close()
        self.fleet.stop()


def worker_options(pool: str, concurrency: int, **options: Any) -> WorkerOptions:
    """Options of a worker on the app for such tests."""
    return WorkerOptions(pool=pool, concurrency=concurrency, app="tests.support.chaos_app", **options)


def freeze(worker: Worker) -> None:
    """Stop it and its children, as a paused virtual machine is."""
    os.killpg(worker.pid, signal.SIGSTOP)


def thaw(worker: Worker) -> None:
    """Go on after `freeze`."""
    os.killpg(worker.pid, signal.SIGCONT)


def answers(results: Iterable[Any], timeout_s: float = 60.0) -> list[str]:
    """The text of each, in order."""
    return [result.get(timeout_s=timeout_s).text for result in results]
