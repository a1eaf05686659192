"""Jobs that do nothing, a second and by their CPU: stock Celery, ours, and other task queues."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from benchmarks.harness import BenchmarkError, Stage
from benchmarks.measure import Spread, ratios, rotated
from benchmarks.options import Options
from benchmarks.queues.contenders import OURS, STOCK, TASKIQ_LIST, TASKIQ_STREAM, Contender, Lane, installed, lanes
from benchmarks.queues.contenders import versions as versions_note
from benchmarks.report import Report, Table, goal

_QUESTION: Final = "How many jobs does one worker do in a second, if the jobs do nothing?"

#: Times stock Celery's jobs a second.
_GOAL_STOCK: Final = 2.5
#: Part of taskiq's jobs a second that counts as level with it: less cannot be told apart.
_GOAL_TASKIQ: Final = 0.95


@dataclass(frozen=True)
class Run:
    """One contender's jobs of one round."""

    jobs: int
    bodies: int
    seconds: float
    cpu_s: float

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.seconds

    @property
    def cpu_ms_per_job(self) -> float:
        return self.cpu_s * 1000 / self.jobs


Found = dict[Contender, list[Run]]


def run(options: Options, made: Stage) -> Report:
    """All that are installed, interleaved."""
    jobs, warm_up_jobs = (60, 5) if options.quick else (2000, 300)
    contenders = installed()
    found: Found = {contender: [] for contender in contenders}
    with lanes(made, contenders, warm_up_jobs) as ready:
        for number in range(options.rounds):
            for lane in rotated(ready, number):
                found[lane.contender].append(_run(lane, jobs))
    stock = found[STOCK]
    head = ["", "jobs/s", "x plain Celery", "ours / this", "worker's CPU ms a job"]
    table = Table(head, [[who.label, *_figures(runs, stock, found[OURS])] for who, runs in found.items()])
    notes = [*_notes(options.rounds, jobs), *_twice(found), versions_note(contenders), *_goals(found)]
    return Report("queue_throughput", _QUESTION, [table], notes, _for_programs(found))


def _run(lane: Lane, jobs: int) -> Run:
    """The worker is frozen while the jobs are enqueued, and so is everybody else's."""
    keys = lane.client.enqueue(jobs)
    lane.bodies.reset()
    cpu_s = lane.worker.cpu_s()
    with lane.awake():
        lane.wait_for(keys)
        seconds = time.monotonic() - lane.bodies.first_start_s
        cpu_s = lane.worker.cpu_s() - cpu_s
    if lane.bodies.count > jobs and lane.contender is OURS:
        raise BenchmarkError(f"{OURS.label}: {lane.bodies.count} bodies ran for {jobs} jobs")
    return Run(jobs, lane.bodies.count, seconds, cpu_s)


def _speeds(runs: list[Run]) -> list[float]:
    return [one.jobs_per_s for one in runs]


def _figures(runs: list[Run], stock: list[Run], mine: list[Run]) -> list[str]:
    return [
        Spread.of(_speeds(runs)).text(),
        ratios(_speeds(runs), _speeds(stock)).text(2),
        ratios(_speeds(mine), _speeds(runs)).text(2),
        Spread.of([one.cpu_ms_per_job for one in runs]).text(2),
    ]


def _notes(rounds: int, jobs: int) -> list[str]:
    setting = (
        f"{jobs} jobs, enqueued while the worker is paused; rounds: {rounds}, interleaved; one worker each, and all"
        " others are paused meanwhile. Timed from the start of the first job's body until all results are stored and"
        " all messages acknowledged in Redis, by the same rule for all. A run in which ours runs a body twice fails."
        " CPU is that of the worker and its children, from its waking up."
    )
    likeness = (
        "Results are stored by all. Each as it comes, but for the number of jobs at a time: ours acknowledges late and"
        " sends events for Flower, plain Celery acknowledges early and sends none; taskiq runs on uvloop; its list"
        " broker acknowledges nothing; Redis has handed SAQ one job for each of its free places before it wakes up."
        " None has hiredis."
    )
    return [setting, likeness]


def _twice(found: Found) -> list[str]:
    extra = {who.label: sum(one.bodies - one.jobs for one in runs) for who, runs in found.items()}
    return [f"{label} ran {count} bodies more than there were jobs." for label, count in extra.items() if count]


def _goals(found: Found) -> list[str]:
    mine = _speeds(found[OURS])
    over_stock = ratios(mine, _speeds(found[STOCK]))
    what = f"at least {_GOAL_STOCK:g} x plain Celery's jobs/s"
    goals = [goal(what, over_stock.median >= _GOAL_STOCK, over_stock.text(2))]
    rivals = [who for who in (TASKIQ_STREAM, TASKIQ_LIST) if who in found]
    if rivals:
        faster = max(rivals, key=lambda who: Spread.of(_speeds(found[who])).median)
        over_taskiq = ratios(mine, _speeds(found[faster]))
        what = f"level with taskiq: at least {_GOAL_TASKIQ:g} x the jobs/s of the faster of its brokers"
        outcome = f"{over_taskiq.text(2)} of {faster.label}"
        goals.append(goal(what, over_taskiq.median >= _GOAL_TASKIQ, outcome))
    return goals


def _for_programs(found: Found) -> dict[str, object]:
    return {
        who.label: {"jobs_per_s": _speeds(runs), "cpu_ms_per_job": [one.cpu_ms_per_job for one in runs]}
        for who, runs in found.items()
    }
