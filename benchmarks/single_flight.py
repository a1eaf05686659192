"""Equal calls at the same time over several worker processes: how many of them reach the provider."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import uuid4

from celery import Celery
from celery.result import AsyncResult

from benchmarks.celery_records import all_answered
from benchmarks.contenders import (
    PLAIN_TASK,
    WITHOUT_LITELLM_CACHE,
    Contender,
    client_on,
    ours,
    plain,
    plain_app,
    plain_with_cache,
    quick_pair,
)
from benchmarks.harness import BenchmarkError, Stage, WorkerProcess, wait_until
from benchmarks.measure import Spread, rotated
from benchmarks.options import Options
from benchmarks.report import Report, Table

_OURS_LABEL: Final = "kagura_tasks"
_PLAIN_LABEL: Final = "plain Celery, no cache"


@dataclass(frozen=True)
class Way:
    """One way to ask: `send` enqueues a prompt and returns the task's id, `ask` waits for the answer."""

    label: str
    workers: list[WorkerProcess]
    database: int
    app: Celery
    send: Callable[[str], str]
    ask: Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """What came of the equal calls of one round.

    Attributes:
        provider_requests: What the provider's ledger counted.
        later: What it counted for one more such call, when all of them had their answer.
        seconds: From the workers' waking up to the last answer.
        used: Worker processes that had a task.
    """

    provider_requests: int
    later: int
    seconds: float
    used: int


def run(options: Options, made: Stage) -> Report:
    """Ours and plain Celery, with LiteLLM's own cache and without, interleaved."""
    calls, latency_s, processes = (10, 0.3, 1) if options.quick else (50, 1.0, 4)
    who = quick_pair() if options.quick else [ours(16, 1), plain("threads", 16, 2), plain_with_cache("threads", 16, 3)]
    ways = _ways(made, [one for one in who if not one.missing()], processes)
    for way in ways:
        _ask_at_once(made, way, [f"Warm up with {uuid4().hex}." for _ in range(8 * processes)], 0.0)
    found: dict[str, list[Outcome]] = {way.label: [] for way in ways}
    for number in range(options.rounds):
        for way in rotated(ways, number):
            same = f"Say this once: {uuid4().hex}."
            found[way.label].append(_ask_at_once(made, way, [same] * calls, latency_s))
    return _report(found, calls, latency_s, processes, who[0].worker.concurrency)


def _ways(made: Stage, contenders: list[Contender], processes: int) -> list[Way]:
    mine, *theirs = made.start_several(processes, *(one.worker for one in contenders))
    here = contenders[0].worker.database
    client = client_on(made, here)
    labels = [_PLAIN_LABEL, *(one.label for one in contenders[2:])]
    return [
        Way(_OURS_LABEL, mine, here, client.app, lambda prompt: client.submit(prompt).id, client.complete),
        *(_plain_way(made, *one) for one in zip(labels, theirs, contenders[1:], strict=True)),
    ]


def _plain_way(made: Stage, label: str, workers: list[WorkerProcess], contender: Contender) -> Way:
    there = contender.worker.database
    app = plain_app(made, there)
    return Way(label, workers, there, app, lambda prompt: _send(app, prompt).id, lambda p: _send(app, p).get(60))


def _send(app: Celery, prompt: str) -> AsyncResult[str]:
    return app.send_task(PLAIN_TASK, [prompt])


def _ask_at_once(made: Stage, way: Way, prompts: list[str], latency_s: float) -> Outcome:
    """Enqueue the prompts while all workers are paused, and wake them up together."""
    client = made.redis(way.database)
    made.set_latency(latency_s)
    before = _tasks_so_far(way)
    with ExitStack() as paused:
        for worker in way.workers:
            paused.enter_context(worker.paused())
        ids = [way.send(prompt) for prompt in prompts]
        started_at = time.monotonic()
    wait_until(lambda: all_answered(client, ids), 120.0, f"{len(ids)} answers of {way.label}")
    seconds = time.monotonic() - started_at
    after = _tasks_so_far(way)
    used = sum(after[name] > before[name] for name in after)
    at_once = made.provider.count()
    way.ask(prompts[0])
    return Outcome(at_once, made.provider.count() - at_once, seconds, used)


def _tasks_so_far(way: Way) -> dict[str, int]:
    """Tasks that each worker process has taken."""
    names = [worker.hostname for worker in way.workers]
    told = cast("dict[str, Any]", way.app.control.inspect(names, timeout=5.0, limit=len(names)).stats() or {})
    if set(told) != set(names):
        raise BenchmarkError(f"{len(names) - len(told)} workers of {way.label} do not answer")
    return {name: sum(told[name]["total"].values()) for name in names}


def _report(found: dict[str, list[Outcome]], calls: int, latency_s: float, processes: int, concurrency: int) -> Report:
    head = ["", "provider requests", "of all calls", "for one more later", "seconds", "workers with a task"]
    rows = [[label, *_figures(outcomes, calls)] for label, outcomes in found.items()]
    worst = max(one.provider_requests for one in found[_OURS_LABEL])
    setting = (
        f"{calls} equal calls, {latency_s:g} s at the provider, worker processes: {processes} (threads c{concurrency});"
        f" rounds: {len(found[_OURS_LABEL])}, interleaved, each with a new prompt. All are enqueued while the workers"
        " are paused, which then wake up together. Requests are from the provider's ledger."
    )
    has_cache = len(found) > len((_OURS_LABEL, _PLAIN_LABEL))
    notes = [
        setting,
        *([] if has_cache else [WITHOUT_LITELLM_CACHE]),
        f"Goal: 1 provider request: {'met in each round' if worst == 1 else f'NOT met ({worst})'}.",
    ]
    figures = {
        label: {"provider_requests": [one.provider_requests for one in outcomes], "calls": calls}
        for label, outcomes in found.items()
    }
    question = "How often is the same question paid for, when many ask it at once?"
    return Report("single_flight", question, [Table(head, rows)], notes, figures)


def _figures(outcomes: list[Outcome], calls: int) -> list[str]:
    requests = Spread.of([one.provider_requests for one in outcomes])
    return [
        requests.text(),
        f"{requests.median / calls:.0%}",
        Spread.of([one.later for one in outcomes]).text(),
        Spread.of([one.seconds for one in outcomes]).text(2),
        Spread.of([one.used for one in outcomes]).text(),
    ]
