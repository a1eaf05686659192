"""Counts what tasks did that end without a result: cancelled, tried again later, handed back, or not asked for one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.signals import task_postrun, worker_init

from kagura_tasks import parking
from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client, sync_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.metrics import tallies
from kagura_tasks.metrics.names import COUNTED
from kagura_tasks.metrics.steps import COUNT_TASK
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.result_backend import tag_of
from kagura_tasks.settings import Settings

log = logging.getLogger(__name__)

#: Is told of a task that has ended, and of its request (a Celery `Context`).
Report = Callable[[Tally, Any], None]


def count_what_ends(app: Celery, settings: Settings) -> None:
    """When a task of the app's ends: count what nobody has counted of it, write its line, tell OpenTelemetry."""
    counter, reports = Counting(settings), cache(partial(_reports, settings))

    def prepare(sender: Any = None, **_: object) -> None:
        # Children of a pool share what is imported before they are forked.
        if getattr(sender, "app", None) is app:
            reports()

    def count(task: Any = None, state: str | None = None, **_: object) -> None:
        # Celery looks the request up each time that it is asked for it.
        request: Any = task.request if getattr(task, "app", None) is app else None
        tally = tallies.ended(request, state)
        if tally is not None:
            counter.count(tally, tag_of(request) or str(request.id))
            for report in reports():
                report(tally, request)

    # Not weak: nobody else keeps these functions alive.
    worker_init.connect(prepare, weak=False)
    task_postrun.connect(count, weak=False)


def _reports(settings: Settings) -> list[Report]:
    """Who is told of each task. What is not wanted is not imported."""
    reports = list[Report]()
    if settings.task_log != "none":
        from kagura_tasks.worker.task_log import TaskLog

        reports.append(TaskLog(settings.task_log))
    if _is_installed("opentelemetry.sdk"):
        from kagura_tasks.worker.telemetry import Telemetry

        reports.append(Telemetry())
    return reports


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is part of
        return False


class Counting:
    """Sends what is left to be counted."""

    def __init__(self, settings: Settings) -> None:
        """Take where the counters are."""
        self._url = settings.results
        self._timeout_s = settings.redis_timeout_s

    def count(self, tally: Tally, delivery_tag: str) -> None:
        """Count it, unless it is counted, or its message was given to another worker. Redis away: a warning."""
        if tally.is_counted:
            return
        wait = parking.awaiter()
        if wait is not None:
            wait(self.acount(tally, delivery_tag))
            return
        with _noted(tally):
            _ = COUNT_TASK.run(sync_client(self._url, self._timeout_s), _keys(delivery_tag), [tally.document()])

    async def acount(self, tally: Tally, delivery_tag: str) -> None:
        """The same, on an event loop."""
        with _noted(tally):
            client = async_client(self._url, self._timeout_s)
            _ = await COUNT_TASK.arun(client, _keys(delivery_tag), [tally.document()])


@contextmanager
def _noted(tally: Tally) -> Generator[None]:
    tally.is_counted = True
    try:
        yield
    except CANNOT_WRITE_NOW as error:
        log.warning("what a task did is not counted: Redis is away, or full (%s)", type(error).__name__)


def _keys(delivery_tag: str) -> list[str]:
    return [taken_key(delivery_tag), f"{COUNTED}{uuid4().hex}"]
