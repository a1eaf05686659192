"""Items of maps, as workers get them: a message names the map, and the request is taken from there."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, cast

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client
from kagura_tasks.lua import LuaScript
from kagura_tasks.maps.names import MapName, index_of
from kagura_tasks.settings import Settings
from kagura_tasks.worker.job import HandedBack, TakenAway

_TAKE: Final = LuaScript.load("kagura_tasks.maps", "advance.lua", "take.lua")

#: Seconds between two tries while Redis is away, or full, and how many there are: as long as results are tried.
_RETRY_S: Final = 0.5
_MOST_TRIES: Final = 180


async def take(settings: Settings, name: MapName, task_id: str) -> dict[str, Any]:
    """The request of the item whose task this is.

    Raises:
        TakenAway: Nobody wants it answered: it has an outcome, its map was stopped, or is gone.
        HandedBack: Redis stays away, or full.
    """
    client = async_client(settings.broker, settings.redis_timeout_s)
    for _ in range(_MOST_TRIES):
        try:
            taken = cast(bytes, await _TAKE.arun(client, [name.key], [index_of(task_id)]))
        except CANNOT_WRITE_NOW:
            await asyncio.sleep(_RETRY_S)
            continue
        if not taken:
            raise TakenAway
        return json.loads(taken)
    raise HandedBack
