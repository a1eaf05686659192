"""`async def` tasks, which only the asyncio pool can run."""

from __future__ import annotations

import logging
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from celery import Celery

from kagura_tasks.errors import ConfigurationError

log = logging.getLogger(__name__)

#: What `CELERY_CUSTOM_WORKER_POOL` has to be for a worker with `-P custom` to run them.
POOL: Final = "kagura_tasks.worker.pool:TaskPool"


def refuse_coroutines(app: Celery) -> None:
    """Say it at a worker's start, and let each of them fail with it.

    Celery would call the task, await nothing, and say that a coroutine is not JSON serializable.
    """
    for task in cast("dict[str, Any]", app.tasks).values():
        if iscoroutinefunction(getattr(task, attribute_of_body(task))):
            _refuse(task)


def attribute_of_body(task: Any) -> str:
    """With `autoretry_for`, `run` is Celery's: it catches what the body raises, and the body is beside it."""
    return "_orig_run" if hasattr(task, "_orig_run") else "run"


def _refuse(task: Any) -> None:
    error = ConfigurationError(
        f"the task {task.name} is an `async def`, which this worker's pool cannot run: start the worker with "
        f"`--pool=custom` and CELERY_CUSTOM_WORKER_POOL={POOL} in its environment"
    )
    log.error("%s", error)

    def run(*_: Any, **__: Any) -> Any:
        raise error

    # Not its body: an `autoretry_for` that catches everything would try again and again.
    task.run = wraps(task.run)(run)
