"""One worker process with hundreds of slow calls: how many are in flight at once, and how soon."""

from __future__ import annotations

from typing import Final

from benchmarks.batch import LEDGER, Batch, interleaved
from benchmarks.contenders import Contender, ours, plain, quick_pair
from benchmarks.harness import Stage
from benchmarks.measure import Spread, ratios
from benchmarks.options import Options
from benchmarks.report import Report, Table, goal

#: One worker process shall hold so many calls, answer them all in so many seconds, and need no more memory (MB).
_MANY: Final = 1000
_GOAL_S: Final = 6.0
_GOAL_RSS_MB: Final = 350.0

#: Moments of the ramp, in parts of one call's latency.
_MOMENTS: Final = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)

_QUESTION: Final = "How many calls does one worker process hold, and how soon?"

Found = dict[Contender, list[Batch]]


def run(options: Options, made: Stage) -> Report:
    """Ours beside plain Celery threads, interleaved; in a full run on both its pools, and with twice the calls."""
    calls, latency_s = (60, 0.5) if options.quick else (500, 2.0)
    several = quick_pair() if options.quick else _all_of_them(_MANY / calls)
    found = interleaved(made, several, options.rounds, calls, latency_s, warm_up=16)
    tables = [_summary(found, several[0], latency_s), _ramp(found, latency_s)]
    notes = [*_notes(found[several[0]], calls, latency_s), *_goals(found)]
    return Report("in_flight", _QUESTION, tables, notes, _for_programs(found, latency_s))


def _all_of_them(times: float) -> list[Contender]:
    """`times`: the calls of those that hold many."""
    few = [ours(512, 1), plain("threads", 512, 2), ours(512, 3, "asyncio")]
    return [*few, *(ours(1024, 4 + number, "asyncio", lane, times) for number, lane in enumerate(("auto", "litellm")))]


def _summary(found: Found, mine: Contender, latency_s: float) -> Table:
    head = [
        "",
        "provider requests",
        "peak in flight",
        f"sent by {latency_s:g} s",
        "seconds",
        "x ours",
        "CPU ms a call",
        "RSS MB",
        "peak RSS MB",
    ]
    base = [one.seconds for one in found[mine]]
    return Table(head, [[who.label, *_figures(batches, base, latency_s)] for who, batches in found.items()])


def _figures(batches: list[Batch], base: list[float], latency_s: float) -> list[str]:
    seconds = [one.seconds for one in batches]
    return [
        Spread.of([len(one.requests) for one in batches]).text(),
        Spread.of([one.peak for one in batches]).text(),
        Spread.of([one.sent_by(latency_s) for one in batches]).text(),
        Spread.of(seconds).text(1),
        ratios(seconds, base).text(2),
        Spread.of([one.cpu_ms_per_call for one in batches]).text(1),
        f"{batches[-1].usage.rss_mb:.0f}",
        f"{batches[-1].usage.peak_rss_mb:.0f}",
    ]


def _ramp(found: Found, latency_s: float) -> Table:
    moments = [moment * latency_s for moment in _MOMENTS]
    head = ["sent / in flight after", *(f"{second:g} s" for second in moments)]
    return Table(
        head, [[who.label, *(_at(batches[-1], second) for second in moments)] for who, batches in found.items()]
    )


def _at(batch: Batch, second: float) -> str:
    return f"{batch.sent_by(second)} / {batch.in_flight_at(second)}"


def _notes(mine: list[Batch], calls: int, latency_s: float) -> list[str]:
    sent = Spread.of([one.sent_by(latency_s) for one in mine])
    setting = (
        f"{calls} different prompts of {latency_s:g} s each ({_MANY} where the first column says so), one worker"
        f" process; rounds: {len(mine)}, interleaved, all other workers paused meanwhile; the ramp is the last one's."
        " All are enqueued while the worker is paused; time 0 is when it wakes up, and the end is when all answers are"
        " stored and all messages acknowledged."
    )
    met = f"met in {sum(one.sent_by(latency_s) >= calls for one in mine)} of {len(mine)} rounds"
    stock = (
        "Plain Celery's client has httpx's default limit of 100 connections. A long round of it is a single call that"
        " got no answer and was tried again after a timeout; why, was not examined."
    )
    soon = f"Goal: all {calls} are sent within {latency_s:g} s: {met} ({sent.text()} sent)."
    return [setting, LEDGER, stock, soon]


def _goals(found: Found) -> list[str]:
    """About each that was given many calls."""
    return [
        note
        for who, batches in found.items()
        if batches[0].calls == _MANY
        for note in (
            goal(
                f"{who.label} holds {_MANY} calls, and has answered all within {_GOAL_S:g} s",
                min(one.peak for one in batches) == _MANY and max(one.seconds for one in batches) <= _GOAL_S,
                f"peak {Spread.of([one.peak for one in batches]).text()},"
                f" {Spread.of([one.seconds for one in batches]).text(1)} s",
            ),
            goal(
                f"with at most {_GOAL_RSS_MB:g} MB",
                max(one.usage.peak_rss_mb for one in batches) <= _GOAL_RSS_MB,
                f"peak RSS {Spread.of([one.usage.peak_rss_mb for one in batches]).text()} MB",
            ),
        )
    ]


def _for_programs(found: Found, latency_s: float) -> dict[str, object]:
    return {
        who.label: {
            "peak": [one.peak for one in batches],
            "sent_within_latency": [one.sent_by(latency_s) for one in batches],
            "seconds": [one.seconds for one in batches],
            "cpu_ms_per_call": [one.cpu_ms_per_call for one in batches],
            "rss_mb": [one.usage.rss_mb for one in batches],
        }
        for who, batches in found.items()
    }
