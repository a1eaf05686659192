"""Many calls through one worker: all enqueued while it is paused, then timed from outside, for all contenders alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from benchmarks.contenders import Contender
from benchmarks.harness import BenchmarkError, Stage, WorkerProcess, wait_until
from benchmarks.measure import Usage, rotated

_TIMEOUT_S: Final = 180.0

LEDGER: Final = (
    "Requests, ramp and calls in flight are from the provider's ledger. A run in which ours makes one request more or"
    " less than there are calls fails; a stock client may try a dropped connection again."
)


@dataclass(frozen=True)
class Request:
    """One request as the provider saw it, in seconds after the worker woke up."""

    started_s: float
    ended_s: float

    @classmethod
    def since(cls, woken_at: float, seen: dict[str, Any]) -> Request:
        return cls(seen["started_at"] - woken_at, seen["ended_at"] - woken_at)


@dataclass(frozen=True)
class Batch:
    """What came of it.

    Attributes:
        calls: How many, all of them answered.
        seconds: From the worker's waking up to all answers stored and all messages acknowledged.
        cpu_s: The worker's CPU in that time, its children's included.
        peak: Calls in flight at once at the provider, at most.
        requests: The provider's ledger.
        usage: The worker's memory afterwards.
    """

    calls: int
    seconds: float
    cpu_s: float
    peak: int
    requests: tuple[Request, ...]
    usage: Usage

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms_per_call(self) -> float:
        return self.cpu_s * 1000 / self.calls

    def sent_by(self, second: float) -> int:
        """Calls that the provider had seen by then."""
        return sum(one.started_s <= second for one in self.requests)

    def in_flight_at(self, second: float) -> int:
        """Calls that were running at the provider then."""
        return sum(one.started_s <= second < one.ended_s for one in self.requests)


class Lane:
    """A contender with its worker, which is frozen except while it is measured, and its caller's side."""

    def __init__(self, stage: Stage, contender: Contender, worker: WorkerProcess) -> None:
        """Take the contender, and its worker, which may not be ready yet."""
        self.contender = contender
        self.worker = worker
        self._stage = stage
        self._caller = contender.open(stage)

    def run(self, calls: int, latency_s: float) -> Batch:
        """So many different prompts, for a provider that takes so long.

        Raises BenchmarkError where a task fails, or the provider's ledger does not fit the number of calls.
        """
        self._stage.set_latency(latency_s)
        self.worker.pause()
        sent = self._caller.send([f"Say something about number {n} of {uuid4().hex}." for n in range(calls)])
        before = self.worker.usage()
        woken_at = time.monotonic()
        self.worker.resume()
        wait_until(lambda: self._are_done(sent), _TIMEOUT_S, f"{calls} answers of {self.contender.label}")
        seconds = time.monotonic() - woken_at
        after = self.worker.usage()
        self.worker.pause()
        ledger = self._stage.provider.ledger()
        # A stock client tries again by itself where a connection drops, and pays twice: the tables show it.
        if ledger["count"] < calls or (self.contender.exact and ledger["count"] != calls):
            raise BenchmarkError(f"{self.contender.label}: {ledger['count']} provider requests for {calls} calls")
        requests = tuple(Request.since(woken_at, one) for one in ledger["requests"])
        return Batch(calls, seconds, after.cpu_s - before.cpu_s, ledger["peak"], requests, after)

    def _are_done(self, sent: list[str]) -> bool:
        self.worker.check()
        return self._caller.are_done(sent)


def interleaved(
    stage: Stage, contenders: Sequence[Contender], rounds: int, calls: int, latency_s: float, warm_up: int
) -> dict[Contender, list[Batch]]:
    """Each contender's batches, one a round; every round starts with another one, and all others are paused meanwhile.

    Some calls come first that count for nothing: LiteLLM imports half of itself when it is used for the first time.
    """
    workers = [stage.launch(contender.worker) for contender in contenders]
    lanes = [Lane(stage, contender, worker) for contender, worker in zip(contenders, workers, strict=True)]
    try:
        for lane in lanes:
            lane.run(warm_up, min(latency_s, 0.05))
        found: dict[Contender, list[Batch]] = {contender: [] for contender in contenders}
        for number in range(rounds):
            for lane in rotated(lanes, number):
                found[lane.contender].append(lane.run(int(calls * lane.contender.times), latency_s))
        return found
    finally:
        # The next benchmark may share them.
        for worker in workers:
            worker.resume()
