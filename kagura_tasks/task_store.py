"""What is known of a task: Celery's own record of its state and result, read and cancelled atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

from celery import states
from pydantic import ValidationError

from kagura_tasks.connections import async_client, sync_client
from kagura_tasks.delivery_keys import EPOCH
from kagura_tasks.errors import KaguraTasksError, TaskCancelled, TaskFailed, rebuild
from kagura_tasks.lua import LuaScript
from kagura_tasks.plans import error_in
from kagura_tasks.schemas import Completion, completion_from_wire
from kagura_tasks.settings import Settings

#: The channel on which the id of each cancelled task is published, for the worker that runs it.
CANCELLED: Final = "kagura:cancelled"

_CANCEL: Final = LuaScript.load(__package__ or "", "cancel.lua")


def record_key(task_id: str) -> str:
    """Celery keeps a task's record under this key, and announces it on the channel of this name."""
    return f"celery-task-meta-{task_id}"


@dataclass(frozen=True)
class TaskRecord:
    """A task's state, and its outcome once there is one."""

    task_id: str
    state: str = states.PENDING
    result: object = None

    @classmethod
    def parse(cls, task_id: str, value: bytes | None) -> TaskRecord:
        """The record in these bytes. None, and bytes that are no record, mean that nothing is known yet."""
        try:
            document = cast(object, json.loads(value)) if value is not None else None
        except ValueError:
            document = None
        if not isinstance(document, dict):
            return cls(task_id)
        fields = cast("dict[str, object]", document)
        return cls(task_id, str(fields.get("status", states.PENDING)), fields.get("result"))

    @property
    def is_finished(self) -> bool:
        """The task has an outcome. (One that was cancelled while it ran may still get an answer.)"""
        return self.state in states.READY_STATES

    def completion(self) -> Completion:
        """The outcome. Raises the error that the task ended with."""
        if self.state == states.SUCCESS:
            return self._completion()
        if self.state == states.REVOKED:
            raise TaskCancelled(self.task_id)
        raise _error_in(self.result)

    def _completion(self) -> Completion:
        if (error := error_in(self.result)) is not None:
            raise error
        try:
            return completion_from_wire(cast("dict[str, object]", self.result))
        except ValidationError:
            raise TaskFailed("UnknownResult", "the task's result is no completion") from None


async def find(settings: Settings, task_id: str) -> TaskRecord:
    """What is known of the task. Raises redis-py's errors where Redis is away."""
    client = async_client(settings.results, settings.redis_timeout_s)
    return TaskRecord.parse(task_id, await client.get(record_key(task_id)))


async def find_all(settings: Settings, task_ids: list[str]) -> list[TaskRecord]:
    """What is known of each task. Raises redis-py's errors where Redis is away."""
    if not task_ids:
        return []
    client = async_client(settings.results, settings.redis_timeout_s)
    values = await client.mget([record_key(task_id) for task_id in task_ids])
    return [TaskRecord.parse(task_id, value) for task_id, value in zip(task_ids, values, strict=True)]


async def find_with_epoch(settings: Settings, task_id: str) -> tuple[TaskRecord, bytes | None]:
    """What is known of the task, and the text by which one knows that the broker lost its memory."""
    if settings.results != settings.broker:
        broker = async_client(settings.broker, settings.redis_timeout_s)
        return await find(settings, task_id), await broker.get(EPOCH)
    client = async_client(settings.results, settings.redis_timeout_s)
    value, epoch = await client.mget([record_key(task_id), EPOCH])
    return TaskRecord.parse(task_id, value), epoch


async def forget(settings: Settings, task_id: str) -> None:
    """Forget whatever is known of the task. Raises redis-py's errors where Redis is away."""
    await async_client(settings.results, settings.redis_timeout_s).delete(record_key(task_id))


def cancel(settings: Settings, task_id: str) -> bool:
    """Record the task as cancelled, unless it has an outcome; whether it was. One atomic step.

    Raises redis-py's errors where Redis is away.
    """
    outcome = {"exc_type": "TaskRevokedError", "exc_message": ["cancelled"], "exc_module": "celery.exceptions"}
    record: dict[str, object] = {
        "task_id": task_id,
        "status": states.REVOKED,
        "result": outcome,
        "traceback": None,
        "children": [],
        "date_done": datetime.now(UTC).isoformat(),
    }
    client = sync_client(settings.results, settings.redis_timeout_s)
    keys = [record_key(task_id), CANCELLED]
    return bool(_CANCEL.run(client, keys, [json.dumps(record), settings.result_ttl_s, task_id]))


def _error_in(result: object) -> KaguraTasksError:
    """The error as Celery records it. A foreign one is named, but its text may hold anything, so it stays behind."""
    fields = cast("dict[str, object]", result) if isinstance(result, dict) else {}
    kind = str(fields.get("exc_type", "an unknown error"))
    if fields.get("exc_module") != KaguraTasksError.__module__:
        return TaskFailed(kind)
    args = fields.get("exc_message")
    return rebuild(kind, cast("list[object]", args) if isinstance(args, list) else [])
