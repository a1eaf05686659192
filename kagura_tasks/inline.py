"""The same calls in this process: no Redis, no worker. For notebooks, tests and the first hour."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future
from typing import Final

from celery import Celery, states
from kombu.utils.uuid import uuid

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.errors import ResultTimeout, TaskCancelled, TaskFailed
from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.provider import Provider
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.worker.completion import CompletionRunner
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.retries import RetryPolicy
from kagura_tasks.worker.runtime import open_providers
from kagura_tasks.worker.single_flight import LocalSingleFlight

#: Where all inline calls of this process run, whichever client made them.
_CALLS: Final = LoopThread("kagura-inline")


class InlineExecutor:
    """Makes calls on an event loop of this process. The cache is in memory, and so are the handles of calls."""

    def __init__(self, settings: Settings, _app: Celery, provider: Provider | None = None) -> None:
        """Take the settings; the Celery app is not used. LiteLLM is imported at the first call."""
        self._settings = settings
        self.cache = LLMCache("memory", default_ttl=settings.cache_ttl_s, tenant=settings.tenant)
        self._provider = provider
        self._runner: CompletionRunner | None = None
        self._opening = asyncio.Lock()
        self._calls: dict[str, Future[Completion]] = {}

    def submit(self, request: CompletionRequest, *, looked_up: bool) -> LLMResult:
        """Start the call."""
        task_id = uuid()
        call = _CALLS.submit(self._run(Job(request, task_id, looked_up=looked_up)))
        self._calls[task_id] = call
        call.add_done_callback(lambda _: self._calls.pop(task_id, None))
        return LLMResult(task_id, InlineAnswer(task_id, call, self._settings.wait_timeout_s))

    async def asubmit(self, request: CompletionRequest, *, looked_up: bool) -> LLMResult:
        """The same: starting blocks nobody."""
        return self.submit(request, looked_up=looked_up)

    def result(self, task_id: str) -> LLMResult:
        """The handle of a call that is running in this process. Raises TaskFailed for any other."""
        call = self._calls.get(task_id)
        if call is None:
            raise TaskFailed("UnknownTask", "no such call is running in this process, and inline calls leave no record")
        return LLMResult(task_id, InlineAnswer(task_id, call, self._settings.wait_timeout_s))

    async def _run(self, job: Job) -> Completion:
        async with self._opening:
            self._runner = self._runner or await self._open_runner()
        return await self._runner.run(job)

    async def _open_runner(self) -> CompletionRunner:
        return CompletionRunner(
            provider=self._provider or await asyncio.to_thread(open_providers, self._settings),
            flights=LocalSingleFlight(self.cache),
            records=_no_record,
            policy=RetryPolicy.from_settings(self._settings),
            call_timeout_s=self._settings.call_timeout_s,
            # There is no queue to go back to: any wait is sat out here.
            short_wait_s=float("inf"),
        )


async def _no_record(_task_id: str) -> None:
    """Inline calls are started once, and leave no record."""


class InlineAnswer:
    """The answer of a call in this process."""

    def __init__(self, task_id: str, call: Future[Completion], wait_timeout_s: float) -> None:
        """Take the call, and the seconds to wait for it where nobody says."""
        self._task_id = task_id
        self._call = call
        self._wait_timeout_s = wait_timeout_s

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource."""
        wait_s = self._wait_timeout_s if timeout_s is None else timeout_s
        if self._call.cancelled():
            raise TaskCancelled(self._task_id)
        try:
            async with asyncio.timeout(wait_s):
                # Shielded: giving up waiting is not cancelling.
                return await asyncio.shield(asyncio.wrap_future(self._call))
        except TimeoutError:
            raise ResultTimeout(self._task_id, wait_s) from None
        except (asyncio.CancelledError, CancelledError):
            if self._call.cancelled():
                raise TaskCancelled(self._task_id) from None
            raise

    def status(self) -> str:
        """See AnswerSource."""
        if not self._call.done():
            return states.PENDING
        if self._call.cancelled():
            return states.REVOKED
        return states.FAILURE if self._call.exception() else states.SUCCESS

    def cancel(self) -> None:
        """See AnswerSource. Inline calls start at once, so this ends a running one."""
        self._call.cancel()
