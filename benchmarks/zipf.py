"""Few prompts that many ask, and many that few ask: what the cache saves of calls, time and money."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final
from uuid import uuid4

from benchmarks.contenders import client_on, quick_pair
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec
from benchmarks.measure import Spread, percentile, ratios, rotated
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from kagura_tasks import Completion, LLMClient
from kagura_tasks.connections import close_async_clients
from kagura_tasks.queues import LLM

_QUESTION: Final = "What does a cache save, where people ask as people do?"

_DATABASE: Final = 1

#: How often the n-th prompt is asked falls with 1 / n ** this.
_EXPONENT: Final = 1.0

#: So many people, each of whom asks the next question when the last one is answered.
_ASKERS: Final = 64

_GOAL_HITS, _GOAL_TIME, _GOAL_COST = 0.9, 0.7, 0.6

_WITHOUT, _WITH = "kagura_tasks, use_cache=False", "kagura_tasks"


@dataclass(frozen=True)
class Load:
    """What is asked: so many requests for so many prompts, of a provider that takes so long (s)."""

    requests: int
    prompts: int
    latency_s: float

    def ranks(self) -> list[int]:
        """Which prompt each request is for; the same in every run."""
        weights = list(accumulate(1 / rank**_EXPONENT for rank in range(1, self.prompts + 1)))
        return random.Random(25).choices(range(self.prompts), cum_weights=weights, k=self.requests)


@dataclass(frozen=True)
class Outcome:
    """What came of it: the provider's requests by its own ledger, the wait of each asker, and what was paid."""

    provider_requests: int
    seconds: float
    times_ms: list[float]
    cost_usd: float

    @property
    def hit_rate(self) -> float:
        return 1 - self.provider_requests / len(self.times_ms)

    @property
    def mean_ms(self) -> float:
        return sum(self.times_ms) / len(self.times_ms)


def run(options: Options, made: Stage) -> Report:
    """The same questions with the cache and without, interleaved."""
    load = Load(300, 30, 0.05) if options.quick else Load(10_000, 1_000, 0.2)
    spec = (
        quick_pair()[0].worker if options.quick else WorkerSpec("workers.main", "asyncio", 256, _DATABASE, queues=LLM)
    )
    made.launch(spec)
    client = client_on(made, _DATABASE)
    client.complete(f"Warm up with {uuid4().hex}.", timeout_s=60)
    found: dict[str, list[Outcome]] = {_WITHOUT: [], _WITH: []}
    for number in range(options.rounds):
        for label in rotated(list(found), number):
            made.set_latency(load.latency_s)
            found[label].append(asyncio.run(_asked(made, client, load, use_cache=label == _WITH)))
    return _report(found, load)


async def _asked(made: Stage, client: LLMClient, load: Load, *, use_cache: bool) -> Outcome:
    """All requests. Raises BenchmarkError where the answers and the provider's ledger do not agree."""
    run_id = uuid4().hex
    prompts = iter([f"What is number {rank} of {run_id}?" for rank in load.ranks()])
    answers: list[Completion] = []
    times_ms: list[float] = []

    async def ask_one_after_the_other(mine: Iterator[str]) -> None:
        for prompt in mine:
            asked_at = time.perf_counter()
            answers.append(await client.acomplete(prompt, use_cache=use_cache))
            times_ms.append((time.perf_counter() - asked_at) * 1000)

    started_at = time.perf_counter()
    await asyncio.gather(*(ask_one_after_the_other(prompts) for _ in range(_ASKERS)))
    seconds = time.perf_counter() - started_at
    await close_async_clients()
    return Outcome(_provider_requests(made, answers), seconds, times_ms, _cost_usd(answers))


def _provider_requests(made: Stage, answers: list[Completion]) -> int:
    counted, paid = made.provider.count(), sum(not answer.cached for answer in answers)
    if counted != paid:
        raise BenchmarkError(f"{paid} answers were paid for, and the provider counted {counted} requests")
    return counted


def _cost_usd(answers: list[Completion]) -> float:
    costs = [answer.usage.cost_usd for answer in answers if not answer.cached]
    if not all(costs):
        raise BenchmarkError("an answer has no price")
    return sum(cost or 0.0 for cost in costs)


def _report(found: dict[str, list[Outcome]], load: Load) -> Report:
    head = ["", "provider requests", "hit rate", "seconds", "mean ms", "p50 ms", "p95 ms", "cost USD"]
    table = Table(head, [_row(label, outcomes) for label, outcomes in found.items()])
    hits = Spread.of([one.hit_rate for one in found[_WITH]])
    left_of_time = ratios([one.mean_ms for one in found[_WITH]], [one.mean_ms for one in found[_WITHOUT]])
    left_of_cost = ratios([one.cost_usd for one in found[_WITH]], [one.cost_usd for one in found[_WITHOUT]])
    distinct = len(set(load.ranks()))
    notes = [
        *_setting(load, distinct, len(found[_WITH])),
        goal("hit rate at least 90 %", hits.median >= _GOAL_HITS, f"{hits.median:.1%}; {distinct} calls are the least"),
        goal(
            "mean wait at least 70 % shorter", left_of_time.median <= 1 - _GOAL_TIME, f"{1 - left_of_time.median:.0%}"
        ),
        goal("cost at least 60 % lower", left_of_cost.median <= 1 - _GOAL_COST, f"{1 - left_of_cost.median:.0%}"),
    ]
    figures = {
        "hit_rate": hits.median,
        "time_saved": 1 - left_of_time.median,
        "cost_saved": 1 - left_of_cost.median,
        "distinct": distinct,
        "provider_requests": {label: [one.provider_requests for one in outcomes] for label, outcomes in found.items()},
    }
    return Report("zipf", _QUESTION, [table], notes, figures)


def _setting(load: Load, distinct: int, rounds: int) -> list[str]:
    asked = f"{load.requests} requests for {load.prompts} prompts, of which the n-th is asked in proportion to 1/n"
    people = f"{_ASKERS} people ask, each one question after the other"
    provider = f"{load.latency_s * 1000:g} ms at the provider"
    how = f"Rounds: {rounds}, interleaved, each with new prompts."
    ledger = "Requests are from the provider's ledger; a run fails where they are not the answers that were paid for."
    hits = "An answer that was shared while its call was running is a hit, too. Cost is by LiteLLM's prices."
    return [f"{asked} ({distinct} of them are asked at all); {people}; {provider}. {how}", f"{ledger} {hits}"]


def _row(label: str, outcomes: list[Outcome]) -> list[str]:
    spreads = [
        Spread.of([one.provider_requests for one in outcomes]).text(),
        Spread.of([one.hit_rate for one in outcomes]).text(3),
        Spread.of([one.seconds for one in outcomes]).text(1),
        Spread.of([one.mean_ms for one in outcomes]).text(1),
        Spread.of([percentile(one.times_ms, 0.5) for one in outcomes]).text(1),
        Spread.of([percentile(one.times_ms, 0.95) for one in outcomes]).text(1),
        Spread.of([one.cost_usd for one in outcomes]).text(6),
    ]
    return [label, *spreads]
