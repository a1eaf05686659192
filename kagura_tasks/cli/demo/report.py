"""What the demo shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from kagura_tasks.cli.demo.model import Model
from kagura_tasks.cli.demo.rounds import Round, together
from kagura_tasks.cli.fleet import Ground
from kagura_tasks.cli.processes import RunningProgram
from kagura_tasks.cli.screen import Screen, printable

_MARGIN: Final = 11


def parts(screen: Screen, ground: Ground, model: Model, workers: Sequence[RunningProgram], flower: str | None) -> None:
    """What runs."""
    screen.say(f"Redis    {'a server of our own, in memory' if ground.server else ground.settings.broker.masked()}")
    screen.say(f"Workers  {', '.join(worker.name for worker in workers)}")
    screen.say(f"Model    {model.label}")
    screen.say(f"Flower   {flower or 'not installed'}")


def first(screen: Screen, one: Round) -> None:
    """A prompt, and what a worker brought back."""
    usage = one.answers[0].usage
    screen.title("1. A prompt goes to a worker")
    _labelled(screen, "prompt", one.asks[0].prompt)
    _labelled(screen, "answer", printable(one.answers[0].text))
    tokens = f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} written"
    _labelled(screen, "took", f"{_time(one.seconds)}; {tokens}")


def again(screen: Screen, one: Round, before: Round) -> None:
    """The same prompt, remembered."""
    screen.title("2. The same prompt again")
    answer = one.answers[0]
    if answer.cached:
        faster = (
            f"{_time(one.seconds)} instead of {_time(before.seconds)}: {before.seconds / one.seconds:,.0f} times faster"
        )
        _labelled(screen, "CACHE HIT", f"{faster}, no worker, no tokens")
    else:
        _labelled(screen, "no hit", f"the answer was not complete: finish_reason is {answer.finish_reason!r}")
    _labelled(screen, "answer", printable(answer.text))


def many(screen: Screen, all_at_once: Round) -> None:
    """Each prompt in a line."""
    screen.title(f"3. {len(all_at_once.asks)} prompts at once")
    for ask, answer in zip(all_at_once.asks, all_at_once.answers, strict=True):
        text = " ".join(printable(answer.text).split())
        # A summary speaks for itself.
        asked = "" if ask.kind == "summarise" else f"{textwrap.shorten(ask.about, 40, placeholder='...')} -> "
        screen.line(Text.assemble((f"{ask.kind:<11}", "dim"), asked, text))


def total(screen: Screen, rounds: Sequence[Round], model: Model, flower: str | None) -> None:
    """The table, or all of it for machines."""
    lines = [*rounds, together("all", rounds)]
    answers = [
        {"prompt": ask.prompt, "answer": answer.text, "cached": answer.cached}
        for one in rounds
        for ask, answer in zip(one.asks, one.answers, strict=True)
    ]
    numbers = [line.numbers() for line in lines]
    screen.document({"model": model.name, "flower_url": flower, "rounds": numbers, "answers": answers})
    screen.title("4. What it took")
    screen.say(_table(lines))
    screen.say()
    screen.say(f"Flower   {flower or 'not installed'}")


def _table(lines: Sequence[Round]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for name in ("prompts", "calls", "hits", "tokens", "tokens/s", "seconds"):
        table.add_column(name, justify="right")
    for line in lines:
        counts = (len(line.answers), line.calls, line.hits, line.tokens)
        rate = f"{line.tokens_per_s:.0f}" if line.calls else "-"
        table.add_row(line.name, *map(str, counts), rate, f"{line.seconds:.3f}")
    return table


def _labelled(screen: Screen, label: str, text: str) -> None:
    """A paragraph with its label in the margin."""
    margin = " " * _MARGIN
    lines = textwrap.fill(text, screen.width, initial_indent=margin, subsequent_indent=margin)[_MARGIN:]
    screen.say(Text.assemble((f"{label:<{_MARGIN}}", "bold green" if label.isupper() else "dim"), lines))


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
