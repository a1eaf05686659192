"""Where the outcomes of maps' items are kept: in their map, in the very step that sends the next item."""

# Celery's type stubs know little of what a subclass of its backend works with.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import logging
from typing import Any, Final, cast

from celery import Celery, states
from celery.backends.base import Backend

from kagura_tasks import delivery_keys, parking
from kagura_tasks.connections import CANNOT_WRITE_NOW, sync_client
from kagura_tasks.errors import InvalidRequest, TaskCancelled
from kagura_tasks.lua import LuaScript
from kagura_tasks.maps.names import MapName, index_of
from kagura_tasks.maps.outcomes import Outcome, outcome_of_answer, outcome_of_error
from kagura_tasks.metrics.steps import ADD_UP
from kagura_tasks.metrics.tallies import counted_in
from kagura_tasks.redis_types import Argument
from kagura_tasks.result_backend import tag_of
from kagura_tasks.result_writer import Write, result_writer
from kagura_tasks.settings import Settings

log = logging.getLogger(__name__)

_SETTLE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "settle.lua").behind(ADD_UP)

#: Seconds for which an answer of Redis is waited for: a worker is patient, its answer is paid for.
_TIMEOUT_S: Final = 15.0

_StockBackend: Any = Backend


class MapOutcomes(_StockBackend):
    """The result backend of items. Whatever ends an item ends here: an answer, an error, a time limit, a revocation.

    Celery gives each task a backend of its own where the task names one (`Task.backend`).
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        """Take the app, and the settings: maps are on the broker's Redis."""
        super().__init__(app)
        self.always_retry = True
        self.max_retries = 60
        self._settings = settings

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """See Celery. A server that is away, or full, may be well in a moment."""
        return isinstance(exc, CANNOT_WRITE_NOW)

    def store_result(
        self, task_id: str, result: object, state: str, traceback: object = None, request: Any = None, **_: object
    ) -> object:
        """See Celery. States on the way to an outcome are not kept."""
        outcome = _outcome_of(task_id, result, state)
        if outcome is None:
            return result
        with counted_in(request, state) as did:
            try:
                write = _write(task_id, outcome, request, did)
            except (ValueError, InvalidRequest):
                log.exception("task %s asks for an item of no map: its outcome is kept nowhere", task_id)
                return result
            wait = parking.awaiter()
            if wait is None:
                self._ensure_retryable(self._run, write)
            else:
                wait(result_writer(self._settings.broker, _TIMEOUT_S).store(write))
        return result

    def _run(self, write: Write) -> None:
        write.script.run(sync_client(self._settings.broker, _TIMEOUT_S), list(write.keys), list(write.args))


def _map_in(args: object) -> tuple[MapName, str]:
    """The map that an item's arguments name, and its token. Raises ValueError or InvalidRequest for what names none."""
    match args:
        case [str(tenant), str(map_id), str(token), *_]:
            return MapName(tenant, map_id), token
        case _:
            raise ValueError("an item's arguments are its tenant, its map and that one's token")


def _outcome_of(task_id: str, result: object, state: str) -> Outcome | None:
    if state == states.SUCCESS:
        return outcome_of_answer(cast("dict[str, Any]", result))
    if state == states.REVOKED:
        return outcome_of_error(TaskCancelled(task_id))
    return outcome_of_error(result) if state == states.FAILURE and isinstance(result, BaseException) else None


def _write(task_id: str, outcome: Outcome, request: Any, did: str) -> Write:
    name, token = _map_in(list(getattr(request, "args", None) or ()))
    keys = (name.key, delivery_keys.taken_key(tag_of(request) or task_id), delivery_keys.COUNTS)
    cost: Argument = "" if outcome.cost_usd is None else outcome.cost_usd
    used: tuple[Argument, ...] = (outcome.prompt_tokens, outcome.completion_tokens, cost)
    cached = "1" if outcome.cached else ""
    document = json.dumps(outcome.document, ensure_ascii=False, separators=(",", ":"))
    return Write(_SETTLE, keys, (index_of(task_id), outcome.kind, document, cached, *used, token, did))
