"""Calls a second, CPU and memory: our worker beside plain Celery tasks that call `litellm.completion`."""

from __future__ import annotations

from typing import Final

from benchmarks.batch import LEDGER, Batch, interleaved
from benchmarks.contenders import Contender, ours, plain, quick_pair
from benchmarks.harness import Stage
from benchmarks.measure import Spread, ratios
from benchmarks.options import Options
from benchmarks.report import Report, Table

_QUESTION: Final = "How many calls does one worker make in a second, and what do they cost it?"

Found = dict[Contender, list[Batch]]


def run(options: Options, made: Stage) -> Report:
    """Ours on both its pools, prefork and threads, interleaved; a quick run leaves two out, which saves their start."""
    calls, latency_s, warm_up = (40, 0.05, 16) if options.quick else (400, 0.2, 64)
    contenders = [ours(256, 1), ours(256, 4, "asyncio"), plain("prefork", 8, 2), plain("threads", 256, 3)]
    if options.quick:
        contenders = quick_pair()
    found = interleaved(made, contenders, options.rounds, calls, latency_s, warm_up)
    mine = found[contenders[0]]
    head = [
        "",
        "provider requests",
        "calls/s",
        "ours / this",
        "CPU ms a call",
        "this / ours",
        "in flight",
        "processes",
        "RSS MB",
        "PSS MB",
    ]
    table = Table(head, [[who.label, *_figures(batches, mine)] for who, batches in found.items()])
    return Report("throughput", _QUESTION, [table], _notes(len(mine), calls, latency_s), _for_programs(found))


def _figures(batches: list[Batch], mine: list[Batch]) -> list[str]:
    speeds, costs = [one.calls_per_s for one in batches], [one.cpu_ms_per_call for one in batches]
    usage = batches[-1].usage
    return [
        Spread.of([len(one.requests) for one in batches]).text(),
        Spread.of(speeds).text(1),
        ratios([one.calls_per_s for one in mine], speeds).text(2),
        Spread.of(costs).text(1),
        ratios(costs, [one.cpu_ms_per_call for one in mine]).text(2),
        Spread.of([one.peak for one in batches]).text(),
        str(usage.processes),
        f"{usage.rss_mb:.0f}",
        f"{usage.pss_mb:.0f}",
    ]


def _notes(rounds: int, calls: int, latency_s: float) -> list[str]:
    setting = (
        f"{calls} different prompts, {latency_s * 1000:g} ms each at the provider; rounds: {rounds}, interleaved. All"
        " are enqueued while the worker is paused; timed from its waking up until all answers are stored and all"
        " messages acknowledged, by the same rule for all."
    )
    likeness = (
        "Each as it comes: ours looks into the cache, shares equal calls, stores the answer, acknowledges late and"
        " sends events for Flower; plain Celery does none of this."
    )
    prefork = (
        "Prefork is bound by its processes, not by its CPU: each holds one call at a time. RSS adds up what its"
        " processes share, PSS does not."
    )
    return [setting, LEDGER, likeness, prefork]


def _for_programs(found: Found) -> dict[str, object]:
    return {
        who.label: {
            "calls_per_s": [one.calls_per_s for one in batches],
            "cpu_ms_per_call": [one.cpu_ms_per_call for one in batches],
            "rss_mb": batches[-1].usage.rss_mb,
            "pss_mb": batches[-1].usage.pss_mb,
        }
        for who, batches in found.items()
    }
