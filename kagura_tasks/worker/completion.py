"""One completion, from request to answer: cache, single-flight, provider, retries. Knows no Celery."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kagura_tasks.errors import AuthenticationFailed, TransientError, UnknownModel
from kagura_tasks.providers.provider import Provider
from kagura_tasks.routing.vectors import packed, written
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.task_store import TaskRecord
from kagura_tasks.worker.exchanges import Exchanges
from kagura_tasks.worker.job import Job, RetryLater
from kagura_tasks.worker.limits import ClosedNow, Limits, NoLimits, NotYet
from kagura_tasks.worker.retries import RetryPolicy, Tried, Tries
from kagura_tasks.worker.single_flight import Relay, SingleFlight
from kagura_tasks.worker.telling import Streams, Telling

#: A wait up to this long is sat out here (s). For a longer one the task goes back to the queue.
SHORT_WAIT_S: Final = 1.0

#: After these, another model may answer.
_ELSEWHERE: Final = (TransientError, AuthenticationFailed, UnknownModel)

#: Looks up a task's outcome; None where it has none yet.
Records = Callable[[str], Awaitable[TaskRecord | None]]

#: Makes one call of the provider, within so many seconds.
Call = Callable[[CompletionRequest, float], Awaitable[Completion]]

#: A block that ends when its task is cancelled, and then raises TaskCancelled.
Heed = Callable[[str], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class CompletionRunner:
    """Answers requests, hundreds at a time on one event loop."""

    provider: Provider
    flights: SingleFlight
    streams: Streams
    heed: Heed
    records: Records
    exchanges: Exchanges
    policy: RetryPolicy
    limits: Limits = field(default_factory=NoLimits)
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    call_timeout_s: float = 60.0
    short_wait_s: float = SHORT_WAIT_S

    async def run(self, job: Job) -> Completion:
        """The answer: recorded already, remembered, shared with a running call, or called for.

        Raises:
            RetryLater: Another try may help, but not soon.
            TakenAway: The task was given to another worker meanwhile.
            ProviderError: No further try is allowed, or none can help.
            TaskCancelled: The task was cancelled.
        """
        if not job.is_streamed:
            return await self._heeding(job, self.provider.complete, _nothing)
        telling = Telling(job, self.streams, self.provider)
        return await telling.told(self._heeding(job, telling.call, telling.relay))

    async def once(self, task_id: str, answer: Callable[[], Awaitable[Completion]]) -> Completion:
        """The task's answer: recorded already, or made now. Raises TaskCancelled, and what making it raises."""
        async with self.heed(task_id):
            # The task may have been delivered again after its answer was stored, or cancelled while it waited.
            record = await self.records(task_id)
            return await answer() if record is None else record.completion()

    async def ask(self, job: Job) -> Completion:
        """The same for a part of a task: remembered, shared or called for. Whoever does the task heeds its end."""
        return await self._said(job, self.provider.complete, _nothing)

    async def embed(self, job: Job) -> Completion:
        """The vectors of the request's messages, as the completion's text (see routing.vectors). Not remembered."""
        return await self._try(job, self._vectors)

    async def _vectors(self, request: CompletionRequest, timeout_s: float) -> Completion:
        texts = [str(message.content) for message in request.messages]
        vectors = await self.provider.embed(request.model, texts, timeout_s)
        return Completion(text=written(map(packed, vectors)), model=request.model, finish_reason="stop")

    async def _heeding(self, job: Job, call: Call, relay: Relay) -> Completion:
        if not (self.flights.looks_for_outcomes and job.request.is_cacheable):
            return await self.once(job.task_id, lambda: self._said(job, call, relay))
        async with self.heed(job.task_id):
            return await self._said(job, call, relay)

    async def _said(self, job: Job, call: Call, relay: Relay) -> Completion:
        """The answer, in the conversation that it belongs to."""
        conversation = job.request.conversation
        if conversation is None:
            return await self._found(job, call, relay)
        ask = partial(self._found, call=call, relay=relay)
        return await self.exchanges.in_conversation(job, conversation, ask, self.ask)

    async def _found(self, job: Job, call: Call, relay: Relay) -> Completion:
        if not job.request.is_cacheable:
            return await self._made(job, call)
        return await self.flights.answer(job, lambda: self._made(job, call), relay)

    async def _made(self, job: Job, call: Call) -> Completion:
        """The answer, with all calls that it takes."""
        tools = job.request.tools
        if tools is None:
            return await self._try(job, call)
        return await self.exchanges.with_tools(job, tools, partial(self._try, call=call))

    async def _try(self, job: Job, call: Call) -> Completion:
        tries = Tried(job.tries)
        while True:
            try:
                return await self._round(job, call, tries)
            except NotYet as turn:
                raise RetryLater(turn.wait_s, tries.so_far, None) from None
            except TransientError as error:
                await self._wait_before_next(job, tries.so_far, error)

    async def _round(self, job: Job, call: Call, tries: Tried) -> Completion:
        """The answer of the model that is asked for, or of the first of its fallbacks that gives one."""
        *earlier, last = self._in_order(job.request)
        failure: TransientError | None = None
        for request in earlier:
            try:
                return await self._called(job, call, request, tries, has_elsewhere=True)
            except ClosedNow:
                continue
            except _ELSEWHERE as error:
                failure = error if isinstance(error, TransientError) else failure
        try:
            return await self._called(job, call, last, tries, has_elsewhere=False)
        except (AuthenticationFailed, UnknownModel):
            # Of another model, another round may help.
            if failure is None:
                raise
            raise failure from None

    async def _called(
        self, job: Job, call: Call, request: CompletionRequest, tries: Tried, *, has_elsewhere: bool
    ) -> Completion:
        if job.before_call is not None:
            await job.before_call()
        async with self.limits.place(job, request, has_elsewhere=has_elsewhere) as place:
            attempts = tries.begin(time.time())
            timeout_s = request.timeout_s or self.call_timeout_s
            completion = await job.tally.calling(request, call(request, timeout_s))
            place.used(completion)
        # Attempts whose worker died are attempts too.
        return completion.after(attempts + job.attempt - 1)

    def _in_order(self, request: CompletionRequest) -> list[CompletionRequest]:
        """The request, and the same for each of its fallbacks."""
        others = request.fallbacks or self.fallbacks.get(request.model, ())
        return [request, *(request.model_copy(update={"model": model}) for model in others)]

    async def _wait_before_next(self, job: Job, tries: Tries | None, error: TransientError) -> None:
        """Sit a short wait out. Raises the error where no try is left, RetryLater where the wait is long."""
        jitter = random.random()  # noqa: S311 (dice for spreading load, no secret)
        wait_s = self.policy.wait_s(tries, error, time.time(), jitter) if tries else None
        if wait_s is None:
            raise error
        if wait_s > self.short_wait_s and job.may_leave:
            raise RetryLater(wait_s, tries, error)
        await asyncio.sleep(wait_s)


async def _nothing(_task_id: str) -> None:
    """Nobody reads what is not streamed."""
