"""The first `get` of a caller that has sent many jobs, and collected nothing so far."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, cast

from benchmarks.harness import Stage
from benchmarks.measure import Spread, ratios, rotated
from benchmarks.options import Options
from benchmarks.queues.clients import CeleryClient
from benchmarks.queues.contenders import OURS, STOCK, Contender, Lane, lanes
from benchmarks.report import Report, Table, goal

_QUESTION: Final = "What does a caller pay at its first get for all the results that it has not collected?"

#: The first get of a caller with much uncollected is at most so many times as long as that of one with nothing.
_GOAL_X_FRESH: Final = 3.0

_TIMEOUT_S: Final = 60


@dataclass(frozen=True)
class Caller:
    """What a new caller saw, which had sent some jobs before and collected none.

    Attributes:
        send_us: The sending of each of these jobs; 0 where there were none.
        first_get_ms: The wait for the result of one job more, which was still to be done.
        next_get_ms: The same once more.
    """

    send_us: float
    first_get_ms: float
    next_get_ms: float


@dataclass(frozen=True)
class Pair:
    """Two new callers in the same round: one that had sent nothing before, and one that had sent much."""

    fresh: Caller
    loaded: Caller


Found = dict[Contender, list[Pair]]


def run(options: Options, made: Stage) -> Report:
    """Stock Celery's client and ours, interleaved."""
    jobs, warm_up_jobs = (100, 5) if options.quick else (2000, 300)
    found: Found = {STOCK: [], OURS: []}
    with lanes(made, list(found), warm_up_jobs) as ready:
        for number in range(options.rounds):
            for lane in rotated(ready, number):
                found[lane.contender].append(Pair(_call(made, lane, 0), _call(made, lane, jobs)))
    head = [
        "",
        "send, us a job",
        "get after 0, ms",
        f"get after {jobs}, ms",
        "x after 0",
        "this / ours",
        "next get, ms",
    ]
    table = Table(head, [[who.label, *_figures(pairs, found[OURS])] for who, pairs in found.items()])
    notes = [*_notes(options.rounds, jobs), _goal(found)]
    return Report("queue_first_get", _QUESTION, [table], notes, _for_programs(found))


def _call(stage: Stage, lane: Lane, jobs: int) -> Caller:
    """A new caller, which keeps the handles of what it sends."""
    client = cast(CeleryClient, lane.contender.open(stage, lane.contender.worker.database))
    try:
        lane.bodies.reset()
        started_at = time.perf_counter()
        sent: list[Any] = [client.send() for _ in range(jobs)]
        send_us = (time.perf_counter() - started_at) * 1e6 / max(1, jobs)
        with lane.awake():
            if sent:
                lane.wait_for([client.key(one.id) for one in sent])
            # Of a job that is not done yet: a result that is there already, Celery looks up without reading the rest.
            return Caller(send_us, _get_ms(client.send()), _get_ms(client.send()))
    finally:
        client.close()


def _get_ms(result: Any) -> float:
    started_at = time.perf_counter()
    result.get(timeout=_TIMEOUT_S)
    return (time.perf_counter() - started_at) * 1000


def _first_gets(pairs: list[Pair]) -> list[float]:
    return [pair.loaded.first_get_ms for pair in pairs]


def _over_fresh(pairs: list[Pair]) -> Spread:
    return ratios(_first_gets(pairs), [pair.fresh.first_get_ms for pair in pairs])


def _figures(pairs: list[Pair], mine: list[Pair]) -> list[str]:
    return [
        Spread.of([pair.loaded.send_us for pair in pairs]).text(),
        Spread.of([pair.fresh.first_get_ms for pair in pairs]).text(2),
        Spread.of(_first_gets(pairs)).text(2),
        _over_fresh(pairs).text(1),
        ratios(_first_gets(pairs), _first_gets(mine)).text(1),
        Spread.of([pair.loaded.next_get_ms for pair in pairs]).text(2),
    ]


def _notes(rounds: int, jobs: int) -> list[str]:
    setting = (
        f"A new caller sends {jobs} jobs that do nothing, and keeps their handles; when all their results are stored,"
        f" it sends one more and waits for its result, and then another; rounds: {rounds}, interleaved. Beside it a"
        " caller that sends nothing before. The worker is paused while the jobs are sent. Only the waiting is timed."
    )
    reason = (
        "Stock Celery's client is subscribed to each result from when it sends the job, and reads all that are"
        " waiting before the one that it waits for."
    )
    return [setting, reason]


def _goal(found: Found) -> str:
    over_fresh, stock_ms = _over_fresh(found[OURS]), Spread.of(_first_gets(found[STOCK]))
    what = f"ours pays nothing for the others: at most {_GOAL_X_FRESH:g} x a first get without them"
    return goal(
        what, over_fresh.median <= _GOAL_X_FRESH, f"{over_fresh.text(1)}; plain Celery's takes {stock_ms.text()} ms"
    )


def _for_programs(found: Found) -> dict[str, object]:
    return {
        who.label: {
            "send_us": [pair.loaded.send_us for pair in pairs],
            "first_get_ms": _first_gets(pairs),
            "x_fresh": _over_fresh(pairs).median,
        }
        for who, pairs in found.items()
    }
