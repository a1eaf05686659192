"""Which queues there are, which tasks, and where requests wait."""

from __future__ import annotations

from typing import Final

from kombu import Queue

from kagura_tasks.schemas import Priority

LLM: Final = "llm"
LLM_BATCH: Final = "llm.batch"
ROUTING: Final = "routing"
FILES: Final = "files"

#: The steps that kombu makes a list a queue for. On Redis, 0 is served first.
PRIORITY_STEPS: Final = [int(priority) for priority in Priority]


class TaskName:
    """The tasks' names. Plain strings, no Enum: Celery takes anything with a `.name` for a task object."""

    COMPLETE: Final = "kagura.complete"
    REDUCE: Final = "kagura.reduce"
    MAP_ITEM: Final = "kagura.map_item"
    REDUCE_MAP: Final = "kagura.reduce_map"
    LOAD_FILE: Final = "kagura.load_file"
    ANSWER_FILE: Final = "kagura.answer_file"
    ROUTE: Final = "kagura.route"
    EMBED: Final = "kagura.embed"


def all_queues() -> list[Queue]:
    """Every queue, as kombu declares it."""
    return [Queue(name, routing_key=name) for name in (LLM, LLM_BATCH, ROUTING, FILES)]


def queue_of(priority: Priority) -> str:
    """Where such requests wait: batch work in a queue of its own, so that it is never in front of a person."""
    return LLM_BATCH if priority is Priority.BATCH else LLM
