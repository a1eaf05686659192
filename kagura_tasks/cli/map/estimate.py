"""What a map will cost. A child process counts: LiteLLM, which knows tokens and prices, costs seconds and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, Any, Final, cast

from kagura_tasks.errors import ConfigurationError
from kagura_tasks.groups import MapItem
from kagura_tasks.schemas import CompletionRequest

#: What the price of a request depends on.
_COUNTED: Final = {"model", "messages", "params"}

#: A model's estimate: see kagura_tasks.providers.estimate.ModelEstimate.
Estimate = dict[str, Any]


def estimates(items: Iterable[MapItem]) -> list[Estimate]:
    """The estimate for each model. Where LiteLLM is not installed, only the calls are counted."""
    if find_spec("litellm") is None:
        return _uncounted(items)
    command = [sys.executable, "-m", f"{__package__}.ask_prices"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            told = _ask(cast("IO[bytes]", child.stdin), cast("IO[bytes]", child.stdout), items)
        except BaseException:
            child.kill()
            raise
    try:
        return cast("list[Estimate]", json.loads(told))
    except ValueError:
        raise ConfigurationError("LiteLLM could not be asked for prices: reinstall litellm") from None


def _ask(questions: IO[bytes], answer: IO[bytes], items: Iterable[MapItem]) -> bytes:
    """What the child says when it has heard all; nothing where it has died."""
    with suppress(BrokenPipeError):
        for request in _requests(items):
            questions.write(request.model_dump_json(include=_COUNTED).encode() + b"\n")
    with suppress(BrokenPipeError):
        questions.close()
    return answer.read()


def total(found: list[Estimate]) -> Estimate:
    """All models together; None is not known."""
    sums: Estimate = {"model": "all"}
    for name in ("calls", "prompt_tokens", "low_usd", "high_usd"):
        values = [one[name] for one in found]
        sums[name] = None if None in values else sum(values)
    return sums


def _uncounted(items: Iterable[MapItem]) -> list[Estimate]:
    calls: dict[str, int] = {}
    for request in _requests(items):
        calls[request.model] = calls.get(request.model, 0) + 1
    unknown: Estimate = {"prompt_tokens": None, "low_usd": None, "high_usd": None}
    return [{"model": model, "calls": count, **unknown} for model, count in calls.items()]


def _requests(items: Iterable[MapItem]) -> Iterable[CompletionRequest]:
    return (item.prompt for item in items if isinstance(item.prompt, CompletionRequest))
