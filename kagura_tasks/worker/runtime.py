"""What a worker process shares: one event loop, one provider, one set of connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial

from kagura_tasks import task_store
from kagura_tasks.connections import REDIS_AWAY
from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.provider import Provider
from kagura_tasks.schemas import Completion
from kagura_tasks.settings import Settings
from kagura_tasks.task_store import TaskRecord
from kagura_tasks.worker.completion import CompletionRunner
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.retries import RetryPolicy
from kagura_tasks.worker.single_flight import RedisSingleFlight

log = logging.getLogger(__name__)


class Runtime:
    """Runs jobs on the process's one event loop, from however many threads or children Celery gives them to."""

    def __init__(self, settings: Settings, open_provider: Callable[[], Provider] | None = None) -> None:
        """Take the settings, and what makes the provider (default: `open_providers`). Starts nothing yet."""
        self.settings = settings
        self._open_provider = open_provider or partial(open_providers, settings)
        self._loop = LoopThread("kagura-worker")
        self._runner: CompletionRunner | None = None

    def run(self, job: Job) -> Completion:
        """The job's answer; the calling thread waits. Raises what CompletionRunner.run raises."""
        try:
            return self._loop.run(self.runner.run(job))
        except CancelledError:
            raise asyncio.CancelledError from None

    def preload(self) -> None:
        """Import the provider now: in the parent, before it forks, so that children share the memory and the wait."""
        _ = self.runner

    async def _finished_record(self, task_id: str) -> TaskRecord | None:
        try:
            record = await task_store.find(self.settings, task_id)
        except REDIS_AWAY as error:
            log.warning("a task's record could not be read (%s): starting it", type(error).__name__)
            return None
        return record if record.is_finished else None

    @property
    def runner(self) -> CompletionRunner:
        """Who answers, made when it is first needed."""
        if self._runner is None:
            self._runner = CompletionRunner(
                provider=self._open_provider(),
                flights=RedisSingleFlight(self.settings),
                records=self._finished_record,
                policy=RetryPolicy.from_settings(self.settings),
                call_timeout_s=self.settings.call_timeout_s,
            )
        return self._runner


def open_providers(settings: Settings) -> Provider:
    """Who makes the calls. LiteLLM is imported now: it takes seconds, so only those who make calls should wait."""
    from kagura_tasks.providers.lanes import Lanes
    from kagura_tasks.providers.litellm import LiteLLMProvider, prepare

    prepare()
    litellm = LiteLLMProvider()
    return litellm if settings.provider_lane == "litellm" else Lanes(litellm)
