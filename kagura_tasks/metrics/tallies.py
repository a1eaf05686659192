"""Where the tally of a delivery is found: with Celery's own request, which result backends and signals are given."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from celery import states

from kagura_tasks.metrics.tally import Outcome, Tally

_TALLY: Final = "kagura_tally"

#: How a delivery ended, by Celery's state of its task.
_OUTCOMES: Final[dict[str, Outcome]] = {
    states.SUCCESS: "done",
    states.FAILURE: "failed",
    states.RETRY: "retried",
    states.REVOKED: "cancelled",
}


def begin(request: Any, tally: Tally) -> None:
    """Keep the tally with the request that it is of (a Celery `Context`)."""
    setattr(request, _TALLY, tally)


def tally_of(request: Any) -> Tally | None:
    """The request's tally; None where nobody began one: it is no task of ours, or another process runs it."""
    found = getattr(request, _TALLY, None)
    return found if isinstance(found, Tally) else None


def cancelled(request: Any) -> None:
    """The request's task was cancelled: Celery is told to ignore it."""
    if tally := tally_of(request):
        tally.outcome = "cancelled"


def ended(request: Any, state: str | None) -> Tally | None:
    """The request's tally, now that its task is over in this state; None where there is none."""
    tally = tally_of(request)
    if tally is not None and state in _OUTCOMES:
        tally.outcome = _OUTCOMES[state]
    return tally


@contextmanager
def counted_in(request: Any, state: str) -> Generator[str]:
    """What the request's task did, for the step that stores this state: the block runs it. "" where that is counted."""
    tally = tally_of(request)
    if tally is None or tally.is_counted or state not in _OUTCOMES:
        yield ""
        return
    tally.outcome = _OUTCOMES[state]
    yield tally.document()
    tally.is_counted = True
