"""Calls a second, CPU and memory: our workers beside stock Celery's pools, and beside other task queues."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from benchmarks.batch import LEDGER, Batch, interleaved
from benchmarks.contenders import Contender, ours, plain, quick_pair, supervised
from benchmarks.harness import Stage
from benchmarks.llm_peers import llm_peers, releases
from benchmarks.measure import Spread, ratios
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal

_QUESTION: Final = "How many calls does one worker make in a second, and what do they cost it?"

#: Times the calls a second of stock threads, and of the best other queue, through LiteLLM as they are.
_GOAL_STOCK: Final = 3.5
_GOAL_PEERS: Final = 2.0
#: Calls a second of our asyncio pool with nothing between it and the provider.
_GOAL_DIRECT: Final = 800.0

Found = dict[Contender, list[Batch]]


@dataclass(frozen=True)
class Field:
    """Everybody, and those whom others are measured by.

    Attributes:
        mine: The one that the goals are about.
        stock: Plain Celery, as most have it.
        direct: Ours without LiteLLM in between; None in a quick run.
        on_two: Both once more, in two processes; not in a quick run.
        others: Rows without a goal of their own.
        peers: Other task queues.
    """

    mine: Contender
    stock: Contender
    direct: Contender | None = None
    on_two: tuple[Contender, ...] = ()
    others: tuple[Contender, ...] = ()
    peers: tuple[Contender, ...] = ()

    @property
    def all(self) -> list[Contender]:
        """In the order of the table."""
        ours = [self.mine] if self.direct is None else [self.mine, self.direct]
        return [*ours, *self.on_two, self.stock, *self.others, *self.peers]


def run(options: Options, made: Stage) -> Report:
    """Everybody, interleaved; a quick run has two, which saves the others' start."""
    calls, latency_s, warm_up = (40, 0.05, 16) if options.quick else (800, 0.2, 64)
    field = Field(*quick_pair()) if options.quick else _whole_field()
    contenders = _installed(field.all)
    found = interleaved(made, contenders, options.rounds, calls, latency_s, warm_up)
    told = filter(None, [releases(field.all)])
    notes = [*_notes(options.rounds, latency_s), *told, *_goals(found, field)]
    return Report("throughput", _QUESTION, [_table(found, field)], notes, _for_programs(found))


def _whole_field() -> Field:
    return Field(
        mine=ours(256, 1, "asyncio", "litellm"),
        # About as long as stock threads need for theirs.
        direct=ours(256, 2, "asyncio", times=8),
        stock=plain("threads", 256, 3),
        on_two=(supervised(2, 128, 10, "litellm", times=2), supervised(2, 128, 11, times=8)),
        others=(
            ours(256, 4, "threads", "litellm"),
            plain("prefork", 8, 5, times=0.25),
            plain("gevent", 256, 6, packages=("gevent",)),
        ),
        peers=tuple(llm_peers(256, 7)),
    )


def _installed(contenders: list[Contender]) -> list[Contender]:
    """Those that can run here; a line says who cannot."""
    absent = sorted({package for contender in contenders for package in contender.missing()})
    if absent:
        print(f"left out, since not installed: {', '.join(absent)} (`make bench` installs them)", file=sys.stderr)
    return [contender for contender in contenders if not contender.missing()]


def _table(found: Found, field: Field) -> Table:
    head = [
        "",
        "provider requests",
        "calls/s",
        "x stock threads",
        "our pool / this",
        "CPU ms a call",
        "this / our pool",
        "in flight",
        "processes",
        "RSS MB",
        "PSS MB",
    ]
    return Table(head, [[who.label, *_figures(batches, found, field)] for who, batches in found.items()])


def _figures(batches: list[Batch], found: Found, field: Field) -> list[str]:
    costs, usage = _costs(batches), batches[-1].usage
    return [
        Spread.of([len(one.requests) for one in batches]).text(),
        Spread.of(_speeds(batches)).text(1),
        ratios(_speeds(batches), _speeds(found[field.stock])).text(2),
        ratios(_speeds(found[field.mine]), _speeds(batches)).text(2),
        Spread.of(costs).text(1),
        ratios(costs, _costs(found[field.mine])).text(2),
        Spread.of([one.peak for one in batches]).text(),
        str(usage.processes),
        f"{usage.rss_mb:.0f}",
        f"{usage.pss_mb:.0f}",
    ]


def _speeds(batches: list[Batch]) -> list[float]:
    return [one.calls_per_s for one in batches]


def _costs(batches: list[Batch]) -> list[float]:
    return [one.cpu_ms_per_call for one in batches]


def _notes(rounds: int, latency_s: float) -> list[str]:
    setting = (
        f"Different prompts, {latency_s * 1000:g} ms each at the provider; rounds: {rounds}, interleaved, all other"
        " workers paused meanwhile. All are enqueued while the worker is paused; timed from its waking up until all"
        " answers are stored and all messages acknowledged, by the same rule for all. Who is faster gets more of them."
    )
    ways = (
        "All call through LiteLLM, as their users would (`litellm.completion`, `litellm.acompletion`), but for the row"
        ' "direct": there our worker speaks to the provider itself, which is its default for providers of this format.'
    )
    likeness = (
        "Each as it comes: ours looks into the cache, shares equal calls, stores the answer, acknowledges late and"
        " sends events for Flower; plain Celery and the others do none of this but store the answer (taskiq's stream"
        " and arq acknowledge late as well)."
    )
    prefork = (
        "Prefork is bound by its processes, not by its CPU: each holds one call at a time. RSS adds up what its"
        " processes share, PSS does not."
    )
    cores = (
        '"2 x": `kagura-tasks worker --processes 2`, half of the calls in each. Beside it only prefork computes on more'
        " than one CPU; here the provider, Redis and the caller share those with the workers."
    )
    return [setting, ways, LEDGER, likeness, prefork, cores]


def _goals(found: Found, field: Field) -> list[str]:
    """For one process and for two. None in a quick run, which is not about them."""
    if field.direct is None:
        return []
    on_two_through, on_two_past = field.on_two
    through, past = (field.mine, on_two_through), (field.direct, on_two_past)
    beaten = [(_GOAL_STOCK, field.stock, "")]
    ran = [peer for peer in field.peers if peer in found]
    if ran:
        best = max(ran, key=lambda who: Spread.of(_speeds(found[who])).median)
        beaten.append((_GOAL_PEERS, best, ", the best of the other queues"))
    told = [_at_least(found, who, times, other, what) for times, other, what in beaten for who in through]
    return [*told, *(_fast(who, found) for who in past)]


def _at_least(found: Found, who: Contender, times: float, other: Contender, what: str) -> str:
    over = ratios(_speeds(found[who]), _speeds(found[other]))
    text = f"{who.label}, makes at least {times:g} x the calls/s of {other.label}{what}"
    return goal(text, over.median >= times, over.text(2))


def _fast(who: Contender, found: Found) -> str:
    speed = Spread.of(_speeds(found[who]))
    return goal(f"{who.label}, makes at least {_GOAL_DIRECT:g} calls/s", speed.median >= _GOAL_DIRECT, speed.text(1))


def _for_programs(found: Found) -> dict[str, object]:
    return {
        who.label: {
            "calls_per_s": _speeds(batches),
            "cpu_ms_per_call": _costs(batches),
            "rss_mb": batches[-1].usage.rss_mb,
            "pss_mb": batches[-1].usage.pss_mb,
        }
        for who, batches in found.items()
    }
