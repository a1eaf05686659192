"""Text on its way: how soon the first of it arrives, and how much of it one worker can hand on."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final
from uuid import uuid4

import redis.asyncio
from celery import Celery

from benchmarks.contenders import client_on, plain_app
from benchmarks.harness import BenchmarkError, Stage, WorkerProcess, WorkerSpec
from benchmarks.measure import Spread, percentile, ratios, rotated
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.queues import LLM
from kagura_tasks.streaming.events import Chunk, Done

_QUESTION: Final = "How soon does a reader see the first text, and how much text does one worker process hand on?"

#: Tries of the first chunk, one after the other; and streams at once, with the provider's chunks in each.
_FIRSTS: Final = 40
_STREAMS: Final = 50
_CHUNKS: Final = 200
_CHUNK_DELAY_S: Final = 0.005

#: Wanted: so much more than LiteLLM alone until the first chunk (ms); so many times plain Celery's chunks a second; and
#: so much of Redis's time a chunk (us).
_GOAL_FIRST_MS: Final = 5.0
_GOAL_TIMES: Final = 15.0
_GOAL_REDIS_US: Final = 20.0

_LONGEST_S: Final = 180.0


@dataclass
class Load:
    """What readers saw of many streams at once. Times are seconds, of one clock."""

    seconds: float = 0.0
    chunks: int = 0
    events: int = 0
    cpu_s: float = 0.0
    redis_s: float = 0.0
    firsts_s: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)

    @property
    def chunks_a_second(self) -> float:
        return self.chunks / self.seconds


class Ours:
    """Our worker, read through LLMClient."""

    def __init__(self, stage: Stage, pool: str, lane: str, database: int) -> None:
        self.label = f"kagura_tasks, {pool}, {'direct' if lane == 'auto' else 'LiteLLM'}"
        self.database = database
        settings = (("KAGURA_TASKS_PROVIDER_LANE", lane),)
        self.spec = WorkerSpec("workers.main", pool, 64, database, queues=LLM, environment=settings)
        self._client = client_on(stage, database)

    async def first_ms(self, prompt: str) -> float:
        started, first = time.perf_counter(), 0.0
        async for _ in self._client.stream(prompt):
            first = first or (time.perf_counter() - started) * 1000
        return first

    async def read(self, prompt: str, load: Load) -> None:
        started, first, texts = time.perf_counter(), 0.0, ""
        async for event in self._client.stream(prompt).events():
            if isinstance(event, Chunk):
                first = first or time.perf_counter() - started
                load.lags_ms.append(time.time() * 1000 - event.at_ms)
                load.events += 1
                texts += event.text
        if not isinstance(event, Done) or texts != _text(_CHUNKS):
            raise BenchmarkError(f"a stream ended with {event.kind}, after {len(texts)} characters")
        load.firsts_s.append(first)

    async def close(self) -> None:
        await self._client.aclose()


class Plain:
    """A plain Celery task that publishes LiteLLM's chunks one by one."""

    def __init__(self, stage: Stage, database: int) -> None:
        self.label = "plain Celery, threads, LiteLLM"
        self.database = database
        self.spec = WorkerSpec("benchmarks.plain_stream", "threads", 64, database)
        self._app: Celery = plain_app(stage, database)
        self._redis = redis.asyncio.Redis.from_url(stage.url(database), max_connections=2 * _STREAMS)

    async def first_ms(self, prompt: str) -> float:
        load = Load()
        await self.read(prompt, load)
        return load.firsts_s[0] * 1000

    async def read(self, prompt: str, load: Load) -> None:
        name, first = f"stream-{uuid4().hex}", 0.0
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(name)
            started = time.perf_counter()
            await asyncio.to_thread(self._app.send_task, "plain.stream", [prompt, name])
            async for message in pubsub.listen():
                if message["type"] == "message":
                    first = first or time.perf_counter() - started
                    if not message["data"]:
                        break
                    load.events += 1
        load.firsts_s.append(first)

    async def close(self) -> None:
        await self._redis.aclose()


Contender = Ours | Plain


def run(options: Options, made: Stage) -> Report:
    """The first chunk alone, beside LiteLLM in a process of its own; then many streams at once. Interleaved."""
    several: list[Contender] = [Ours(made, "threads", "auto", 1), Plain(made, 2)]
    if not options.quick:
        several += [Ours(made, "asyncio", "auto", 3), Ours(made, "threads", "litellm", 4)]
    workers = dict(zip(several, made.start(*(one.spec for one in several)), strict=True))
    with made.program("benchmarks.direct_stream") as direct:
        found = asyncio.run(_measured(options, made, workers, direct))
    return _report(options, several, *found)


Firsts = dict[str, list[float]]
Loads = dict[str, list[Load]]


async def _measured(
    options: Options, made: Stage, workers: dict[Contender, WorkerProcess], direct: subprocess.Popen[str]
) -> tuple[Firsts, Loads]:
    firsts: Firsts = {_DIRECT: [], **{who.label: [] for who in workers}}
    loads: Loads = {who.label: [] for who in workers}
    for worker in workers.values():
        worker.pause()
    try:
        for number in range(options.rounds):
            for who in rotated(list(workers), number):
                with _awake(workers[who]):
                    await _warm_up(made, who, direct)
                    await _round(options, made, who, direct, firsts)
                    loads[who.label].append(await _load(options, made, who, workers[who]))
    finally:
        for who in workers:
            await who.close()
    return firsts, loads


_DIRECT: Final = "LiteLLM, called directly"


async def _warm_up(made: Stage, who: Contender, direct: subprocess.Popen[str]) -> None:
    _script(made, 5)
    await who.first_ms(f"warm up {uuid4().hex}")
    await _first_of(direct)


async def _round(options: Options, made: Stage, who: Contender, direct: subprocess.Popen[str], firsts: Firsts) -> None:
    """In turns with LiteLLM's: whatever slows the machine down slows both."""
    _script(made, 5)
    for number in range(4 if options.quick else _FIRSTS):
        firsts[who.label].append(await who.first_ms(f"{who.label} {number} {uuid4().hex}"))
        firsts[_DIRECT].append(await _first_of(direct))


async def _load(options: Options, made: Stage, who: Contender, worker: WorkerProcess) -> Load:
    _script(made, _CHUNKS)
    streams = 10 if options.quick else _STREAMS
    load = Load(chunks=streams * _CHUNKS)
    cpu_s, redis_s = worker.cpu_s(), _redis_seconds(made, who.database)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_LONGEST_S), asyncio.TaskGroup() as readers:
            for number in range(streams):
                _ = readers.create_task(who.read(f"load {number} {uuid4().hex}", load))
    except* (TimeoutError, KaguraTasksError) as errors:
        raise BenchmarkError(f"{who.label}: {errors.exceptions[0]!r}\n{worker.tail()}") from None
    load.seconds = time.perf_counter() - started
    load.cpu_s = worker.cpu_s() - cpu_s
    load.redis_s = _redis_seconds(made, who.database) - redis_s
    return load


@contextmanager
def _awake(worker: WorkerProcess) -> Iterator[None]:
    worker.resume()
    try:
        yield
    finally:
        worker.pause()


async def _first_of(direct: subprocess.Popen[str]) -> float:
    stdin, stdout = _pipes(direct)
    stdin.write(f"direct {uuid4().hex}\n")
    stdin.flush()
    return float(await asyncio.to_thread(stdout.readline))


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _text(chunks: int) -> str:
    return "".join(f"word{number:04d} " for number in range(chunks))


def _script(made: Stage, chunks: int) -> None:
    made.provider.reset()
    made.provider.script(text=_text(chunks), chunks=chunks, chunk_delay_s=_CHUNK_DELAY_S)


def _redis_seconds(made: Stage, database: int) -> float:
    """CPU time of the server, its work for readers included."""
    info: Any = made.redis(database).info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _report(options: Options, several: list[Contender], firsts: Firsts, loads: Loads) -> Report:
    streams = 10 if options.quick else _STREAMS
    setting = (
        "First chunk: the time from the call to the first text at the reader, one stream at a time, in turns with"
        f" LiteLLM's (litellm.acompletion with stream=True, in a process of its own); rounds: {options.rounds}."
    )
    load = (
        f"Load: {streams} streams at once of {_CHUNKS} chunks each, one every {_CHUNK_DELAY_S * 1000:g} ms; one worker"
        " process, one reader a stream, all readers in one process; provider, Redis, worker and readers share the"
        " machine. Chunks are the provider's; an event holds one or several. CPU is the worker's; Redis's is all"
        " CPU of the server, its work for readers included. Lag: from the event's time stamp until it is read."
    )
    notes = [setting, load, *_goals(several, firsts, loads)]
    tables = [_first_table(firsts), _load_table(several, loads)]
    return Report("streaming", _QUESTION, tables, notes, _figures(firsts, loads))


def _first_table(firsts: Firsts) -> Table:
    direct = percentile(firsts[_DIRECT], 0.5)
    rows = [
        [
            label,
            f"{percentile(found, 0.5):.1f}",
            f"{percentile(found, 0.9):.1f}",
            f"{percentile(found, 0.5) - direct:+.1f}",
        ]
        for label, found in firsts.items()
    ]
    return Table(["first chunk (ms)", "p50", "p90", "p50 beside LiteLLM's"], rows)


def _load_table(several: list[Contender], loads: Loads) -> Table:
    head = ["load", "chunks/s", "x plain", "CPU us a chunk", "Redis us a chunk", "first chunk p50 ms", "events",
            "lag p99 ms"]  # fmt: skip
    plain = [load.chunks_a_second for load in loads[several[1].label]]
    return Table(head, [[label, *_load_row(found, plain)] for label, found in loads.items()])


def _load_row(found: list[Load], plain: list[float]) -> list[str]:
    speeds = [load.chunks_a_second for load in found]
    lags = [lag for load in found for lag in load.lags_ms]
    return [
        Spread.of(speeds).text(),
        ratios(speeds, plain).text(1),
        Spread.of([load.cpu_s / load.chunks * 1e6 for load in found]).text(),
        Spread.of([load.redis_s / load.chunks * 1e6 for load in found]).text(1),
        Spread.of([percentile(load.firsts_s, 0.5) * 1000 for load in found]).text(),
        Spread.of([load.events for load in found]).text(),
        f"{percentile(lags, 0.99):.0f}" if lags else "-",
    ]


def _goals(several: list[Contender], firsts: Firsts, loads: Loads) -> list[str]:
    mine, plain = several[0].label, several[1].label
    added = percentile(firsts[mine], 0.5) - percentile(firsts[_DIRECT], 0.5)
    times = ratios(*([load.chunks_a_second for load in loads[label]] for label in (mine, plain)))
    cheaper = ratios(*([load.cpu_s / load.chunks for load in loads[label]] for label in (plain, mine)))
    redis_us = Spread.of([load.redis_s / load.chunks * 1e6 for load in loads[mine]])
    return [
        goal(
            f"at most {_GOAL_FIRST_MS:g} ms more than LiteLLM until the first chunk",
            added <= _GOAL_FIRST_MS,
            f"{added:+.1f} ms",
        ),
        goal(
            f"{_GOAL_TIMES:g} times plain Celery's chunks",
            times.median >= _GOAL_TIMES,
            f"{times.text(1)} times, at {cheaper.text(1)} times less CPU a chunk; the provider offers no more than"
            f" {_STREAMS / _CHUNK_DELAY_S:,.0f} a second",
        ),
        goal(
            f"{_GOAL_REDIS_US:g} us of Redis a chunk",
            redis_us.median <= _GOAL_REDIS_US,
            f"{redis_us.text(1)} us of the server's CPU",
        ),
    ]


def _figures(firsts: Firsts, loads: Loads) -> dict[str, object]:
    return {
        "first_chunk_ms": firsts,
        "load": {
            label: [
                {
                    "chunks_a_second": load.chunks_a_second,
                    "cpu_us_a_chunk": load.cpu_s / load.chunks * 1e6,
                    "redis_us_a_chunk": load.redis_s / load.chunks * 1e6,
                    "events": load.events,
                    "lag_p99_ms": percentile(load.lags_ms, 0.99) if load.lags_ms else None,
                }
                for load in found
            ]
            for label, found in loads.items()
        },
    }
