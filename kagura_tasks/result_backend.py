"""Celery's Redis result backend, in one step a result, closed to workers that lost their task."""

# Celery's type stubs know little of what a subclass of its backend works with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any, Final, cast

from celery import states
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError

from kagura_tasks import delivery_keys, parking
from kagura_tasks.app import result_url
from kagura_tasks.connections import CANNOT_WRITE_NOW
from kagura_tasks.lua import LuaScript
from kagura_tasks.metrics.steps import ADD_UP
from kagura_tasks.metrics.tallies import counted_in
from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.result_writer import ResultWriter, Write, result_writer
from kagura_tasks.settings import RedisUrl

_StockBackend: Any = RedisBackend

STORE: Final = LuaScript.load(__package__ or "", "bury.lua", "store_result.lua").behind(ADD_UP)


class ResultBackend(_StockBackend):
    """Celery's own, but for two things.

    A result is subscribed to when somebody waits for it, not when the task is sent: `AsyncResult.get` subscribes and
    then looks whether the result is there already, so nothing is missed, and a caller that never waits, or waits
    through `LLMResult`, pays no round trip for it.

    A worker whose message was given to another one, because it was frozen or cut off, cannot write a result for it.
    """

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Do nothing: Celery's own would send a SUBSCRIBE."""

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """See Celery. A server that is full may have room in a moment: the answer is paid for."""
        return isinstance(exc, CANNOT_WRITE_NOW) or super().exception_safe_to_retry(exc)

    def _store_result(
        self, task_id: str, result: object, state: str, traceback: object = None, request: Any = None, **_: object
    ) -> object:
        """Celery's own reads the record, decides, and writes it, in three steps of two round trips."""
        meta = self._get_result_meta(result, state, traceback, request)
        meta["task_id"] = task_id
        record = self.encode(meta)
        if len(record) > self._MAX_STR_VALUE_SIZE:
            raise _too_large(state, task_id)
        ttl_s = self.failure_expires if state == states.FAILURE else self.expires
        keys = [_text(self.get_key_for_task(task_id)), delivery_keys.taken_key(tag_of(request) or task_id)]
        with counted_in(request, state) as did:
            stored = Write(STORE, (*keys, delivery_keys.COUNTS), (record, int(ttl_s or 0), did))
            wait = parking.awaiter()
            if wait is None:
                self.ensure(self._run_store, (stored,))
            else:
                wait(self._writer.store(stored))
        return result

    def _get_result_meta(
        self, result: object, state: str, traceback: object, request: Any, *args: object, **options: object
    ) -> dict[str, object]:
        """Celery's own, for the plain case: it looks each of its settings up anew, which takes as long as all else."""
        if args or options or self._is_extended or state not in states.READY_STATES:
            return super()._get_result_meta(result, state, traceback, request, *args, **options)
        meta: dict[str, object] = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": datetime.now(self._timezone).isoformat(),
        }
        if group_id := getattr(request, "group", None):
            meta["group_id"] = group_id
        if parent_id := getattr(request, "parent_id", None):
            meta["parent_id"] = parent_id
        return meta

    @cached_property
    def _is_extended(self) -> bool:
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    @cached_property
    def _timezone(self) -> Any:
        return self.app.timezone

    @property
    def _writer(self) -> ResultWriter:
        """Who writes for all tasks of the running event loop."""
        return result_writer(*self._where)

    @cached_property
    def _where(self) -> tuple[RedisUrl, float]:
        return RedisUrl(result_url(self.app)), float(self.app.conf.redis_socket_timeout or 15.0)

    def _run_store(self, stored: Write) -> None:
        stored.script.run(cast(SyncRedis, self.client), list(stored.keys), list(stored.args))


def _too_large(state: str, task_id: str) -> Exception:
    return cast(Any, BackendStoreError)("value too large for Redis backend", state=state, task_id=task_id)


def tag_of(request: Any) -> str:
    """The delivery tag of the message that this worker runs; "" where there is none."""
    properties = getattr(request, "properties", None)
    tag = cast("dict[str, object]", properties).get("delivery_tag") if isinstance(properties, dict) else None
    return tag if isinstance(tag, str) else ""


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key
