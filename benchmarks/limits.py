"""A fleet under three times more than its provider takes: what the provider sees, and what limits cost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from benchmarks.contenders import client_on
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec, wait_until
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from kagura_tasks import LLMClient

_QUESTION: Final = "Does a fleet keep a provider's limit, and use it, when it is asked for three times as much?"

#: Databases of the Redis: of the overload, and of the workers whose round trips are counted.
_OVERLOAD, _NONE, _OTHERS, _OURS = 1, 2, 3, 4

_PER_MIN: Final = 600

#: Seconds of one call at the provider.
_SERVICE_S: Final = 0.2

_GOAL_REFUSED: Final = 0.005
_GOAL_USED: Final = 0.95


@dataclass(frozen=True)
class Load:
    """How long the fleet is overloaded, by how many processes it is made up, and what the provider counts in."""

    seconds: float
    processes: int
    window_s: float

    @property
    def most(self) -> int:
        """Calls that the provider takes in a window."""
        return int(_PER_MIN * self.window_s / 60)


@dataclass(frozen=True)
class Overloaded:
    """What the provider saw.

    Attributes:
        calls: All calls in the measured time.
        refused: Those answered with 429.
        used: Answered calls, of those that the limit allows in this time.
        most: Most calls in any window.
    """

    calls: int
    refused: int
    used: float
    most: int


def run(options: Options, made: Stage) -> Report:
    """Round trips of single calls: without a limit, with one for others, with one of their own. Then the overload."""
    load = Load(12, 1, 6) if options.quick else Load(120, 8, 60)
    trips = _round_trips(made, 10 if options.quick else 200)
    found = _overload(made, load)
    overload = Table(
        ["", "calls", "refused with 429", "of the limit used", f"most in {load.window_s:g} s"],
        [["kagura_tasks", f"{found.calls:,}", f"{found.refused:,}", f"{found.used:.1%}", f"{found.most:,}"]],
    )
    cost = Table(["", "round trips to Redis a call"], [[label, f"{number:.2f}"] for label, number in trips.items()])
    setting = (
        f"{_PER_MIN} requests a minute, which the provider enforces in every {load.window_s:g} s; three times as many"
        f" tasks for {load.seconds:g} s, {_SERVICE_S:g} s at the provider, worker processes: {load.processes} (asyncio"
        " c64). Round trips are the server's own count, the caller's and those of idle workers included."
    )
    share = found.refused / max(1, found.calls)
    notes = [
        setting,
        goal(f"at most {_GOAL_REFUSED:.1%} of the calls refused", share <= _GOAL_REFUSED, f"{share:.2%}"),
        goal(f"at least {_GOAL_USED:.0%} of the limit used", found.used >= _GOAL_USED, f"{found.used:.1%}"),
        goal(f"no {load.window_s:g} s with more than {load.most} calls", found.most <= load.most, f"{found.most}"),
    ]
    figures = {"overload": vars(found), "round_trips_a_call": trips}
    return Report("limits", _QUESTION, [overload, cost], notes, figures)


def _worker(database: int, limits: dict[str, Any]) -> WorkerSpec:
    environment = (("KAGURA_TASKS_LIMITS", json.dumps(limits)),) if limits else ()
    return WorkerSpec("workers.main", "asyncio", 64, database, queues="llm", environment=environment)


def _overload(made: Stage, load: Load) -> Overloaded:
    limits = {"openai/*": {"requests_per_min": _PER_MIN, "window_s": load.window_s}}
    made.start_several(load.processes, _worker(_OVERLOAD, limits))
    made.provider.reset()
    made.provider.script(delay_s=_SERVICE_S, most=load.most, window_s=load.window_s)
    client = client_on(made, _OVERLOAD)
    began = time.monotonic()
    senders = [threading.Thread(target=_send, args=(client, began, load, at)) for at in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    wait_until(lambda: time.monotonic() - began > load.seconds, load.seconds + 60, "the end of the overload")
    requests = made.provider.ledger()["requests"]
    return _overloaded([one for one in requests if one["started_at"] < began + load.seconds], load)


def _send(client: LLMClient, began: float, load: Load, at: int) -> None:
    """One of three senders; together they send three times as much as the provider takes, evenly."""
    each_s = 60 / _PER_MIN
    for number in range(int(load.seconds / each_s)):
        time.sleep(max(0.0, began + (number + at / 3) * each_s - time.monotonic()))
        client.submit(f"Say something about {uuid4().hex}.")


def _overloaded(requests: Sequence[dict[str, Any]], load: Load) -> Overloaded:
    begun = sorted(one["started_at"] for one in requests)
    if not begun:
        raise BenchmarkError("no call reached the provider")
    refused = sum(one["status"] == 429 for one in requests)
    allowed = load.most * max(1, round(load.seconds / load.window_s))
    return Overloaded(len(begun), refused, (len(begun) - refused) / allowed, _most_in(begun, load.window_s))


def _most_in(begun: Sequence[float], window_s: float) -> int:
    """The largest number of calls in any window."""
    most = first = 0
    for last, moment in enumerate(begun):
        while moment - begun[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def _round_trips(made: Stage, calls: int) -> dict[str, float]:
    """Round trips of a call, by what the workers' limits say."""
    plenty = {"concurrency": 1000}
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        "no limit is set": (_NONE, {}),
        "a limit for another model": (_OTHERS, {"anthropic/*": plenty}),
        "a limit for this model": (_OURS, {"openai/*": plenty}),
    }
    found: dict[str, float] = {}
    for label, (database, limits) in kinds.items():
        (worker,) = made.start(_worker(database, limits))
        made.set_latency(0.0)
        client = client_on(made, database)
        client.complete(f"Warm up with {uuid4().hex}.")
        before = _trips_so_far(made)
        for _ in range(calls):
            client.complete(f"Say something about {uuid4().hex}.")
        found[label] = (_trips_so_far(made) - before) / calls
        worker.stop()
    return found


def _trips_so_far(made: Stage) -> int:
    """How often the server was sent something. Whoever is idle sends something now and then, too."""
    client: Any = made.redis(_NONE)
    return int(client.info("stats")["total_reads_processed"])
