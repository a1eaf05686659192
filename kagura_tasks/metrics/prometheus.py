"""The counters in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from kagura_tasks.metrics.figures import Figures, Table
from kagura_tasks.metrics.names import BUCKETS_S, Histogram
from kagura_tasks.metrics.snapshot import Snapshot
from kagura_tasks.metrics.tally import USD

#: What is told where Redis does not answer; all other metrics are missing then.
DOWN: Final = "# HELP kagura_up Redis answered.\n# TYPE kagura_up gauge\nkagura_up 0\n"


class _Counter(NamedTuple):
    """A metric, the counters that it is made of, and the label that tells them apart."""

    name: str
    help: str
    counters: tuple[str, ...]
    label: str = ""
    unit: int = 1


_COUNTERS: Final = (
    _Counter("kagura_tasks_total", "Tasks, by how they ended.", ("done", "failed", "cancelled", "retried"), "outcome"),
    _Counter("kagura_cached_answers_total", "Tasks whose answer cost nothing.", ("cached",)),
    _Counter("kagura_calls_total", "Calls of providers.", ("calls",)),
    _Counter("kagura_unpriced_calls_total", "Calls whose price is not known.", ("unpriced_calls",)),
    _Counter("kagura_prompt_tokens_total", "Tokens of prompts.", ("prompt_tokens",)),
    _Counter("kagura_completion_tokens_total", "Tokens of answers.", ("completion_tokens",)),
    _Counter(
        "kagura_cached_prompt_tokens_total", "Tokens of prompts that providers had cached.", ("cached_prompt_tokens",)
    ),
    _Counter("kagura_cost_usd_total", "Price of all calls whose price is known.", ("cost_picousd",), unit=USD),
    _Counter(
        "kagura_cache_lookups_total", "Look-ups in the cache of answers.", ("cache_hits", "cache_misses"), "result"
    ),
    _Counter("kagura_cache_shared_total", "Requests that got the answer of a running call.", ("cache_shared",)),
)

_HISTOGRAMS: Final = {
    Histogram.CALL: ("kagura_call_duration_seconds", "Calls of providers, until the answer was whole."),
    Histogram.FIRST_CHUNK: ("kagura_first_chunk_seconds", "Streamed calls, until the first piece of text."),
    Histogram.QUEUE_WAIT: ("kagura_queue_wait_seconds", "Tasks, from when they were sent or due until they began."),
}


def exposition(snapshot: Snapshot) -> str:
    """All counters and histograms since they began to be counted, and what is so at the moment."""
    return "\n".join([*_gauges(snapshot), *_counters(snapshot.total), *_errors(snapshot.total),
                      *_histograms(snapshot.total), ""])  # fmt: skip


def _counters(table: Table) -> Iterator[str]:
    for metric in _COUNTERS:
        yield from _head(metric.name, "counter", metric.help)
        for series, counts in table.items():
            for counter in metric.counters:
                if counter in counts:
                    told = {metric.label: counter.removeprefix("cache_")} if metric.label else {}
                    yield f"{metric.name}{_labels(**series._asdict(), **told)} {counts[counter] / metric.unit:.17g}"


def _errors(table: Table) -> Iterator[str]:
    yield from _head("kagura_call_errors_total", "counter", "Calls of providers that failed, by the error's name.")
    for series, counts in table.items():
        for error, count in Figures(counts).errors.items():
            yield f"kagura_call_errors_total{_labels(**series._asdict(), error=error)} {count}"


def _histograms(table: Table) -> Iterator[str]:
    for histogram, (name, text) in _HISTOGRAMS.items():
        yield from _head(name, "histogram", text)
        for series, counts in table.items():
            yield from _one_histogram(name, series._asdict(), Figures(counts), histogram)


def _one_histogram(name: str, labels: Mapping[str, str], figures: Figures, histogram: str) -> Iterator[str]:
    *upto, total = accumulate(figures.buckets(histogram))
    if not total:
        return
    for bound, count in zip(BUCKETS_S, upto, strict=True):
        yield f"{name}_bucket{_labels(**labels, le=str(bound))} {count}"
    yield f"{name}_bucket{_labels(**labels, le='+Inf')} {total}"
    yield f"{name}_sum{_labels(**labels)} {figures.sum_s(histogram):.6f}"
    yield f"{name}_count{_labels(**labels)} {total}"


def _gauges(snapshot: Snapshot) -> Iterator[str]:
    yield from (*_head("kagura_up", "gauge", "Redis answered."), "kagura_up 1")
    yield from _head("kagura_live_streams", "gauge", "Streams that workers are writing.")
    yield f"kagura_live_streams {snapshot.live_streams}"
    yield from _head("kagura_dead_letters", "gauge", "Messages that no worker will try again.")
    yield f"kagura_dead_letters {snapshot.dead_letters}"
    yield from _head("kagura_queue_messages", "gauge", "Messages that wait for a worker.")
    for queue, count in snapshot.queues.items():
        yield f"kagura_queue_messages{_labels(queue=queue)} {count}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(**labels: str) -> str:
    escaped = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(escaped)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
