"""What a task has done so far of an exchange of several steps, so that a redelivered one goes on where it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.lua import LuaScript
from kagura_tasks.settings import RedisUrl
from kagura_tasks.worker.job import HandedBack, Job

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds after its last step for which a record is kept: a task that is delivered again, or waits for its next try,
#: comes long before.
_TTL_S: Final = 3_600

#: Seconds between two tries while Redis is away, and how many there are: as long as results are tried.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180

_KEEP: Final = LuaScript.load(__package__ or "", "keep_step.lua")


class Record:
    """The steps of one exchange that are done, by their names."""

    def __init__(self, key: str, steps: dict[str, bytes], store: RedisRecords | None) -> None:
        """Take what was found, and who keeps more of it; None: nobody."""
        self._key = key
        self._steps = steps
        self._store = store

    def found(self, step: str, kind: type[T]) -> T | None:
        """What came of this step; None where it is still to be done, or cannot be read."""
        if step not in self._steps:
            return None
        try:
            return TypeAdapter(kind).validate_json(self._steps[step])
        except ValidationError:
            log.warning("a step of an exchange cannot be read: doing it again")
            return None

    async def keep(self, step: str, value: object) -> None:
        """Keep what came of a step. Where that is not possible, a redelivered task does the step again."""
        if self._store is not None:
            adapter: TypeAdapter[object] = TypeAdapter(type(value))
            await self._store.keep(self._key, step, adapter.dump_json(value))

    async def forget(self) -> None:
        """Forget all steps: whoever tries the task again shall begin anew."""
        if self._store is not None:
            await self._store.forget(self._key)


class Records(Protocol):
    """Where exchanges are recorded."""

    async def open(self, job: Job) -> Record:
        """The record of the job's task. Raises HandedBack where nobody can say what it has done already."""
        ...


class NoRecords:
    """For calls that are made once."""

    async def open(self, job: Job) -> Record:
        """See Records."""
        return Record("", {}, None)


class RedisRecords:
    """Records beside the tasks' results."""

    def __init__(self, url: RedisUrl, timeout_s: float) -> None:
        """Take the address, and the seconds after which an answer is no longer waited for."""
        self._url = url
        self._timeout_s = timeout_s

    async def open(self, job: Job) -> Record:
        """See Records."""
        key = f"kagura:exchange:{job.request.tenant}:{job.task_id}"
        found = await patiently(lambda: async_client(self._url, self._timeout_s).hgetall(key))
        return Record(key, {name.decode("utf-8", "replace"): value for name, value in found.items()}, self)

    async def keep(self, key: str, step: str, value: bytes) -> None:
        """See Record.keep."""
        try:
            await _KEEP.arun(async_client(self._url, self._timeout_s), [key], [step, value, _TTL_S])
        except CANNOT_WRITE_NOW as error:
            log.warning("a step of an exchange cannot be recorded (%s)", type(error).__name__)

    async def forget(self, key: str) -> None:
        """See Record.forget."""
        with suppress(*CANNOT_WRITE_NOW):
            await async_client(self._url, self._timeout_s).delete(key)


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """What comes of a step that has to be made. Raises HandedBack where Redis stays away, or full."""
    for _ in range(_MOST_TRIES):
        try:
            return await step()
        except (*CANNOT_WRITE_NOW, RedisUnreachable):
            await asyncio.sleep(_RETRY_S)
    raise HandedBack
