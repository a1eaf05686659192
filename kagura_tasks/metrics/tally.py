"""What one delivery of a task does: noted while it runs, and counted in the step that settles it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from kagura_tasks.metrics.names import BUCKETS_S, ERROR, NONE, Histogram, Series
from kagura_tasks.quick_json import encoded
from kagura_tasks.schemas import Completion, CompletionRequest, Usage

#: How a delivery ended. What was "retried" goes on in another one.
Outcome = Literal["done", "failed", "retried", "cancelled", "handed_back"]

#: How often, or how much, by the name of the counter; what is 0 is not sent.
_Counts = dict[str, int]

#: Picodollars in a dollar. Whole numbers add up exactly, whatever their order.
USD: Final = 10**12

#: Larger numbers would not fit what Redis counts with.
_MOST_COST: Final = 2**62


@dataclass(frozen=True)
class Call:
    """One call of a provider.

    Attributes:
        tenant: Whose request it was.
        model: LiteLLM's name of the model that was called.
        began_at: Unix time (s).
        duration_s: Until the answer was whole, or the call had failed.
        usage: What the provider says that it used; nothing where it failed.
        error: The name of the error that it ended with; "" where there is none.
        first_chunk_s: Until the first piece of text; None where it was not streamed, or none came.
    """

    tenant: str
    model: str
    began_at: float
    duration_s: float
    usage: Usage
    error: str = ""
    first_chunk_s: float | None = None


@dataclass(eq=False)
class Tally:
    """What a delivery of a task does.

    Attributes:
        task: The Celery task's name.
        tenant, model: Of the first request that it makes.
        queue_wait_s: Seconds from when it was sent, or due, until it began; None where nobody knows.
        began_at: Unix time (s).
        outcome: How it ended; a message that a worker ignores or rejects goes to another one. None: this is done beside
            a task, which is counted by itself.
        is_cached: Its answer cost nothing.
        calls: The calls of providers, in the order in which they ended.
        is_counted: All of this is in Redis, or was refused there.
    """

    task: str = NONE
    tenant: str = NONE
    model: str = NONE
    queue_wait_s: float | None = None
    began_at: float = field(default_factory=time.time)
    outcome: Outcome | None = "handed_back"
    is_cached: bool = False
    calls: list[Call] = field(default_factory=list[Call])
    is_counted: bool = False
    _first_chunk_at: float | None = None

    def about(self, request: CompletionRequest) -> None:
        """The task makes this request. Its first one names the series that the task itself is counted under."""
        if self.tenant == NONE:
            self.tenant, self.model = request.tenant, request.model

    def chunk(self) -> None:
        """A piece of text has come, of the call that is streamed. (A task streams one call at a time.)"""
        if self._first_chunk_at is None:
            self._first_chunk_at = time.monotonic()

    async def calling(self, request: CompletionRequest, call: Awaitable[Completion]) -> Completion:
        """What the call returns, or raises: it is noted."""
        began_at, began = time.time(), time.monotonic()
        self._first_chunk_at = None
        usage, error = Usage(), ""
        try:
            completion = await call
            usage = completion.usage
            return completion
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            first_chunk_s = None if self._first_chunk_at is None else self._first_chunk_at - began
            took_s = time.monotonic() - began
            self.calls.append(Call(request.tenant, request.model, began_at, took_s, usage, error, first_chunk_s))

    def ended_early(self, usage: Usage) -> None:
        """The last call was ended, and this is what it had used by then."""
        if self.calls:
            self.calls.append(replace(self.calls.pop(), usage=usage))

    def document(self) -> str:
        """All of it, as `add_up.lua` takes it."""
        counts: dict[Series, _Counts] = {self._series: self._of_task()} if self.outcome else {}
        for call in self.calls:
            _add(counts.setdefault(Series(call.tenant, call.model, self.task), {}), _of_call(call))
        return encoded([[*series, _texts(some)] for series, some in counts.items()])

    @property
    def _series(self) -> Series:
        return Series(self.tenant, self.model, self.task)

    def _of_task(self) -> _Counts:
        return {
            self.outcome or "": 1,
            "cached": int(self.is_cached and self.outcome == "done"),
            **_observed(Histogram.QUEUE_WAIT, self.queue_wait_s),
        }


def _of_call(call: Call) -> _Counts:
    usage, cost_usd = call.usage, call.usage.cost_usd
    return {
        "calls": 1,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "cost_picousd": 0 if cost_usd is None else min(round(cost_usd * USD), _MOST_COST),
        "unpriced_calls": int(cost_usd is None and not call.error),
        **_observed(Histogram.CALL, call.duration_s),
        **_observed(Histogram.FIRST_CHUNK, call.first_chunk_s),
        f"{ERROR}{call.error}": int(bool(call.error)),
    }


def _observed(histogram: str, seconds: float | None) -> _Counts:
    if seconds is None:
        return {}
    bucket = Histogram.bucket(histogram, bisect_left(BUCKETS_S, seconds))
    return {bucket: 1, Histogram.sum(histogram): round(seconds * 1e6)}


def _add(counts: _Counts, others: _Counts) -> None:
    for name, by in others.items():
        counts[name] = counts.get(name, 0) + by


def _texts(counts: _Counts) -> dict[str, str]:
    return {name: str(by) for name, by in counts.items() if by > 0}
