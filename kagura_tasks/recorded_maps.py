"""Maps as they are recorded in Redis: read, waited for, stopped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Final

from kagura_tasks.connections import REDIS_AWAY, redis_errors
from kagura_tasks.errors import InvalidRequest, ResultTimeout, TaskCancelled
from kagura_tasks.files.documents import FileRow
from kagura_tasks.groups import MapOutcome, MapProgress, stopped
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.outcomes import answer_in
from kagura_tasks.maps.store import MapStore, Page, StoredOutcome
from kagura_tasks.queued_answers import QueuedAnswer
from kagura_tasks.schemas import Completion
from kagura_tasks.settings import Settings
from kagura_tasks.sources import WAITING
from kagura_tasks.streaming.events import Event
from kagura_tasks.subscriptions import Listener, subscriptions

#: Seconds after which a reader looks for itself, whatever it was told: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0

#: Seconds before the next look at a Redis that is away.
_RECONNECT_S: Final = 0.2

#: What is announced of a map as a whole: it was stopped or resumed, or is over. All else is an item's number.
_OF_THE_WHOLE: Final = {b"", b"over"}


class RecordedMap:
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
        budget_usd = float(fields["budget_usd"]) if "budget_usd" in fields else None
        return MapProgress(
            state, **counts, in_flight=in_flight, cost_usd=cost_usd, budget_usd=budget_usd, rate_per_s=rate_per_s
        )

    async def about(self) -> dict[str, str]:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            fields, _, _ = await self._store.fields()
        return json.loads(fields.get("about", "{}"))

    async def rows(self, indexes: Sequence[int]) -> list[FileRow | None]:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            rows = await self._store.rows(indexes)
        return [FileRow.model_validate_json(row) if row else None for row in rows]

    async def left_out(self) -> list[tuple[int, FileRow]]:
        """See GroupSource."""
        found: list[tuple[int, FileRow]] = []
        with redis_errors(self._settings.broker):
            while page := await self._store.left_out(len(found)):
                told = [json.loads(one) for one in page]
                found += [(one["before"], FileRow.model_validate(one["row"])) for one in told]
        return found

    async def pause(self) -> None:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            before = await self._store.stop("paused")
        if before == "uploading":
            raise InvalidRequest(
                f"map {self._name.map_id} cannot be paused while its items are still being added: pause it once it is "
                "started, or cancel it, which ends the upload"
            )

    async def cancel(self) -> None:
        """See GroupSource."""
        with redis_errors(self._settings.broker):
            await self._store.stop("cancelled")

    async def ended(self) -> None:
        """Return once all items have ended. Raises what ended the map before, MapExpired and ResultTimeout."""
        with self._news() as news:
            await news.confirmed(self._settings.redis_timeout_s)
            while not await self._has_ended():
                while (heard := await news.next()) and not heard & _OF_THE_WHOLE:
                    pass

    async def has_sent_reduction(self) -> bool:
        """The task that reduces the answers was sent."""
        with redis_errors(self._settings.broker):
            return await self._store.has_sent_reduction()

    async def _follow(self, read: Callable[[int], Awaitable[Page]], cursor: int) -> AsyncGenerator[list[MapOutcome]]:
        """Subscribe, read what is there, and then read whenever an end is announced."""
        with self._news() as news:
            await news.confirmed(self._settings.redis_timeout_s)
            while True:
                page = await self._read(read, cursor)
                if page is not None and page.cursor > cursor:
                    cursor = page.cursor
                    if page.outcomes:
                        yield [_outcome(stored) for stored in page.outcomes]
                    news.note()
                elif page is not None and await self._is_over(page.state):
                    return
                else:
                    _ = await news.next()

    @contextmanager
    def _news(self) -> Generator[_News]:
        hub = subscriptions(self._settings.broker, self._settings.redis_timeout_s)
        with hub.listen(self._name.key) as listener:
            yield _News(listener, self._settings.wait_timeout_s, self._give_up)

    async def _read(self, read: Callable[[int], Awaitable[Page]], cursor: int) -> Page | None:
        """A page; None where Redis is away for now."""
        try:
            return await read(cursor)
        except REDIS_AWAY:
            await asyncio.sleep(_RECONNECT_S)
            return None

    async def _has_ended(self) -> bool:
        """Nothing is left to do; False where Redis is away for now. Raises what ended the map early."""
        try:
            fields, _, _ = await self._store.fields()
        except REDIS_AWAY:
            await asyncio.sleep(_RECONNECT_S)
            return False
        return await self._is_over(fields["state"])

    async def _is_over(self, state: str) -> bool:
        """All items of a map in this state have ended. Raises what ended it early."""
        if state == "cancelled":
            raise TaskCancelled(self._name.map_id)
        if state in ("failed", "over_budget"):
            raise stopped(self._name.map_id, await self.progress())
        return state == "done"

    async def _give_up(self) -> None:
        """Say why nothing was heard for so long: Redis is away, or nothing ends."""
        with redis_errors(self._settings.broker):
            await self._store.in_flight()
        raise ResultTimeout(self._name.map_id, self._settings.wait_timeout_s)


class _News:
    """What is announced of a map, for as long as something is."""

    def __init__(self, listener: Listener, patience_s: float, give_up: Callable[[], Awaitable[None]]) -> None:
        """Take who listens, for how long it may be silent, and what raises then."""
        self._listener = listener
        self._patience_s = patience_s
        self._give_up = give_up
        self.note()

    async def confirmed(self, timeout_s: float) -> None:
        """Return when nothing will be missed any more, or after so long: the next look finds out that Redis is away."""
        with suppress(TimeoutError):
            await self._listener.confirmed(timeout_s)

    def note(self) -> None:
        """Something was heard, or read."""
        self._heard_at = time.monotonic()

    async def next(self) -> set[bytes]:
        """What was announced meanwhile; nothing where it is time to look for oneself."""
        try:
            batch = await self._listener.next_batch(min(_LOOK_AGAIN_S, self._patience_s))
        except TimeoutError:
            batch = [None]
        if None not in batch:
            self.note()
        elif time.monotonic() - self._heard_at > self._patience_s:
            await self._give_up()
        return set() if None in batch else {heard.payload for heard in batch if heard is not None}


class ReducedAnswer:
    """The one answer that a map's are reduced to: first the map, then the task that reduces it. See AnswerSource."""

    def __init__(self, task_id: str, parts: RecordedMap, reduced: QueuedAnswer) -> None:
        """Take the id of the task that reduces it, and both."""
        self._task_id = task_id
        self._parts = parts
        self._reduced = reduced

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. Where nobody says how long, the map may take as long as its items end."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self._parts.ended()
        except TimeoutError as error:
            raise error if isinstance(error, ResultTimeout) else ResultTimeout(self._task_id, timeout_s or 0) from None
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started))
        return await self._reduced.answer(left_s)

    async def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource."""
        await self._parts.ended()
        async with aclosing(self._reduced.batches(after)) as batches:
            async for events in batches:
                yield events

    def status(self) -> str:
        """See AnswerSource."""
        return self._reduced.status()

    def cancel(self) -> None:
        """See AnswerSource. Of a map that goes on later, the reduction is sent: no worker may refuse it then."""
        WAITING.run(self._parts.cancel())
        if WAITING.run(self._parts.has_sent_reduction()):
            self._reduced.cancel()
        else:
            _ = self._reduced.forgo()


def _outcome(stored: StoredOutcome) -> MapOutcome:
    return MapOutcome.of(stored.number, stored.custom_id, answer_in(stored.outcome), stored.cursor)
