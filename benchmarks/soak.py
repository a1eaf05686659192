"""A hundred thousand tasks of all kinds through one process of the asyncio pool: what it holds then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from kombu.transport.redis import Channel

from benchmarks.contenders import client_on
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec, wait_until
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from kagura_tasks.queues import LLM, PRIORITY_STEPS

_QUESTION: Final = "Does a process of the asyncio pool keep anything of the tasks that it ran?"

#: Out of a hundred, how many are of which kind; each kind of retried ones runs twice.
_MIX: Final = {
    "prompt": 8,
    "streamed prompt": 2,
    "soak.coroutine": 44,
    "soak.plain": 23,
    "soak.fails": 5,
    "soak.fails_plain": 5,
    "soak.retried": 5,
    "soak.retried_plain": 5,
    "soak.too_long": 1,
    "soak.too_long_plain": 1,
    "soak.cleans_up": 1,
}

_SPEC: Final = WorkerSpec("benchmarks.soak_app", "asyncio", 256, 1, queues=LLM)

#: Where messages of the queue wait, one list a priority.
_LISTS: Final = [LLM if not step else f"{LLM}{Channel.sep}{step}" for step in PRIORITY_STEPS]

#: Memory is flat where it ends at no more than so many times what it was after the first part.
_FLAT: Final = 1.05

_WARM_UP: Final = 100

_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True)
class Sample:
    """The worker after so many tasks, when it has nothing to do."""

    tasks: int
    rss_mb: float
    left: dict[str, int]

    def row(self) -> list[str]:
        return [f"{self.tasks:,}", f"{self.rss_mb:.1f}", *(str(count) for count in self.left.values())]


class Soak:
    """The worker, and who sends to it."""

    def __init__(self, made: Stage) -> None:
        """Start the worker."""
        self._client = client_on(made, _SPEC.database)
        self._redis = made.redis(_SPEC.database)
        (self._worker,) = made.start(_SPEC)
        self.sent = 0

    def run(self, tasks: int, parts: int) -> Iterator[Sample]:
        """What there is after the first hundred, which start what a worker keeps running, and after each part."""
        for count in (_WARM_UP, *[tasks // parts] * parts):
            self._send(count)
            wait_until(self._is_idle, _TIMEOUT_S, "the tasks to end", poll_s=0.2)
            self.sent += count
            yield self._sample()

    def runs(self) -> int:
        """How often the body of a task was run, or begun."""
        (stats,) = (self._client.app.control.inspect([self._worker.hostname], timeout=5.0).stats() or {}).values()
        return sum(count for name, count in stats["total"].items() if name != "soak.census")

    def _send(self, count: int) -> None:
        kinds = [name for name, share in _MIX.items() for _ in range(share)] * (count // 100)
        random.shuffle(kinds)
        for number, name in enumerate(kinds):
            if name.endswith("prompt"):
                self._client.submit(f"Say something about {uuid4().hex}.", stream=name != "prompt")
            else:
                self._client.app.send_task(name, [number])

    def _is_idle(self) -> bool:
        self._worker.check()
        return not self._redis.exists("unacked", *_LISTS)

    def _sample(self) -> Sample:
        left: dict[str, Any] = self._client.app.send_task("soak.census").get(timeout=60)
        return Sample(self.sent, self._worker.usage().rss_mb, left)


def run(options: Options, made: Stage) -> Report:
    """One run; rounds would find the same."""
    tasks, parts = (2_000, 2) if options.quick else (100_000, 10)
    made.set_latency(0.0)
    soak = Soak(made)
    samples = list(soak.run(tasks, parts))
    expected = soak.sent * (100 + _MIX["soak.retried"] + _MIX["soak.retried_plain"]) // 100
    if (ran := soak.runs()) != expected:
        raise BenchmarkError(f"{ran} runs of bodies instead of {expected}")
    prompts = soak.sent * (_MIX["prompt"] + _MIX["streamed prompt"]) // 100
    if (called := made.provider.count()) != prompts:
        raise BenchmarkError(f"{called} provider requests for {prompts} prompts")
    table = Table(["tasks", "RSS MB", *samples[0].left], [sample.row() for sample in samples])
    return Report("soak", _QUESTION, [table], _notes(samples, expected), _for_programs(samples))


def _notes(samples: list[Sample], ran: int) -> list[str]:
    before, first, last = samples[0], samples[1], samples[-1]
    mix = ", ".join(f"{share} % {name.removeprefix('soak.')}" for name, share in _MIX.items())
    growth = f"{first.rss_mb:.1f} MB, then {last.rss_mb:.1f} MB"
    setting = (
        f"{mix}; {ran:,} runs of bodies, 256 at a time. Each row is a worker that has nothing to do but to count: live"
        " greenlets, asyncio's tasks and threads, the count's own included."
    )
    return [
        setting,
        goal(f"RSS is flat after the first {first.tasks:,}", last.rss_mb <= _FLAT * first.rss_mb, growth),
        goal("no greenlet or task left behind", _is_clean(before, last), str(last.left)),
    ]


def _is_clean(before: Sample, after: Sample) -> bool:
    return all(after.left[name] <= before.left[name] for name in ("greenlets", "asyncio tasks"))


def _for_programs(samples: list[Sample]) -> dict[str, object]:
    return {
        "tasks": [one.tasks for one in samples],
        "rss_mb": [one.rss_mb for one in samples],
        "left": [one.left for one in samples],
    }
