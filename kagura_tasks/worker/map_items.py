"""What workers read of maps: a message names the map, and the rest is taken from there."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple, cast

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.errors import MapFailed, TaskFailed
from kagura_tasks.lua import LuaScript
from kagura_tasks.maps.names import MapName, index_of
from kagura_tasks.maps.outcomes import document_in
from kagura_tasks.maps.store import MapStore
from kagura_tasks.schemas import CompletionRequest, Json
from kagura_tasks.settings import Settings
from kagura_tasks.worker.budgets import dearest_usd
from kagura_tasks.worker.job import HandedBack, OverBudget, TakenAway

_TAKE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "take.lua")
_RESERVE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "reserve.lua")

#: Seconds between two tries while Redis is away, or full, and how many there are: as long as results are tried.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180


class Taken(NamedTuple):
    """An item that shall be answered: its request as JSON, and whether its map has a budget."""

    request: dict[str, Any]
    has_budget: bool


async def take(settings: Settings, name: MapName, token: str, task_id: str) -> Taken:
    """The item whose task this is.

    Raises:
        TakenAway: Nobody wants it answered: it has an outcome, its map was stopped, or is gone.
        TaskFailed: What is kept of it is no request.
        HandedBack: Redis stays away, or full.
    """
    client = async_client(settings.broker, settings.redis_timeout_s)
    for _ in range(_MOST_TRIES):
        try:
            taken = cast("list[bytes] | None", await _TAKE.arun(client, [name.key], [index_of(task_id), token]))
        except CANNOT_WRITE_NOW:
            await asyncio.sleep(_RETRY_S)
            continue
        return _read(taken)
    raise HandedBack


async def reserve(settings: Settings, name: MapName, task_id: str, request: CompletionRequest) -> None:
    """Set aside, of the map's budget, what the item's call may cost at most.

    Raises:
        OverBudget: There is no room for it. The item waits, or its map has stopped.
        PriceUnknown: Nobody knows what it may cost.
        HandedBack: Redis is away, or full.
    """
    usd = await dearest_usd(request)
    client = async_client(settings.broker, settings.redis_timeout_s)
    try:
        if not await _RESERVE.arun(client, [name.key], [index_of(task_id), usd]):
            raise OverBudget(task_id)
    except CANNOT_WRITE_NOW:
        raise HandedBack from None


def _read(taken: list[bytes] | None) -> Taken:
    if taken is None:
        raise TakenAway
    request, has_budget = taken
    try:
        return Taken(cast("dict[str, Any]", json.loads(request)), bool(has_budget))
    except ValueError:
        raise TaskFailed("UnknownItem", "what is kept of it is no request") from None


async def outcomes_of(settings: Settings, name: MapName) -> list[Json]:
    """All outcomes, in the order of the items: completions, and envelopes around errors.

    Raises MapFailed where the map was stopped by its failures, and MapExpired where it is gone.
    """
    store = MapStore(settings, name)
    documents: list[Json] = []
    page = await store.ordered_page(0)
    while page.outcomes:
        documents += [document_in(stored.outcome) for stored in page.outcomes]
        page = await store.ordered_page(page.cursor)
    if page.state == "failed":
        failed = sum("error" in document for document in documents)
        raise MapFailed(name.map_id, failed, page.total)
    return documents
