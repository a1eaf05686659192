"""A warm hit of `client.complete()`, beside a bare GET of the same bytes, LiteLLM's own cache, and Celery's no-op."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import redis.asyncio
from celery import Celery

from benchmarks.contenders import LITELLM_CACHE_PACKAGES, WITHOUT_LITELLM_CACHE, client_on, plain_app, version_of
from benchmarks.harness import BenchmarkError, Stage, WorkerSpec
from benchmarks.measure import Spread, percentile, ratios, rotated
from benchmarks.options import Options
from benchmarks.plain_noop import NOOP
from benchmarks.report import Report, Table, goal
from kagura_tasks import Completion, LLMClient, Usage
from kagura_tasks.cache.key import cache_key
from kagura_tasks.cache.redis import entry_key
from kagura_tasks.connections import close_async_clients
from kagura_tasks.queues import LLM

_OURS, _PLAIN, _LITELLM = 4, 5, 6
_PROMPT: Final = "Summarise the following in one sentence. " + "All work and no play makes Jack a dull boy. " * 10
_ANSWER: Final = "It says, again and again, that somebody who never rests becomes dull. " * 15

#: A hit costs at most so many bare GETs, and is at least so many times as fast as Celery's round trip.
_GOAL_GET: Final = 3.0
_GOAL_CELERY: Final = 20.0


@dataclass(frozen=True)
class Timing:
    """So many calls: the time of each, and the CPU of one, in us."""

    times_us: list[float]
    cpu_us: float


#: Makes and times so many calls.
Timer = Callable[[int], Timing]


@dataclass
class Series:
    """One way to get an answer, over all rounds; the lists have a value a round, in us."""

    label: str
    timer: Timer
    samples: int
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    def run_round(self) -> None:
        """Time one round."""
        timing = self.timer(self.samples)
        self.cpus.append(timing.cpu_us)
        self.p50s.append(percentile(timing.times_us, 0.5))
        self.p99s.append(percentile(timing.times_us, 0.99))


def run(options: Options, made: Stage) -> Report:
    """Interleave all ways, round by round."""
    rounds, samples = (3, 100) if options.quick else (20, 200)
    with _ways(made, samples) as ways:
        for way in ways:
            way.timer(30)
        for number in range(rounds):
            for way in rotated(ways, number):
                way.run_round()
    queued = made.redis(_OURS).llen(LLM)
    size = made.redis(_OURS).strlen(_key(client_on(made, _OURS)))
    if queued:
        raise BenchmarkError(f"{queued} messages were enqueued for warm hits")
    return _report(ways, rounds, size)


@contextmanager
def _ways(made: Stage, samples: int) -> Iterator[list[Series]]:
    made.start(WorkerSpec("benchmarks.plain_noop", "threads", 8, _PLAIN))
    client = client_on(made, _OURS)
    bare, noop = made.redis(_OURS), plain_app(made, _PLAIN)
    with asyncio.Runner() as loop, ExitStack() as stack:
        loop.run(_warm(client))
        key = _key(client)
        async_bare = redis.asyncio.Redis.from_url(made.url(_OURS))
        try:
            yield [
                Series("redis-py GET", _timer(lambda: bare.get(key)), samples),
                Series("client.complete()", _timer(lambda: client.complete(_PROMPT)), samples),
                Series("redis.asyncio GET", _async_timer(loop, lambda: async_bare.get(key)), samples),
                Series("await client.acomplete()", _async_timer(loop, lambda: client.acomplete(_PROMPT)), samples),
                Series("plain Celery delay().get()", _timer(lambda: _round_trip(noop)), max(20, samples // 5)),
                *_ways_of_litellm(made, stack, samples),
            ]
        finally:
            loop.run(async_bare.aclose())
            loop.run(close_async_clients())


def _ways_of_litellm(made: Stage, stack: ExitStack, samples: int) -> list[Series]:
    """LiteLLM's own Redis cache, in a process of its own: its import would slow the others. None if it cannot hit."""
    if absent := [name for name in LITELLM_CACHE_PACKAGES if version_of(name) is None]:
        print(f"left out, since not installed: {', '.join(absent)} (`make bench` installs them)", file=sys.stderr)
        return []
    program = stack.enter_context(made.program("benchmarks.litellm_cache"))
    for line in (made.url(_LITELLM), _PROMPT, _ANSWER):
        _tell(program, json.dumps(line))
    return [
        Series("litellm.completion(), cached", _program_timer(program, "sync"), samples),
        Series("await litellm.acompletion(), cached", _program_timer(program, "async"), samples),
    ]


def _program_timer(program: subprocess.Popen[str], kind: str) -> Timer:
    def timed(count: int) -> Timing:
        _tell(program, f"{kind} {count}")
        answer = program.stdout.readline() if program.stdout else ""
        if not answer:
            raise BenchmarkError("the program with LiteLLM's cache ended: see what it wrote above")
        return Timing(**json.loads(answer))

    return timed


def _tell(program: subprocess.Popen[str], line: str) -> None:
    if program.stdin:
        program.stdin.write(f"{line}\n")
        program.stdin.flush()


def _round_trip(app: Celery) -> None:
    app.send_task(NOOP).get(timeout=10)


def _timer(call: Callable[[], object]) -> Timer:
    def timed(count: int) -> Timing:
        cpu_s = time.process_time()
        times_us = [_us(call) for _ in range(count)]
        return Timing(times_us, _cpu_us(cpu_s, count))

    return timed


def _cpu_us(since_s: float, calls: int) -> float:
    """CPU of this process since then, for each of the calls."""
    return (time.process_time() - since_s) * 1e6 / calls


def _us(call: Callable[[], object]) -> float:
    started_at = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started_at) / 1000


def _async_timer(loop: asyncio.Runner, call: Callable[[], Awaitable[object]]) -> Timer:
    async def timed(count: int) -> Timing:
        times_us: list[float] = []
        cpu_s = time.process_time()
        for _ in range(count):
            started_at = time.perf_counter_ns()
            await call()
            times_us.append((time.perf_counter_ns() - started_at) / 1000)
        return Timing(times_us, _cpu_us(cpu_s, count))

    return lambda count: loop.run(timed(count))


async def _warm(client: LLMClient) -> None:
    usage = Usage(prompt_tokens=120, completion_tokens=210, total_tokens=330, cost_usd=0.000144)
    request = client.request(_PROMPT)
    answer = Completion(text=_ANSWER, model=request.model, finish_reason="stop", usage=usage)
    await client.cache.remember(request, answer)
    if not (await client.acomplete(_PROMPT)).cached:
        raise BenchmarkError("the answer is not remembered")


def _key(client: LLMClient) -> str:
    request = client.request(_PROMPT)
    return entry_key(request.tenant, cache_key(request))


def _report(ways: list[Series], rounds: int, size: int) -> Report:
    get, hit, async_get, async_hit, celery, *litellm = ways
    bases = {hit.label: get, async_hit.label: async_get}
    bases |= {way.label: base for way, base in zip(litellm, (get, async_get), strict=False)}
    rows = [_row(way, bases.get(way.label), celery) for way in ways]
    head = ["p50, p99, CPU in us", "p50", "p99", "CPU a call", "x bare GET (p50)", "Celery's p50 / this"]
    over_get, under_celery = ratios(hit.p50s, get.p50s), ratios(celery.p50s, hit.p50s)
    setting = (
        f"{rounds} interleaved rounds of {hit.samples} calls ({celery.samples} of Celery's). The GET fetches the same"
        f" {size} bytes from the same server over a unix socket; sync beside sync, async beside async."
    )
    ours_beside = [ratios(way.p50s, mine.p50s) for way, mine in zip(litellm, (hit, async_hit), strict=False)]
    notes = [
        setting,
        "CPU is the caller's process alone. No message was enqueued for any hit.",
        *_notes_of_litellm(ours_beside),
        goal(f"complete() at most {_GOAL_GET:g} x GET", over_get.median <= _GOAL_GET, over_get.text(2)),
        goal(
            f"complete() at most 1/{_GOAL_CELERY:g} of Celery's round trip",
            under_celery.median >= _GOAL_CELERY,
            f"1/{under_celery.median:.1f}",
        ),
    ]
    figures = {
        "p50_us": {way.label: Spread.of(way.p50s).median for way in ways},
        "x_get": over_get.median,
        "x_get_async": ratios(async_hit.p50s, async_get.p50s).median,
        "celery_over_hit": under_celery.median,
        "litellm_over_hit": [ratio.median for ratio in ours_beside],
    }
    question = "What does an answer cost that Redis remembers?"
    return Report("cached_hit", question, [Table(head, rows)], notes, figures)


def _notes_of_litellm(beside: list[Spread]) -> list[str]:
    if not beside:
        return [WITHOUT_LITELLM_CACHE]
    sync, awaited = (ratio.text(1) for ratio in beside)
    where = "LiteLLM's own Redis cache hits in the process that would call the model; here it has one of its own."
    return [f"{where} A hit takes {sync} x ours, and {awaited} x ours where it is awaited."]


def _row(way: Series, base: Series | None, celery: Series) -> list[str]:
    over = ratios(way.p50s, base.p50s).text(2) if base else ""
    figures = [Spread.of(values).text() for values in (way.p50s, way.p99s, way.cpus)]
    return [way.label, *figures, over, "" if way is celery else ratios(celery.p50s, way.p50s).text(1)]
