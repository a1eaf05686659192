"""What messages for our tasks carry, whoever sends them, through whichever app: when, and in which trace."""

# Celery's type stubs do not know what signals are sent with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import sys
import time
from typing import Any, Final

from celery import current_task
from celery.signals import before_task_publish

#: Header of a message: when it was sent (Unix ms), by the clock of whoever sent it.
SENT_AT_HEADER: Final = "kagura_sent_at_ms"

#: Headers that name the span in which it was sent (W3C).
TRACE_HEADERS: Final = ("traceparent", "tracestate")

#: Tasks that do not bear our names are none of our business.
_OURS: Final = "kagura."


@before_task_publish.connect(weak=False)
def stamp(sender: object = None, headers: dict[str, Any] | None = None, **_: object) -> None:
    """Note when a message is sent, and in which trace: the sender's own, or that of the task which sends it."""
    if headers is None or not str(sender).startswith(_OURS):
        return
    headers[SENT_AT_HEADER] = int(time.time() * 1000)
    if not any(name in headers for name in TRACE_HEADERS):
        headers.update(_of_the_running_task())
    # Importing it takes its time, and whoever traces has done so.
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject

        inject(headers)


def _of_the_running_task() -> dict[str, str]:
    request = current_task.request if current_task else None
    found = {name: getattr(request, name, None) for name in TRACE_HEADERS}
    return {name: value for name, value in found.items() if isinstance(value, str)}
