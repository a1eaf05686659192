"""Maps that workers work on: their items are in Redis, which sends the next one when one has ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final

from celery import Celery
from redis.exceptions import OutOfMemoryError, RedisError

from kagura_tasks import signatures
from kagura_tasks.connections import REDIS_AWAY, redis_errors
from kagura_tasks.errors import InvalidRequest, MapExpired, MapFailed, RedisUnreachable, ResultTimeout, TaskCancelled
from kagura_tasks.groups import LLMGroupResult, MapOutcome, MapProgress
from kagura_tasks.loops import outcome
from kagura_tasks.mapping import MapOrder, PlannedItem
from kagura_tasks.maps.messages import item_message
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.outcomes import answer_in
from kagura_tasks.maps.store import MapStore, MapTerms, Page, StoredItem, StoredOutcome
from kagura_tasks.memory_loss import ids_of_all_tasks
from kagura_tasks.settings import Settings
from kagura_tasks.sources import WAITING
from kagura_tasks.subscriptions import Listener, subscriptions

#: Items, and characters of their requests, that are added in one step.
_MOST_AT_ONCE: Final = 500
_MOST_CHARS: Final = 1_000_000

#: Seconds after which a reader looks for itself, whatever it was told: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0

#: Seconds before the next look at a Redis that is away.
_RECONNECT_S: Final = 0.2


class QueueMaps:
    """Starts maps, and finds them again."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Take the settings, and the Celery app whose workers work on maps."""
        self._settings = settings
        self._app = app

    def start(self, order: MapOrder, items: Iterable[PlannedItem]) -> LLMGroupResult:
        """See Maps."""
        name = MapName(order.tenant, order.map_id)
        store = MapStore(self._settings, name)
        with self._errors():
            if WAITING.run(store.begin()):
                return self.resume(order.map_id, order.tenant, retry_failed=False, window=order.window)
            try:
                total = _upload(store, items)
                is_started = WAITING.run(store.start(self._terms(name, order, total)))
            except BaseException:
                with suppress(RedisError):
                    WAITING.run(store.drop())
                raise
        if not is_started:
            raise _begun_anew(name)
        return self._handle(name)

    def group(self, map_id: str, tenant: str) -> LLMGroupResult:
        """See Maps."""
        return self._handle(MapName(tenant, map_id))

    def resume(self, map_id: str, tenant: str, *, retry_failed: bool, window: int | None) -> LLMGroupResult:
        """See Maps."""
        name = MapName(tenant, map_id)
        with self._errors():
            state = WAITING.run(self._resume(MapStore(self._settings, name), retry_failed, window))
        if not state:
            raise MapExpired(map_id)
        if state == "uploading":
            raise InvalidRequest(f"map {map_id} was never started, because its items were not all added: send it again")
        return self._handle(name)

    async def _resume(self, store: MapStore, retry_failed: bool, window: int | None) -> str:
        """Items whose messages are gone (a queue was purged, say) are sent again."""
        flying = await store.in_flight()
        known = await ids_of_all_tasks(self._settings) if flying else frozenset[str]()
        lost = [index for index in flying if store.name.task_id(index) not in known]
        return await store.resume(retry_failed=retry_failed, window=window, lost=lost)

    def _terms(self, name: MapName, order: MapOrder, total: int) -> MapTerms:
        return MapTerms(
            total=total,
            window=order.window or self._settings.map_max_in_flight,
            max_failed=order.max_failed(total),
            item=item_message(self._app, signatures.map_item(self._app, name, order.priority)),
            then=None,
            ttl_s=self._settings.map_ttl_s,
            about=order.about,
        )

    def _handle(self, name: MapName) -> LLMGroupResult:
        return LLMGroupResult(name.map_id, QueuedMap(self._settings, name))

    @contextmanager
    def _errors(self) -> Generator[None]:
        with redis_errors(self._settings.broker):
            try:
                yield
            except OutOfMemoryError:
                raise RedisUnreachable(self._settings.broker.masked(), "its memory is full") from None


class QueuedMap:
    """The outcomes of a map, as they are recorded in Redis. See GroupSource."""

    def __init__(self, settings: Settings, name: MapName) -> None:
        """Take where the map is."""
        self._settings = settings
        self._store = MapStore(settings, name)
        self._name = name

    def outcomes(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """See GroupSource."""
        return self._follow(self._store.page, after)

    def ordered(self, after: int) -> AsyncGenerator[list[MapOutcome]]:
        """See GroupSource."""
        return self._follow(self._store.ordered_page, after)

    async def total(self) -> int:
        """See GroupSource."""
        return (await self.progress()).total

    async def progress(self) -> MapProgress:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            fields, in_flight, rate_per_s = await self._store.fields()
        names = ("total", "done", "failed", "cached", "prompt_tokens", "completion_tokens")
        counts = {name: int(fields.get(name, 0)) for name in names}
        cost_usd = float(fields.get("cost_usd", 0))
        state = fields["state"]
        return MapProgress(state, **counts, in_flight=in_flight, cost_usd=cost_usd, rate_per_s=rate_per_s)

    async def about(self) -> dict[str, str]:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            fields, _, _ = await self._store.fields()
        return json.loads(fields.get("about", "{}"))

    async def pause(self) -> None:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            await self._store.stop("paused")

    async def cancel(self) -> None:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            await self._store.stop("cancelled")

    async def _follow(self, read: Callable[[int], Awaitable[Page]], cursor: int) -> AsyncGenerator[list[MapOutcome]]:
        """Subscribe, read what is there, and then read whenever an end is announced."""
        hub = subscriptions(self._settings.broker, self._settings.redis_timeout_s)
        async with hub.listen(self._name.key) as listener:
            heard_at = time.monotonic()
            with suppress(TimeoutError):
                await listener.confirmed(self._settings.redis_timeout_s)
            while True:
                page = await self._read(read, cursor)
                if page is not None and page.cursor > cursor:
                    cursor = page.cursor
                    if page.outcomes:
                        yield [_outcome(stored) for stored in page.outcomes]
                    heard_at = time.monotonic()
                elif page is not None and await self._is_over(page):
                    return
                elif await self._hears(listener):
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > self._settings.wait_timeout_s:
                    await self._give_up()

    async def _read(self, read: Callable[[int], Awaitable[Page]], cursor: int) -> Page | None:
        """A page; None where Redis is away for now."""
        try:
            return await read(cursor)
        except REDIS_AWAY:
            await asyncio.sleep(_RECONNECT_S)
            return None

    async def _is_over(self, page: Page) -> bool:
        """No outcome will follow those that were read. Raises what ended the map early."""
        if page.state == "cancelled":
            raise TaskCancelled(self._name.map_id)
        if page.state == "failed":
            progress = await self.progress()
            raise MapFailed(self._name.map_id, progress.failed, progress.total)
        return page.state == "done"

    async def _hears(self, listener: Listener) -> bool:
        """Something ended meanwhile."""
        try:
            batch = await listener.next_batch(min(_LOOK_AGAIN_S, self._settings.wait_timeout_s))
        except TimeoutError:
            return False
        return any(heard is not None for heard in batch)

    async def _give_up(self) -> None:
        """Say why nothing was heard for so long: Redis is away, or nothing ends."""
        with redis_errors(self._settings.broker):
            await self._store.in_flight()
        raise ResultTimeout(self._name.map_id, self._settings.wait_timeout_s)


def _outcome(stored: StoredOutcome) -> MapOutcome:
    return MapOutcome.of(stored.number, stored.custom_id, answer_in(stored.outcome), stored.cursor)


def _upload(store: MapStore, items: Iterable[PlannedItem]) -> int:
    """Add all items; how many there are. The next ones are made while the last ones are on their way."""
    total = 0
    sending: Future[bool] | None = None
    for some in _portions(items):
        if sending is not None and not outcome(sending):
            raise _begun_anew(store.name)
        sending = WAITING.submit(store.add(total, some))
        total += len(some)
    if sending is not None and not outcome(sending):
        raise _begun_anew(store.name)
    return total


def _portions(items: Iterable[PlannedItem]) -> Iterator[list[StoredItem]]:
    portion: list[StoredItem] = []
    chars = 0
    for request, custom_id in items:
        text = request.model_dump_json(exclude_defaults=True)
        portion.append(StoredItem(text, custom_id))
        chars += len(text)
        if len(portion) == _MOST_AT_ONCE or chars > _MOST_CHARS:
            yield portion
            portion, chars = [], 0
    if portion:
        yield portion


def _begun_anew(name: MapName) -> InvalidRequest:
    return InvalidRequest(f"map {name.map_id} was begun anew by somebody else while its items were added")
