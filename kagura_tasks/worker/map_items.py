"""What workers read of maps: a message names the map, and the rest is taken from there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.errors import MapFailed, TaskFailed
from kagura_tasks.files.asking import AskedFile
from kagura_tasks.files.documents import FileRow
from kagura_tasks.lua import LuaScript
from kagura_tasks.maps.names import MapName, index_of
from kagura_tasks.maps.outcomes import answer_in, document_in, labelled_documents
from kagura_tasks.maps.store import MapStore
from kagura_tasks.metrics.steps import ADD_UP
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.schemas import CompletionRequest, Json
from kagura_tasks.settings import Settings
from kagura_tasks.worker.budgets import dearest_usd
from kagura_tasks.worker.job import Delivery, HandedBack, OverBudget, TakenAway

T = TypeVar("T")

_TAKE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "take.lua")
_HAND_ON: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "hand_on.lua").behind(ADD_UP)
_RESERVE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "reserve.lua")

#: Seconds between two tries while Redis is away, or full, and how many there are: as long as results are tried.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180


class Taken(NamedTuple):
    """An item that shall be answered: its request as JSON, and whether its map has a budget."""

    request: dict[str, Any]
    has_budget: bool


async def take(settings: Settings, name: MapName, token: str, task_id: str, *, loads: bool = False) -> Taken:
    """The item whose task this is. `loads`: the task is to load its file, unless that was done.

    Raises:
        TakenAway: Nobody wants it answered: it has an outcome, its map was stopped, or is gone.
        TaskFailed: What is kept of it is no request.
        HandedBack: Redis stays away, or full.
    """
    args: list[Argument] = [index_of(task_id), token, "1" if loads else ""]
    taken = await patiently(lambda: _TAKE.arun(_client(settings), [name.key], args))
    return _read(cast("list[bytes] | None", taken))


async def hand_on(
    settings: Settings, name: MapName, token: str, delivery: Delivery, row: FileRow, asked: AskedFile | None
) -> None:
    """Keep what became of the item's file, and send the message that goes on with what is asked, if anything is.

    With it, what this task did is counted: it has no result. Raises HandedBack where Redis stays away, or full.
    """
    did = ""
    if asked is not None:
        delivery.tally.about(asked.asks[0])
        delivery.tally.outcome = "done"
        did = delivery.tally.document()
    keys = [name.key, taken_key(delivery.delivery_tag or delivery.task_id)]
    document = asked.to_json_text() if asked else ""
    args: list[Argument] = [index_of(delivery.task_id), token, row.to_json_text(), document, did]
    is_kept = await patiently(lambda: _HAND_ON.arun(_client(settings), keys, args))
    delivery.tally.is_counted = bool(is_kept and did)


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """What the step returns, tried again while Redis is away, or full. Raises HandedBack where it stays so."""
    for _ in range(_MOST_TRIES):
        try:
            return await step()
        except CANNOT_WRITE_NOW:
            await asyncio.sleep(_RETRY_S)
    raise HandedBack


async def reserve(settings: Settings, name: MapName, task_id: str, requests: Sequence[CompletionRequest]) -> None:
    """Set aside, of the map's budget, what the item's calls may cost together at most.

    Raises:
        OverBudget: There is no room for it. The item waits, or its map has stopped.
        PriceUnknown: Nobody knows what it may cost.
        HandedBack: Redis is away, or full.
    """
    usd = sum([await dearest_usd(request) for request in requests])
    try:
        if not await _RESERVE.arun(_client(settings), [name.key], [index_of(task_id), usd]):
            raise OverBudget(task_id)
    except CANNOT_WRITE_NOW:
        raise HandedBack from None


def _client(settings: Settings) -> AsyncRedis:
    return async_client(settings.broker, settings.redis_timeout_s)


def _read(taken: list[bytes] | None) -> Taken:
    if taken is None:
        raise TakenAway
    request, has_budget = taken
    try:
        return Taken(cast("dict[str, Any]", json.loads(request)), bool(has_budget))
    except ValueError:
        raise TaskFailed("UnknownItem", "what is kept of it is no request") from None


async def outcomes_of(settings: Settings, name: MapName, *, labelled: bool = False) -> list[Json]:
    """All outcomes, in the order of the items: completions, and envelopes around errors.

    `labelled`: each completion's text with its item's name above it; an item that was passed over is none of them.

    Raises MapFailed where the map was stopped by its failures, and MapExpired where it is gone.
    """
    store = MapStore(settings, name)
    documents: list[Json] = []
    page = await store.ordered_page(0)
    while page.outcomes:
        answers = ((one.custom_id, answer_in(one.outcome)) for one in page.outcomes)
        documents += labelled_documents(answers) if labelled else [document_in(one.outcome) for one in page.outcomes]
        page = await store.ordered_page(page.cursor)
    if page.state == "failed":
        failed = sum("error" in document for document in documents)
        raise MapFailed(name.map_id, failed, page.total)
    return documents
