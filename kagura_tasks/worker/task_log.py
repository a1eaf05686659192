"""One line of JSON for each task: ids, numbers and times, for whatever collects logs. Never a word of a prompt."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO, cast

import structlog

from kagura_tasks.metrics.tally import Tally
from kagura_tasks.quick_json import encoded

#: Celery puts its own log in their place.
_STREAMS: Final = {"stdout": sys.__stdout__, "stderr": sys.__stderr__}

#: Digits behind a second's point: microseconds.
_DIGITS: Final = 6


class LinesOfATurn:
    """A stream to write lines to. On an event loop, those of one turn leave together.

    While one is written, other threads run; and it takes some time until they give way again.
    """

    def __init__(self, stream: TextIO) -> None:
        """Take where the lines go."""
        self._stream = stream
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        """Write it now, or at the end of the running loop's turn."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._stream.write(line)
            return
        if not self._lines:
            loop.call_soon(self._pour)
        self._lines.append(line)

    def flush(self) -> None:
        """Let go of what is written."""
        if not self._lines:
            self._stream.flush()

    def _pour(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


class TaskLog:
    """Writes the lines."""

    def __init__(self, where: str) -> None:
        """Take the setting: "stdout" or "stderr"."""
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")
        log: Any = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, LinesOfATurn(_STREAMS[where] or sys.stdout))),
            processors=[stamp, structlog.processors.JSONRenderer(_line_of)],
            wrapper_class=structlog.BoundLogger,
        )
        self._info = log.bind().info

    def __call__(self, tally: Tally, request: Any) -> None:
        """Write the line of a task that has ended (a Celery `Context`)."""
        self._info("task", **fields_of(tally, request, time.time()))


def _line_of(fields: Mapping[str, object], **_: object) -> str:
    return encoded(fields)


def fields_of(tally: Tally, request: Any, now_s: float) -> Mapping[str, object]:
    """What the line says. Durations are in seconds; what nobody knows is left out."""
    used = [call.usage for call in tally.calls]
    costs = [usage.cost_usd for usage in used if usage.cost_usd is not None]
    fields = {
        "task": tally.task,
        "id": request.id,
        "root_id": getattr(request, "root_id", None),
        "tenant": tally.tenant,
        "model": tally.model,
        "outcome": tally.outcome,
        "cached": tally.is_cached,
        "worker": getattr(request, "hostname", None),
        "queue_wait_s": _rounded(tally.queue_wait_s),
        "duration_s": _rounded(now_s - tally.began_at),
        "calls": len(tally.calls),
        "calls_s": _rounded(sum(call.duration_s for call in tally.calls)),
        "first_chunk_s": _rounded(next((call.first_chunk_s for call in tally.calls if call.first_chunk_s), None)),
        "errors": [call.error for call in tally.calls if call.error] or None,
        "prompt_tokens": sum(usage.prompt_tokens for usage in used),
        "completion_tokens": sum(usage.completion_tokens for usage in used),
        "cached_prompt_tokens": sum(usage.cached_prompt_tokens for usage in used),
        "cost_usd": round(sum(costs), 12) if costs else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)
