"""A map of thousands of prompts: what it costs to ask for it, and whoever else asks for something meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import uuid4

from celery import Celery, group

from benchmarks.contenders import client_on, plain_app
from benchmarks.harness import BenchmarkError, Stage, WorkerProcess, WorkerSpec
from benchmarks.map_client import prompts
from benchmarks.measure import Spread, percentile, ratios
from benchmarks.options import Options
from benchmarks.plain_noop import NOOP
from benchmarks.report import Report, Table, goal
from kagura_tasks import LLMClient, LLMGroupResult

_QUESTION: Final = "What does it cost to ask for thousands of answers, and what do others notice of it?"

_OURS_LABEL: Final = "kagura_tasks, client.map"
_PLAIN_LABEL: Final = "plain Celery, group of no-ops"

#: Databases of the Redis: of the map that is worked on, of what nobody works on, and of plain Celery.
_WORKED_ON, _WAITING, _PLAIN = 1, 2, 3

#: The part of plain Celery's time that submitting may take, and what a person who calls may notice.
_GOAL_SUBMIT: Final = 0.1
_GOAL_P95: Final = 1.5

#: Seconds of one call at the provider while a map is worked on.
_SERVICE_S: Final = 0.2


@dataclass(frozen=True)
class Calls:
    """A person's calls, one after the other, in seconds; and what was answered a second beside them."""

    idle: list[float] = field(default_factory=list[float])
    during: list[float] = field(default_factory=list[float])
    map_per_s: float = 0.0


def run(options: Options, made: Stage) -> Report:
    """Submitting, interleaved with plain Celery's; memory, in programs of their own; calls beside a map."""
    items, rows, mapped, calls = (200, (100, 1_000), 200, 5) if options.quick else (2_000, _ROWS, 10_000, 60)
    submitted = [_submit_both(made, items, number) for number in range(options.rounds)]
    memory = {number: _client_memory(made, number) for number in rows}
    (worker,) = made.start(WorkerSpec("workers.main", "asyncio", 256, _WORKED_ON, queues="llm,llm.batch"))
    beside = [_calls_beside_a_map(made, worker, mapped, calls) for _ in range(options.rounds)]
    tables = [_submitting(submitted), _memory(memory), _beside(beside)]
    notes = [*_notes(items, mapped, options.rounds), *_goals(submitted, memory, beside)]
    figures = {
        "submit_s": [one[0] for one in submitted],
        "plain_submit_s": [one[1] for one in submitted],
        "client_peak_rss_mb": memory,
        "idle_p95_s": [percentile(one.idle, 0.95) for one in beside],
        "p95_beside_a_map_s": [percentile(one.during, 0.95) for one in beside],
        "map_items_per_s": [one.map_per_s for one in beside],
    }
    return Report("map", _QUESTION, tables, notes, figures)


_ROWS: Final = (1_000, 10_000, 100_000)


def _submit_both(made: Stage, items: int, number: int) -> tuple[float, float]:
    """Seconds of each, in turns; nobody works on either."""
    ways = [lambda: _submit_map(made, items), lambda: _submit_group(plain_app(made, _PLAIN), items)]
    seconds = [0.0, 0.0]
    for at in (0, 1) if number % 2 else (1, 0):
        seconds[at] = ways[at]()
        _empty(made, _WAITING, _PLAIN)
    return seconds[0], seconds[1]


def _empty(made: Stage, *databases: int) -> None:
    for database in databases:
        cast(Any, made.redis(database)).flushdb()


def _submit_map(made: Stage, items: int) -> float:
    client = client_on(made, _WAITING)
    client.map(["Once, so that all is connected."]).cancel()
    asked = [f"Say something about {number} and {uuid4().hex}." for number in range(items)]
    started_at = time.perf_counter()
    result = client.map(asked)
    seconds = time.perf_counter() - started_at
    if result.progress().total != items:
        raise BenchmarkError("a map has not all its items")
    return seconds


def _submit_group(app: Celery, items: int) -> float:
    with app:
        group([app.signature(NOOP)]).apply_async()
        started_at = time.perf_counter()
        group(app.signature(NOOP) for _ in range(items)).apply_async()
        return time.perf_counter() - started_at


def _client_memory(made: Stage, rows: int) -> float:
    """The peak RSS (MB) of a program that maps so many rows of a file."""
    with made.program("benchmarks.map_client") as program:
        told, _ = program.communicate(f"{made.url(_WAITING)}\n{rows}\n")
    _empty(made, _WAITING)
    if not told.strip():
        raise BenchmarkError("a program that maps rows of a file ended without a word")
    return float(told)


def _calls_beside_a_map(made: Stage, worker: WorkerProcess, items: int, calls: int) -> Calls:
    client = client_on(made, _WORKED_ON)
    made.set_latency(_SERVICE_S)
    _ = [_call_s(client) for _ in range(3)]
    idle = [_call_s(client) for _ in range(calls)]
    running = client.map(prompts(items))
    started_at, during = time.monotonic(), list[float]()
    while running.status() == "running" and len(during) < 10 * calls:
        during.append(_call_s(client))
    _finish(running, items)
    worker.check()
    return Calls(idle, during, items / (time.monotonic() - started_at))


def _finish(running: LLMGroupResult, items: int) -> None:
    for _ in running:
        pass
    if running.progress().done != items:
        raise BenchmarkError("a map did not answer all its items")


def _call_s(client: LLMClient) -> float:
    started_at = time.monotonic()
    client.complete(f"Answer a person: {uuid4().hex}", priority="interactive")
    return time.monotonic() - started_at


def _submitting(submitted: list[tuple[float, float]]) -> Table:
    mine, theirs = ([one[at] for one in submitted] for at in (0, 1))
    rows = [(_OURS_LABEL, mine), (_PLAIN_LABEL, theirs)]
    head = ["submitting", "seconds", "x ours"]
    return Table(head, [[label, Spread.of(all_s).text(3), ratios(all_s, mine).text(1)] for label, all_s in rows])


def _memory(memory: dict[int, float]) -> Table:
    return Table(
        ["rows of a file", "client's peak RSS MB"], [[f"{rows:,}", f"{mb:.1f}"] for rows, mb in memory.items()]
    )


def _beside(beside: list[Calls]) -> Table:
    rows: list[tuple[str, list[list[float]]]] = [
        ("alone", [one.idle for one in beside]),
        ("beside a map", [one.during for one in beside]),
    ]
    head = ["a person's calls (ms)", "p50", "p95", "calls a round", "map's items/s"]
    items_per_s = Spread.of([one.map_per_s for one in beside]).text()
    return Table(
        head, [[label, *_times(rounds), items_per_s if number else ""] for number, (label, rounds) in enumerate(rows)]
    )


def _times(rounds: list[list[float]]) -> list[str]:
    in_ms = [[second * 1000 for second in one] for one in rounds]
    shares = [Spread.of([percentile(one, share) for one in in_ms]).text() for share in (0.5, 0.95)]
    return [*shares, Spread.of([len(one) for one in rounds]).text()]


def _notes(items: int, mapped: int, rounds: int) -> list[str]:
    submitting = (
        f"Submitting: {items:,} different prompts, until `client.map` returns, and {items:,} tasks without arguments,"
        " until `group(...).apply_async()` does, with Celery's own settings and a Redis result backend; nobody works on"
        f" either; rounds: {rounds}, interleaved."
    )
    memory = (
        "Memory: a program that reads a JSONL file of 500 bytes a row, and maps a template over its rows; nobody works"
        " on it; its peak when the map has started."
    )
    beside = (
        f"Calls: one worker process (asyncio c256, direct) with a provider that takes {_SERVICE_S * 1000:g} ms;"
        f" interactive calls one after the other, alone and while a map of {mapped:,} is worked on, 256 in flight; the"
        " caller, the provider, Redis and the worker share the machine."
    )
    return [submitting, memory, beside]


def _goals(submitted: list[tuple[float, float]], memory: dict[int, float], beside: list[Calls]) -> list[str]:
    part = ratios([mine for mine, _ in submitted], [theirs for _, theirs in submitted])
    grown_mb = max(memory.values()) - min(memory.values())
    idle_s = Spread.of([percentile(one.idle, 0.95) for one in beside]).median
    during_s = Spread.of([percentile(one.during, 0.95) for one in beside]).median
    most_s = _GOAL_P95 * idle_s + _SERVICE_S
    return [
        goal("at most 1/10 of plain Celery's time to submit", part.median <= _GOAL_SUBMIT, f"1/{1 / part.median:.0f}"),
        goal(
            "the client's memory is flat",
            grown_mb < _FLAT_MB,
            f"{grown_mb:.1f} MB more for the most rows than for the fewest",
        ),
        goal(
            "a person's p95 beside a map is at most 1.5 times what it is alone, and one service time",
            during_s <= most_s,
            f"{during_s * 1000:.0f} ms, and {most_s * 1000:.0f} are allowed",
        ),
    ]


#: What a client's memory may grow by from the fewest to the most rows (MB): what Python and Redis's client keep.
_FLAT_MB: Final = 20.0
