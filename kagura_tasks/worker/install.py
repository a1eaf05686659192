"""Everything that a Celery app needs to answer prompts, added in one call."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_init

from kagura_tasks.app import settings_of
from kagura_tasks.settings import Settings, load_settings
from kagura_tasks.worker import tasks
from kagura_tasks.worker.runtime import Runtime


def install(app: Celery, settings: Settings | None = None, *, preload: bool = True) -> None:
    """Add the tasks of this package to a Celery app. None of the app's settings is touched.

    Workers of the app then answer prompts from the queues they are told to serve (`-Q llm,llm.batch`).

    Args:
        app: Any Celery app with a Redis broker and a Redis result backend.
        settings: Default: the environment's (`KAGURA_TASKS_...`).
        preload: Import LiteLLM when a worker starts, before it forks, instead of at its first call.
    """
    runtime = Runtime(settings_of(app, settings or load_settings()))
    tasks.register(app, runtime)

    def preload_provider(sender: Any = None, **_: object) -> None:
        if preload and getattr(sender, "app", None) is app:
            runtime.preload()

    # Not weak: nobody else keeps this function alive.
    worker_init.connect(preload_provider, weak=False)
