"""How long a task waited until a worker began it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from kagura_tasks.dead_letters import ATTEMPT_HEADER
from kagura_tasks.metrics.publishing import SENT_AT_HEADER


def queue_wait_s(request: Any) -> float | None:
    """Seconds for which the task that begins now has waited since it was sent, or due (a Celery `Context`).

    None where nobody knows: for a message that another worker had before, or that was sent by something else. The
    clocks of two machines are compared: where they differ, so does this.
    """
    sent_at_ms = _number(getattr(request, SENT_AT_HEADER, None))
    if sent_at_ms is None or int(getattr(request, ATTEMPT_HEADER, None) or 1) > 1:
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
