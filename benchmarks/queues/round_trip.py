"""One job at a time on idle workers: how long its caller waits for the result."""

from __future__ import annotations

from typing import Final

from benchmarks.harness import Stage
from benchmarks.measure import Spread, percentile, ratios, rotated
from benchmarks.options import Options
from benchmarks.queues.contenders import OURS, TASKIQ_LIST, Contender, Lane, installed, lanes
from benchmarks.queues.contenders import versions as versions_note
from benchmarks.queues.peers import POLL_S
from benchmarks.report import Report, Table, goal

_QUESTION: Final = "How long does the caller of one job wait, if nobody else calls?"

_GOAL_P99_MS: Final = 10.0

#: Whoever needs longer has fewer samples: arq looks for new jobs twice a second.
_AT_MOST_S: Final = 10.0

#: All times of a round, in ms.
Found = dict[Contender, list[list[float]]]


def run(options: Options, made: Stage) -> Report:
    """All that are installed, interleaved; taskiq on its stream alone, whose idle way is the same as its list's."""
    samples, warm_up_jobs, at_most_s = (10, 5, 1.0) if options.quick else (300, 50, _AT_MOST_S)
    contenders = [contender for contender in installed() if contender is not TASKIQ_LIST]
    found: Found = {contender: [] for contender in contenders}
    with lanes(made, contenders, warm_up_jobs) as ready:
        for number in range(options.rounds):
            for lane in rotated(ready, number):
                found[lane.contender].append(_round(lane, samples, at_most_s))
    head = ["in ms", "p50", "p99", "slowest", "p50: this / ours", "samples a round"]
    table = Table(head, [[who.label, *_figures(rounds, found[OURS])] for who, rounds in found.items()])
    p99s_ms = _percentiles(found[OURS], 0.99)
    p99_ms = Spread.of(p99s_ms)
    met = f"met in {sum(one <= _GOAL_P99_MS for one in p99s_ms)} of {len(p99s_ms)} rounds"
    notes = [
        *_notes(options.rounds),
        versions_note(contenders),
        goal(
            f"ours has a p99 of at most {_GOAL_P99_MS:g} ms", p99_ms.median <= _GOAL_P99_MS, f"{p99_ms.text(1)}; {met}"
        ),
    ]
    return Report("queue_round_trip", _QUESTION, [table], notes, _for_programs(found))


def _round(lane: Lane, samples: int, at_most_s: float) -> list[float]:
    with lane.awake():
        # Whatever a worker does when it wakes up from a pause is not what is measured.
        lane.client.round_trips(3, at_most_s)
        return lane.client.round_trips(samples, at_most_s)


def _percentiles(rounds: list[list[float]], share: float) -> list[float]:
    return [percentile(times_ms, share) for times_ms in rounds]


def _figures(rounds: list[list[float]], mine: list[list[float]]) -> list[str]:
    p50s_ms = _percentiles(rounds, 0.5)
    return [
        Spread.of(p50s_ms).text(1),
        Spread.of(_percentiles(rounds, 0.99)).text(1),
        Spread.of([max(times_ms) for times_ms in rounds]).text(1),
        ratios(p50s_ms, _percentiles(mine, 0.5)).text(2),
        Spread.of([len(times_ms) for times_ms in rounds]).text(),
    ]


def _notes(rounds: int) -> list[str]:
    setting = (
        "A job that does nothing is sent, and its result waited for, one after the other, in one process, on one idle"
        f" worker; rounds: {rounds}, interleaved; all other workers are paused meanwhile."
    )
    waiting = (
        "Celery's caller is told of the result, dramatiq's blocks for it; the callers of taskiq, SAQ and arq can only"
        f" ask again, and do so each {POLL_S * 1000:g} ms here (by default: 200, 500, 500). The workers are as they"
        f" come: arq's looks for jobs each 500 ms, and has the fewer samples, of {_AT_MOST_S:g} s at most a round."
    )
    return [setting, waiting]


def _for_programs(found: Found) -> dict[str, object]:
    return {
        who.label: {"p50_ms": _percentiles(rounds, 0.5), "p99_ms": _percentiles(rounds, 0.99)}
        for who, rounds in found.items()
    }
