"""Who serves which queue, and what waits where nobody does?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from celery import Celery
from kombu.exceptions import ChannelError

from kagura_tasks.app import create_app
from kagura_tasks.cli.checks.check import Check
from kagura_tasks.queues import LLM, all_queues
from kagura_tasks.settings import Settings

#: Seconds for which replies are collected. A worker that is well answers in milliseconds.
_PATIENCE_S: Final = 1.0


def check(settings: Settings) -> Iterator[Check]:
    """Ask all workers for their queues, and count what waits in each of ours."""
    app = create_app(settings)
    replies = app.control.inspect(timeout=_PATIENCE_S).active_queues()
    served = {worker: {str(queue["name"]) for queue in queues} for worker, queues in (replies or {}).items()}
    if not served:
        yield Check("workers", "error", "no worker answers", "start one: kagura-tasks worker")
    for worker, names in sorted(served.items()):
        yield Check("workers", "ok", f"{worker} serves {', '.join(sorted(names))}")
    if served:
        everybody = {name for names in served.values() for name in names}
        yield from _unserved(app, {queue.name for queue in all_queues()} - everybody)


def _unserved(app: Celery, names: set[str]) -> Iterator[Check]:
    with app.connection_for_read() as connection:
        channel = cast(Any, connection).channel()
        for name in sorted(names):
            waiting = _length(channel, name)
            cure = f"start a worker for it: kagura-tasks worker --queues={name}"
            if waiting or name == LLM:
                yield Check("workers", "warning", f"{waiting} tasks wait in {name}, which no worker serves", cure)
            else:
                yield Check("workers", "ok", f"no worker serves {name}, and nothing waits there")


def _length(channel: Any, queue: str) -> int:
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:  # nobody ever used it
        return 0
