"""One stream, from a reader's side: subscribe, read the log from a number on, then follow live."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar, cast

from celery import states

from kagura_tasks import task_store
from kagura_tasks.connections import REDIS_AWAY, async_client, redis_errors
from kagura_tasks.delivery_keys import SWEEP
from kagura_tasks.errors import KaguraTasksError, ResultTimeout, StreamExpired, TaskCancelled, TaskLost
from kagura_tasks.memory_loss import LossWatch
from kagura_tasks.redis_types import AsyncRedis
from kagura_tasks.schemas import Completion
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.events import (
    Cancelled,
    Done,
    Ending,
    Event,
    Failed,
    Gap,
    Lost,
    Reset,
    Start,
    fields_of_completion,
    fields_of_error,
)
from kagura_tasks.streaming.log import LogPage, StreamName, read_page, written
from kagura_tasks.streaming.replay import events_of
from kagura_tasks.subscriptions import Heard, Listener, subscriptions
from kagura_tasks.task_store import TaskRecord, record_key

log = logging.getLogger(__name__)

#: Seconds after which a reader looks for itself, whatever it was told: the bound on any lost notice.
_LOOK_AGAIN_S: Final = 5.0

#: Seconds before the next look at a Redis that is away.
_RECONNECT_S: Final = 0.2

#: Seconds that the worker of a cancelled task has to say so itself, with what the call had used.
_LAST_WORDS_S: Final = 2.0

#: Heartbeats that may be missing before a reader asks whether any worker is there.
_MISSED_BEATS: Final = 2

Made = TypeVar("Made", Done, Failed, Cancelled, Lost)


class Subscriber:
    """Reads one stream. Each event comes once, in order; what is missing is said with a Gap."""

    def __init__(self, settings: Settings, name: StreamName, after: int = 0, *, is_ours: bool = False) -> None:
        """Take the stream, and the number of the last event that was read.

        `is_ours`: the task was just sent, so that a stream that is not there yet is waited for.
        """
        self._has_warned = False
        self._settings = settings
        self._name = name
        self._cursor = after
        self._attempt = 0
        self._is_ours = is_ours
        self._is_over = self._is_behind = False
        self._doubted = 0
        self._cancelled_at: float | None = None
        self._heard_at = time.monotonic()
        self._away: Exception | None = None

    async def batches(self) -> AsyncGenerator[list[Event]]:
        """The events, as they come; the last one of the last batch is an Ending.

        Raises:
            StreamExpired: There is no such stream, or none any more.
            ResultTimeout: Nothing was heard for `wait_timeout_s`. `batches` may be called again, and goes on.
            RedisUnreachable: Redis was away all that time.
        """
        hub = subscriptions(self._settings.results, self._settings.redis_timeout_s)
        loss = LossWatch(self._settings, self._name.task_id)
        self._heard_at = time.monotonic()
        with hub.listen(self._name.key, record_key(self._name.task_id)) as listener:
            await self._confirmed(listener)
            events = await self._look(loss)
            while True:
                if events:
                    self._heard_at = time.monotonic()
                    yield events
                if self._is_over:
                    return
                events = await (self._look(loss) if self._is_behind else self._next(listener, loss))

    async def _confirmed(self, listener: Listener) -> None:
        """Without a confirmation the first look finds out that Redis is away; the hub goes on trying."""
        try:
            await listener.confirmed(self._settings.redis_timeout_s)
        except TimeoutError:
            return

    async def _next(self, listener: Listener, loss: LossWatch) -> list[Event]:
        self._check_patience()
        wait_s = _LAST_WORDS_S if self._cancelled_at else min(_LOOK_AGAIN_S, self._settings.stream_heartbeat_s)
        try:
            events = self._live(await listener.next_batch(wait_s))
        except TimeoutError:
            events = None
        return await self._look(loss) if events is None else events

    def _check_patience(self) -> None:
        wait_s = self._settings.wait_timeout_s
        if time.monotonic() - self._heard_at <= wait_s:
            return
        with redis_errors(self._settings.results):
            if self._away is not None:
                raise self._away
            raise ResultTimeout(self._name.task_id, wait_s)

    # What is heard live.

    def _live(self, batch: list[Heard | None]) -> list[Event] | None:
        """The events among what was heard; None where the log has to be looked at, which has all of them as well."""
        before = self._cursor, self._attempt
        events: list[Event] = []
        for heard in batch:
            if heard is None or heard.channel != self._name.key:
                return self._put_back(before)
            event = written(heard.payload)
            if event is None:
                self._warn_once()
            elif self._is_next(event):
                events.append(self._taken(event))
            elif event.seq > self._cursor or isinstance(event, Ending):
                self._doubted = event.seq
                return self._put_back(before)
            if self._is_over:
                break
        return events

    def _is_next(self, event: Event) -> bool:
        """It follows the one before. Of what does not, only the log knows whether it is true."""
        is_of_attempt = event.attempt == self._attempt or (
            event.attempt > self._attempt and isinstance(event, Start | Reset)
        )
        return event.seq == self._cursor + 1 and is_of_attempt

    def _put_back(self, before: tuple[int, int]) -> None:
        self._cursor, self._attempt = before

    def _taken(self, event: Event) -> Event:
        self._cursor = max(self._cursor, event.seq)
        self._attempt = event.attempt
        self._is_over = isinstance(event, Ending)
        return event

    def _warn_once(self) -> None:
        """Of payloads on the channel, or entries of the log, that are no events."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("something that is no event is in the stream of task %s: ignored", self._name.task_id)

    # What the log has.

    async def _look(self, loss: LossWatch) -> list[Event]:
        """What there is behind the cursor, a page at most; else, what has become of the task."""
        try:
            page = await self._page()
            self._away, self._is_behind = None, page.is_full
            self._judge(page)
            events = self._logged(page)
            self._is_over = self._is_over or (page.is_ended and self._cursor == page.last_seq)
            return events if events or self._is_over else await self._fate(page, loss)
        except TaskLost:
            return [self._made(Lost)]
        except REDIS_AWAY as error:
            loss.note_away()
            self._away = error
            await asyncio.sleep(_RECONNECT_S)
            return []

    def _judge(self, page: LogPage) -> None:
        """What is published is in the log before it is heard: if it is not, somebody else published it."""
        if self._doubted > page.last_seq:
            self._warn_once()
        self._doubted = 0

    async def _page(self) -> LogPage:
        page = await read_page(self._client, self._name, self._cursor)
        if page.is_ended and self._cursor > page.last_seq:
            # Whoever asks for what is beyond the end is told the end.
            self._cursor = page.last_seq - 1
            page = await read_page(self._client, self._name, self._cursor)
        return page

    def _logged(self, page: LogPage) -> list[Event]:
        events: list[Event] = []
        for number, event in zip(page.numbers, page.events, strict=True):
            if number > self._cursor + 1:
                events.append(self._gap(number - 1))
            if event is None:
                self._warn_once()
                self._cursor = number
            else:
                events.append(self._taken(event))
        return events

    def _gap(self, last: int) -> Gap:
        gap = Gap(seq=last, attempt=self._attempt, at_ms=_now_ms(), first=self._cursor + 1)
        self._cursor = last
        return gap

    # What is known of the task where the log says nothing new.

    async def _fate(self, page: LogPage, loss: LossWatch) -> list[Event]:
        record, epoch = await task_store.find_with_epoch(self._settings, self._name.task_id)
        is_known = page.is_known or self._is_ours or self._attempt > 0
        if not is_known and (record.is_finished or record.state == states.PENDING):
            raise StreamExpired(self._name.task_id, record.is_finished)
        if record.is_finished:
            return self._outcome(page, record)
        await loss.note(epoch)
        return [self._made(Lost)] if page.is_begun and await self._is_forsaken() else []

    def _outcome(self, page: LogPage, record: TaskRecord) -> list[Event]:
        """The end, as the task's record tells it: one that its worker did not write, or that was lost."""
        try:
            return self._answer(page, record.completion())
        except TaskCancelled:
            self._cancelled_at = self._cancelled_at or time.monotonic()
            has_last_words = page.is_begun and time.monotonic() - self._cancelled_at < _LAST_WORDS_S
            return [] if has_last_words else [self._made(Cancelled)]
        except KaguraTasksError as error:
            return [self._made(Failed, **fields_of_error(error))]

    def _answer(self, page: LogPage, completion: Completion) -> list[Event]:
        """A task that was not asked to stream has all of its text at once; what another one wrote is gone."""
        if page.is_begun or self._attempt:
            gap = self._gap(max(page.last_seq, self._cursor + 1))
            return [gap, self._made(Done, **fields_of_completion(completion))]
        events = events_of(completion)
        unread = [event for event in events if event.seq > self._cursor]
        return [self._taken(event) for event in unread or events[-1:]]

    async def _is_forsaken(self) -> bool:
        """Heartbeats are missing, and no worker has looked for tasks to take over."""
        silence_s = time.monotonic() - self._heard_at
        if silence_s < _MISSED_BEATS * self._settings.stream_heartbeat_s:
            return False
        async with async_client(self._settings.broker, self._settings.redis_timeout_s).pipeline(
            transaction=False
        ) as pipeline:
            pipeline.hmget(SWEEP, ["last"])
            pipeline.time()
            (last_ms,), (now_s, _) = cast("tuple[list[bytes | None], tuple[int, int]]", await pipeline.execute())
        return last_ms is None or now_s - int(last_ms) / 1000 > self._settings.visibility_timeout_s

    def _made(self, kind: type[Made], **fields: Any) -> Made:
        """An event that stands in no log."""
        # Whoever was told that it is lost reads on from here, when somebody else goes on.
        self._cursor += 0 if kind is Lost else 1
        self._attempt = max(1, self._attempt)
        self._is_over = True
        return kind(seq=self._cursor, attempt=self._attempt, at_ms=_now_ms(), **fields)

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._settings.results, self._settings.redis_timeout_s)


def _now_ms() -> int:
    return int(time.time() * 1000)
