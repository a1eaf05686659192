"""Counts what tasks did that end without a result: cancelled, tried again later, handed back, or not asked for one."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.signals import task_postrun

from kagura_tasks import parking
from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client, sync_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.metrics import tallies
from kagura_tasks.metrics.names import COUNTED
from kagura_tasks.metrics.steps import COUNT_TASK
from kagura_tasks.redis_types import Argument
from kagura_tasks.result_backend import tag_of
from kagura_tasks.settings import Settings

log = logging.getLogger(__name__)


def count_what_ends(app: Celery, settings: Settings) -> None:
    """Count what the app's tasks did that nobody has counted by the time they end."""
    counter = _Counter(settings)

    def count(task: Any = None, state: str | None = None, **_: object) -> None:
        if getattr(task, "app", None) is app:
            counter.count(task.request, state)

    # Not weak: nobody else keeps this function alive.
    task_postrun.connect(count, weak=False)


class _Counter:
    """Sends what is left to be counted."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.results
        self._timeout_s = settings.redis_timeout_s

    def count(self, request: Any, state: str | None) -> None:
        tally = tallies.ended(request, state)
        if tally is None or tally.is_counted:
            return
        tally.is_counted = True
        document = tally.document()
        keys = [taken_key(tag_of(request) or str(request.id)), f"{COUNTED}{uuid4().hex}"]
        try:
            self._send(keys, [document])
        except CANNOT_WRITE_NOW as error:
            log.warning("what a task did is not counted: Redis is away, or full (%s)", type(error).__name__)

    def _send(self, keys: list[str], args: list[Argument]) -> None:
        wait = parking.awaiter()
        if wait is None:
            _ = COUNT_TASK.run(sync_client(self._url, self._timeout_s), keys, args)
        else:
            wait(COUNT_TASK.arun(async_client(self._url, self._timeout_s), keys, args))
