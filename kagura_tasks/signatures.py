"""The messages that ask workers for something. The only file of the application's side that writes a task's name."""

from __future__ import annotations

from celery import Celery
from celery.canvas import Signature

from kagura_tasks.app import REDACTED
from kagura_tasks.maps.names import MapName
from kagura_tasks.queues import TaskName, queue_for, queue_of
from kagura_tasks.schemas import CompletionRequest, Priority


def complete(
    app: Celery, request: CompletionRequest, *, looked_up: bool = False, stream: bool = False
) -> Signature[dict[str, object]]:
    """The message that asks a worker for one completion. Sends nothing by itself.

    Its result is a Completion as JSON. The prompt is in the message, but not in what events and logs show of it.
    `looked_up` says that the cache was asked already, and the miss counted; `stream`, that the text is wanted while it
    is written.
    """
    return app.signature(
        TaskName.COMPLETE,
        args=[request.model_dump(mode="json", exclude_defaults=True)],
        # Workers of an older version do not know the second one.
        kwargs={"looked_up": looked_up, **({"stream": True} if stream else {})},
        queue=queue_for(request),
        priority=int(request.priority),
        argsrepr=REDACTED,
        kwargsrepr=REDACTED,
    )


def map_item(app: Celery, name: MapName, priority: Priority) -> Signature[dict[str, object]]:
    """The message that asks a worker for one item of a map. Which one, its task's id says; its prompt is in the map."""
    return app.signature(
        TaskName.MAP_ITEM,
        args=[name.tenant, name.map_id],
        queue=queue_of(priority),
        priority=int(priority),
        argsrepr=REDACTED,
        kwargsrepr=REDACTED,
    )
