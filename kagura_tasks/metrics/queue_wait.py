"""How long a task waited until a worker began it."""

# Celery's type stubs do not know what signals are sent with.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Final

from celery.signals import before_task_publish

#: Header of a message: when it was sent (Unix ms), by the clock of whoever sent it.
SENT_AT_HEADER: Final = "kagura_sent_at_ms"

#: Tasks that do not bear our names are none of our business.
_OURS: Final = "kagura."


@before_task_publish.connect(weak=False)
def _note_when(sender: object = None, headers: dict[str, Any] | None = None, **_: object) -> None:
    """Whoever sends the task, through whichever app."""
    if headers is not None and str(sender).startswith(_OURS):
        headers[SENT_AT_HEADER] = int(time.time() * 1000)


def queue_wait_s(request: Any) -> float | None:
    """Seconds for which the task that begins now has waited since it was sent, or due (a Celery `Context`).

    None where nobody knows: for a message that another worker had before, or that was sent by something else. The
    clocks of two machines are compared: where they differ, so does this.
    """
    sent_at_ms = _number(getattr(request, SENT_AT_HEADER, None))
    if sent_at_ms is None or int(getattr(request, "kagura_attempt", None) or 1) > 1:
        return None
    begins_s = max(sent_at_ms / 1000, _due_s(getattr(request, "eta", None)))
    return max(0.0, time.time() - begins_s)


def _number(told: object) -> float | None:
    """Lua fills a text in."""
    try:
        return float(told) if isinstance(told, int | str) else None
    except ValueError:
        return None


def _due_s(eta: object) -> float:
    """When a task was not to be begun before (Unix s); 0 where it was due at once."""
    try:
        return datetime.fromisoformat(eta).timestamp() if isinstance(eta, str) else 0.0
    except ValueError:
        return 0.0
