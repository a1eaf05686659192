"""The same calls in this process: no Redis, no worker. For notebooks, tests and the first hour."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from celery import Celery, states

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.connections import close_async_clients
from kagura_tasks.errors import FileUnreadable, ResultTimeout, TaskCancelled, TaskFailed
from kagura_tasks.files.asking import FileWork
from kagura_tasks.files.documents import FileRef
from kagura_tasks.inline_files import InlineFiles
from kagura_tasks.inline_maps import InlineMaps, Note, Pay
from kagura_tasks.loops import LoopThread
from kagura_tasks.plans import ReducePlan, parts_of
from kagura_tasks.providers.provider import Provider
from kagura_tasks.results import LLMResult
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.events import Event
from kagura_tasks.streaming.local import LocalStreams
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.outlet import StreamTerms
from kagura_tasks.streaming.writer import StreamWriter
from kagura_tasks.worker.completion import CompletionRunner
from kagura_tasks.worker.exchanges import Exchanges
from kagura_tasks.worker.file_answers import answer_about
from kagura_tasks.worker.job import Delivery, Job, OverBudget
from kagura_tasks.worker.reducing import Reducer
from kagura_tasks.worker.retries import RetryPolicy
from kagura_tasks.worker.routing import QueryRouter
from kagura_tasks.worker.runtime import open_providers
from kagura_tasks.worker.single_flight import LocalSingleFlight

#: Where all inline calls of this process run, whichever client made them.
_CALLS: Final = LoopThread("kagura-inline")

#: Seconds that a process which ends gives its connections to providers to be closed.
_CLOSING_S: Final = 1.0


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
        self._streams = _InlineStreams(StreamTerms.from_settings(settings))
        self.maps = InlineMaps(self, _CALLS, settings.map_max_in_flight)
        self._files = InlineFiles(settings)

    def submit(self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False) -> LLMResult:
        """Start the call."""
        job = Job(request, task_id, looked_up=looked_up, is_streamed=stream)
        return self.begin(StreamName(request.tenant, task_id), self.answer(job))

    def begin(self, name: StreamName, work: Coroutine[Any, Any, Completion]) -> LLMResult:
        """Start work that ends with an answer; its handle."""
        call = _CALLS.submit(work)
        self._calls[name.task_id] = call
        call.add_done_callback(lambda _: self._calls.pop(name.task_id, None))
        return LLMResult(name.task_id, self._answer(name, call))

    async def asubmit(
        self, request: CompletionRequest, task_id: str, *, looked_up: bool, stream: bool = False
    ) -> LLMResult:
        """The same: starting blocks nobody."""
        return self.submit(request, task_id, looked_up=looked_up, stream=stream)

    def route(self, order: RouteOrder, task_id: str) -> LLMResult:
        """Start to decide and answer."""
        return self.begin(StreamName(order.tenant, task_id), self._routed(order, task_id))

    def embed(self, request: CompletionRequest, task_id: str) -> LLMResult:
        """Start the call of an embedding model."""
        return self.begin(StreamName(request.tenant, task_id), self._embedded(Job(request, task_id)))

    def keep_stream(self, request: CompletionRequest, task_id: str, completion: Completion) -> None:
        """Let a remembered answer be resumed like any other."""
        _ = _CALLS.submit(self._streams.keep(StreamName(request.tenant, task_id), completion))

    def result(self, task_id: str, tenant: str | None = None) -> LLMResult:
        """The handle of a call of this process. One that has ended leaves its stream, but no record."""
        name = StreamName(tenant or self._settings.tenant, task_id)
        return LLMResult(task_id, self._answer(name, self._calls.get(task_id)))

    def _answer(self, name: StreamName, call: Future[Completion] | None) -> InlineAnswer:
        return InlineAnswer(name, call, self._streams, self._settings.wait_timeout_s)

    async def answer(self, job: Job) -> Completion:
        """The job's answer, on the loop of the calls."""
        name = StreamName(job.request.tenant, job.task_id)
        if job.is_streamed:
            self._streams.reserve(name)
        try:
            return await (await self._opened()).run(job)
        except OverBudget:
            raise
        except (asyncio.CancelledError, TaskCancelled):
            if job.is_streamed:
                # Nothing happens where the stream has ended already.
                await self._streams.open(job).cancelled(Usage())
            raise asyncio.CancelledError from None

    async def about(self, ref: FileRef, work: FileWork, task_id: str, pay: Pay | None, note: Note) -> Completion:
        """The answer about a file, on the loop of the calls. `note` is told what became of the file."""
        row, asked, error = await self._files.look(ref, work)
        note(row)
        if asked is None:
            raise error or FileUnreadable(ref.path, "it was not loaded")
        runner = await self._opened()
        before_call = partial(pay, asked.asks) if pay else None
        return await answer_about(asked, Delivery(task_id), runner.ask, runner.provider, before_call)

    async def reduction(self, plan: ReducePlan, before: object, task_id: str) -> Completion:
        """The answer to what came before, by this plan, on the loop of the calls."""
        runner = await self._opened()
        return await Reducer(runner.provider, runner.ask).run(plan, *parts_of(before), Delivery(task_id))

    async def _routed(self, order: RouteOrder, task_id: str) -> Completion:
        return await QueryRouter(self._settings, await self._opened()).run(order, Delivery(task_id))

    async def _embedded(self, job: Job) -> Completion:
        return await (await self._opened()).embed(job)

    async def _opened(self) -> CompletionRunner:
        async with self._opening:
            self._runner = self._runner or await self._open_runner()
        return self._runner

    async def _open_runner(self) -> CompletionRunner:
        return CompletionRunner(
            provider=self._provider or await asyncio.to_thread(open_providers, self._settings),
            flights=LocalSingleFlight(self.cache),
            streams=self._streams,
            heed=_heed,
            records=_no_record,
            exchanges=Exchanges.of_process(self._settings),
            policy=RetryPolicy.from_settings(self._settings),
            fallbacks=self._settings.fallbacks,
            call_timeout_s=self._settings.call_timeout_s,
            # There is no queue to go back to: any wait is sat out here.
            short_wait_s=float("inf"),
        )


@asynccontextmanager
async def _heed(task_id: str) -> AsyncGenerator[None]:
    """An inline call is ended by its future, and for no other reason than that it was cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        raise TaskCancelled(task_id) from None


async def _no_record(_task_id: str) -> None:
    """Inline calls are started once, and leave no record."""


class _InlineStreams:
    """The streams of inline calls. See telling.Streams."""

    def __init__(self, terms: StreamTerms) -> None:
        self._local = LocalStreams(terms)

    def reserve(self, name: StreamName) -> None:
        self._local.reserve(name)

    def open(self, job: Job) -> StreamWriter:
        """See Streams."""
        return self._local.open(StreamName(job.request.tenant, job.task_id))

    def batches(self, name: StreamName, after: int = 0) -> AsyncGenerator[list[Event]]:
        """See Streams."""
        return self._local.batches(name, after)

    async def keep(self, name: StreamName, completion: Completion) -> None:
        """Write the whole stream of an answer that is there."""
        writer = self._local.open(name)
        writer.fill_up(completion.text)
        await writer.done(completion)


class InlineAnswer:
    """The answer of a call in this process."""

    def __init__(
        self, name: StreamName, call: Future[Completion] | None, streams: _InlineStreams, wait_timeout_s: float
    ) -> None:
        """Take the call, unless it has ended; its streams; and the seconds to wait for it where nobody says."""
        self._name = name
        self._running = call
        self._streams = streams
        self._wait_timeout_s = wait_timeout_s

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource."""
        wait_s = self._wait_timeout_s if timeout_s is None else timeout_s
        task_id = self._name.task_id
        if self._call.cancelled():
            raise TaskCancelled(task_id)
        try:
            async with asyncio.timeout(wait_s):
                # Shielded: giving up waiting is not cancelling.
                return await asyncio.shield(asyncio.wrap_future(self._call))
        except TimeoutError:
            raise ResultTimeout(task_id, wait_s) from None
        except (asyncio.CancelledError, CancelledError):
            if self._call.cancelled():
                raise TaskCancelled(task_id) from None
            raise

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource. The streams live on the loop of the calls."""
        batches = self._streams.batches(self._name, after)
        try:
            while events := await asyncio.wrap_future(_CALLS.submit(_next_of(batches))):
                yield events
        finally:
            _ = _CALLS.submit(batches.aclose())

    def status(self) -> str:
        """See AnswerSource."""
        if not self._call.done():
            return states.PENDING
        if self._call.cancelled():
            return states.REVOKED
        return states.FAILURE if self._call.exception() else states.SUCCESS

    def cancel(self) -> None:
        """See AnswerSource. Inline calls start at once, so this ends a running one."""
        if self._running is not None:
            self._running.cancel()

    @property
    def _call(self) -> Future[Completion]:
        """The call. Raises TaskFailed where it has ended, and nobody has its handle."""
        if self._running is None:
            problem = "no such call is running in this process, and inline calls leave no record"
            raise TaskFailed("UnknownTask", problem)
        return self._running


@atexit.register
def _close_connections() -> None:
    """Close them while there is an interpreter to do it: aiohttp complains of those that it finds open later."""
    if _CALLS.is_started:
        with suppress(TimeoutError):
            _CALLS.submit(close_async_clients()).result(_CLOSING_S)


async def _next_of(batches: AsyncGenerator[list[Event]]) -> list[Event] | None:
    return await anext(batches, None)
