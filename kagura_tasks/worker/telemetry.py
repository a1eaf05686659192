"""Tells OpenTelemetry of tasks and calls: spans, and the metrics of its semantic conventions for generative AI.

Whoever configures its SDK in the worker's process (`opentelemetry-instrument`, or code of one's own) gets them; without
an SDK none of this is loaded. Spans are made when their task has ended, with the times that were noted, so that no call
waits for them.
"""

from __future__ import annotations

from typing import Any, Final

from billiard.process import current_process  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from celery.signals import worker_shutdown
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.trace import Link, ProxyTracerProvider, Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from kagura_tasks.metrics.publishing import TRACE_HEADERS
from kagura_tasks.metrics.tally import Call, Tally
from kagura_tasks.queues import TaskName

_SCOPE: Final = "kagura_tasks"

#: Milliseconds for which a child of a pool waits until what it tells has been sent: it may end after this task.
_FLUSH_MS: Final = 5_000

#: Tasks of which there are thousands under one parent: each has a trace of its own, with a link to that one.
_FANNED_OUT: Final = {TaskName.MAP_ITEM, TaskName.LOAD_FILE, TaskName.ANSWER_FILE}

_Attributes = dict[str, AttributeValue]


class Telemetry:
    """Makes spans and observations of what tasks did."""

    def __init__(self) -> None:
        """Use the SDK that is configured when the first task ends."""
        self._tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self._duration = meter.create_histogram("gen_ai.client.operation.duration", "s")
        self._first_chunk = meter.create_histogram("gen_ai.client.operation.time_to_first_chunk", "s")
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")
        # Not weak: nobody else keeps it alive.
        worker_shutdown.connect(_flush, weak=False)

    def __call__(self, tally: Tally, request: Any) -> None:
        """Tell of a task that has ended (a Celery `Context`)."""
        if not _is_configured():
            return
        task = self._begun(tally, request)
        inside = trace.set_span_in_context(task)
        for call in tally.calls:
            self._tell_call(call, inside)
            self._observe(call)
        if tally.outcome == "failed":
            task.set_status(StatusCode.ERROR)
        task.end()
        if current_process().name != "MainProcess":
            _flush()

    def _begun(self, tally: Tally, request: Any) -> Span:
        sent_in = extract({name: str(value) for name in TRACE_HEADERS if (value := getattr(request, name, None))})
        sender = trace.get_current_span(sent_in).get_span_context()
        is_fanned_out = tally.task in _FANNED_OUT
        return self._tracer.start_span(
            tally.task,
            context=Context() if is_fanned_out else sent_in,
            kind=SpanKind.CONSUMER,
            links=[Link(sender)] if is_fanned_out and sender.is_valid else [],
            start_time=_ns(tally.began_at),
            attributes=_of_task(tally, request),
        )

    def _tell_call(self, call: Call, inside: Context) -> None:
        attributes = {**_of_call(call), **_used(call), "kagura.tenant": call.tenant}
        span = self._tracer.start_span(
            f"chat {call.model}", inside, SpanKind.CLIENT, attributes, start_time=_ns(call.began_at)
        )
        if call.error:
            span.set_status(StatusCode.ERROR)
        span.end(_ns(call.began_at + call.duration_s))

    def _observe(self, call: Call) -> None:
        attributes = _of_call(call)
        self._duration.record(call.duration_s, attributes)
        if call.first_chunk_s is not None:
            self._first_chunk.record(call.first_chunk_s, attributes)
        if not call.error:
            self._tokens.record(call.usage.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
            self._tokens.record(call.usage.completion_tokens, {**attributes, "gen_ai.token.type": "output"})


def _is_configured() -> bool:
    """Somebody configured an SDK. To tell nobody takes longer than to ask."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider) or hasattr(
        metrics.get_meter_provider(), "force_flush"
    )


def _of_task(tally: Tally, request: Any) -> _Attributes:
    waited: _Attributes = {} if tally.queue_wait_s is None else {"kagura.queue_wait_s": tally.queue_wait_s}
    return {
        "messaging.system": "celery",
        "messaging.message.id": str(request.id),
        "kagura.tenant": tally.tenant,
        "kagura.outcome": tally.outcome or "",
        "kagura.cached": tally.is_cached,
        **waited,
    }


def _of_call(call: Call) -> _Attributes:
    provider, _, name = call.model.partition("/")
    known: _Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider if name else "unknown",
        "gen_ai.request.model": call.model,
    }
    return {**known, "error.type": call.error} if call.error else known


def _used(call: Call) -> _Attributes:
    used: _Attributes = {
        "gen_ai.usage.input_tokens": call.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": call.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": call.usage.cached_prompt_tokens,
    }
    return used if call.usage.cost_usd is None else {**used, "kagura.cost_usd": call.usage.cost_usd}


def _flush(**_: object) -> None:
    """Wait until what was told has been sent, or the time is over."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        flush = getattr(provider, "force_flush", None)  # there is none where no SDK was configured
        if flush is not None:
            flush(_FLUSH_MS)


def _ns(unix_s: float) -> int:
    return int(unix_s * 1e9)
