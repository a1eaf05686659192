"""A map in Redis, from the side of whoever asks for it: opened, filled, started, read, stopped and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, cast
from uuid import uuid4

from kagura_tasks import task_store
from kagura_tasks.connections import async_client
from kagura_tasks.errors import MapExpired
from kagura_tasks.lua import LuaScript
from kagura_tasks.maps.messages import ListedMessage
from kagura_tasks.maps.names import MapName
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.settings import Settings

_HERE: Final = __package__ or ""

_BEGIN: Final = LuaScript.load(_HERE, "begin.lua")
_DROP: Final = LuaScript.load(_HERE, "drop.lua")
_ADD: Final = LuaScript.load(_HERE, "add.lua")
_LEAVE_OUT: Final = LuaScript.load(_HERE, "leave_out.lua")
_START: Final = LuaScript.load(_HERE, "advance.lua", "start.lua")
_STOP: Final = LuaScript.load(_HERE, "advance.lua", "stop.lua")
_RESUME: Final = LuaScript.load(_HERE, "advance.lua", "resume.lua")
_PAGE: Final = LuaScript.load(_HERE, "page.lua")
_ORDERED: Final = LuaScript.load(_HERE, "ordered.lua")
_PROGRESS: Final = LuaScript.load(_HERE, "progress.lua")

#: Seconds for which a map is kept whose items are still being added, after the latest.
_UPLOAD_TTL_S: Final = 3600

#: Outcomes in one page, and bytes of them after which it is full.
_PAGE_ITEMS: Final = 200
_PAGE_BYTES: Final = 1_000_000


class StoredItem(NamedTuple):
    """An item as it is kept: its request as JSON, and the caller's name for it, or ""."""

    request: str
    custom_id: str


class StoredOutcome(NamedTuple):
    """How an item ended: its place in the order read, its number, what `answer_in` reads, and its name or ""."""

    cursor: int
    number: int
    outcome: bytes
    custom_id: str


class Page(NamedTuple):
    """Some outcomes, and how the map stood when they were read.

    Attributes:
        state: running, paused, cancelled, failed or done.
        total: Items of the map.
        in_flight: Those with workers or in queues.
        cursor: The place behind which the next page begins.
        outcomes: The outcomes.
    """

    state: str
    total: int
    in_flight: int
    cursor: int
    outcomes: list[StoredOutcome]


@dataclass(frozen=True)
class MapTerms:
    """How a map is worked on.

    Attributes:
        total: Items.
        window: Items in flight at a time.
        max_failed: More failures than these stop the map; -1: none do.
        budget_usd: What its calls may cost together; None: there is no limit.
        item: The message of any item.
        loaded: Of a map over files, the message of any item whose file was loaded.
        work: What is asked of each file, as JSON.
        then: The message of the task that is sent when all have ended; None: there is none.
        ttl_s: Seconds for which the map is kept after its last change.
        about: What the caller wants to find again with the map.
    """

    total: int
    window: int
    max_failed: int
    budget_usd: float | None
    item: ListedMessage
    then: ListedMessage | None
    ttl_s: int
    about: dict[str, str]
    loaded: ListedMessage | None = None
    work: str = ""

    def fields(self) -> list[Argument]:
        """The map's fields and their values in turn."""
        budget: tuple[Argument, ...] = () if self.budget_usd is None else ("budget_usd", self.budget_usd)
        then = ("then_list", self.then.list_key, "then_message", self.then.text) if self.then else ()
        files = ("loaded_list", self.loaded.list_key, "loaded_message", self.loaded.text) if self.loaded else ()
        return [
            *("total", self.total, "window", self.window, "max_failed", self.max_failed, "next", 0),
            *("list", self.item.list_key, "message", self.item.text, *then, *budget),
            *("ttl_s", self.ttl_s, "about", json.dumps(self.about), *files, "work", self.work),
        ]


class MapChanges(NamedTuple):
    """What is different from now on, where a map is resumed.

    Attributes:
        retry_failed: What failed is tried again.
        window: Items in flight at a time; None: as before.
        budget_usd: What all calls may cost together, those before included; None: as before.
    """

    retry_failed: bool = False
    window: int | None = None
    budget_usd: float | None = None


async def cancelled_among(settings: Settings, names: Iterable[MapName]) -> set[MapName]:
    """Those of the maps that were cancelled. Raises redis-py's errors where Redis is away."""
    asked = list(names)
    async with async_client(settings.broker, settings.redis_timeout_s).pipeline(transaction=False) as pipeline:
        for name in asked:
            pipeline.hmget(name.key, ["state"])
        states = await pipeline.execute() if asked else []
    return {name for name, state in zip(asked, states, strict=True) if state == [b"cancelled"]}


class MapStore:
    """One map. Every method raises redis-py's errors where Redis is away.

    Attributes:
        name: Its name.
        token: What tells a map that is begun here from all others that have, or had, its name.
    """

    def __init__(self, settings: Settings, name: MapName) -> None:
        """Take where the broker is, and which map this is. Connects to nothing yet."""
        self._settings = settings
        self.name = name
        self.token = uuid4().hex

    async def begin(self) -> str:
        """Open the map for its items; the state that it had, "" where it is new (again)."""
        return await self._state(_BEGIN, [self.token, _UPLOAD_TTL_S])

    async def add(self, first_index: int, items: Sequence[StoredItem]) -> bool:
        """Add items behind those before; False where it is shut out: begun anew, or cancelled. At most 500."""
        parts = [part for item in items for part in item]
        return bool(await self._run(_ADD, [self.token, _UPLOAD_TTL_S, first_index, *parts]))

    async def leave_out(self, told: Sequence[str]) -> bool:
        """Add what was found beside the items; False where somebody else has begun anew. At most 500."""
        return bool(await self._run(_LEAVE_OUT, [self.token, _UPLOAD_TTL_S, *told]))

    async def start(self, terms: MapTerms) -> bool:
        """Send the first items; False where it is shut out, as in `add`."""
        return bool(await self._run(_START, [self.token, *terms.fields()]))

    async def drop(self) -> None:
        """Forget the items that were added, unless somebody else has begun anew, or the map was started."""
        _ = await self._run(_DROP, [self.token])

    async def page(self, cursor: int) -> Page:
        """Outcomes in order of completion, behind those that were read. Raises MapExpired."""
        return self._read(await self._run(_PAGE, [cursor, _PAGE_ITEMS, _PAGE_BYTES]))

    async def ordered_page(self, first_index: int) -> Page:
        """Outcomes in the order of the items, up to the first that is missing. Raises MapExpired."""
        return self._read(await self._run(_ORDERED, [first_index, _PAGE_ITEMS, _PAGE_BYTES]))

    async def fields(self) -> tuple[dict[str, str], int, float]:
        """All fields of the map, how many items are in flight, and how many end a second. Raises MapExpired."""
        found = cast("list[Any]", await self._run(_PROGRESS, []))
        if not found:
            raise MapExpired(self.name.map_id)
        flat, in_flight, ends, since_ms = found
        texts = [one.decode() for one in flat]
        rate = (ends - 1) * 1000 / max(since_ms, 1) if ends > 1 else 0.0
        return dict(zip(texts[::2], texts[1::2], strict=True)), in_flight, rate

    async def rows(self, indexes: Sequence[int]) -> list[bytes | None]:
        """What became of these items' files, where they were looked at."""
        return await self._client.hmget(f"{self.name.key}:rows", [str(index) for index in indexes]) if indexes else []

    async def left_out(self, first: int) -> list[bytes]:
        """What was found beside the items, from this place on: a page of it."""
        return await self._client.lrange(f"{self.name.key}:left_out", first, first + _PAGE_ITEMS - 1)

    async def work(self) -> bytes:
        """What is asked of each file, as JSON. Raises MapExpired."""
        work = await self._client.hget(self.name.key, "work")
        if work is None:
            raise MapExpired(self.name.map_id)
        return work

    async def stop(self, state: Literal["paused", "cancelled"]) -> str:
        """Send no further item; `cancelled`: end the calls that run, or the upload, too.

        Returns the state that it had, "" where there is no such map.
        """
        before, *flying = cast("list[bytes]", await self._run(_STOP, [state]))
        if state == "cancelled":
            await self._end_calls(self.name.task_id(int(index)) for index in flying)
        return before.decode()

    async def resume(self, changes: MapChanges, lost: Iterable[int], *, reduction_lost: bool = False) -> str:
        """Go on; the state then, "" where there is no such map.

        Args:
            changes: What is different from now on.
            lost: Items that were sent, and whose messages are gone.
            reduction_lost: The task that reduces the answers was sent, and is gone without a result.
        """
        again, reduction = ("1" if flag else "" for flag in (changes.retry_failed, reduction_lost))
        return await self._state(_RESUME, [again, changes.window or "", changes.budget_usd or "", reduction, *lost])

    async def in_flight(self) -> set[int]:
        """The numbers of the items that were sent, and have not ended."""
        found = await self._client.smembers(f"{self.name.key}:flying")
        return {int(index) for index in found}

    async def has_sent_reduction(self) -> bool:
        """The task that reduces the answers was sent."""
        return await self._client.hget(self.name.key, "then_sent") is not None

    async def _end_calls(self, task_ids: Iterable[str]) -> None:
        client = async_client(self._settings.results, self._settings.redis_timeout_s)
        async with client.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.publish(task_store.CANCELLED, task_id)
            await pipeline.execute()

    def _read(self, answer: object) -> Page:
        state, *rest = cast("list[Any]", answer)
        if not rest:
            raise MapExpired(self.name.map_id)
        total, in_flight, cursor, *found = rest
        outcomes = [StoredOutcome(at, number, outcome, name.decode()) for at, number, outcome, name in found]
        return Page(state.decode(), total, in_flight, cursor, outcomes)

    async def _state(self, script: LuaScript, args: list[Argument]) -> str:
        return cast(bytes, await self._run(script, args)).decode()

    async def _run(self, script: LuaScript, args: list[Argument]) -> object:
        return await script.arun(self._client, [self.name.key], args)

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._settings.broker, self._settings.redis_timeout_s)
