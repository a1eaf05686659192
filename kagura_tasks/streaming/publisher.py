"""Sends what all writers of an event loop have to say: the steps of one moment in one round trip to Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, cast

from redis.exceptions import NoScriptError, ResponseError

from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client, before_closing
from kagura_tasks.loops import PerLoop
from kagura_tasks.redis_types import Argument, AsyncPipeline, AsyncRedis
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.log import APPEND, BEGIN
from kagura_tasks.streaming.outlet import StreamOutlet, StreamTerms
from kagura_tasks.streaming.writer import Claim, Events, Reply, Step, StreamWriter

log = logging.getLogger(__name__)

#: Seconds between two tries while Redis is away, or full; and after how many a writer is given up: a minute and a half,
#: as with results.
_RETRY_S: Final = 0.5
_LONGEST_OUTAGE_S: Final = 90.0

#: Steps in one pipeline.
_MOST_AT_ONCE: Final = 200


class Publisher(StreamOutlet):
    """Writes streams to Redis."""

    def __init__(self, client: AsyncRedis, terms: StreamTerms) -> None:
        """Take the loop's client. Nothing is sent before there is a writer."""
        super().__init__(terms)
        self._client = client
        self._urgent: dict[StreamWriter, None] = {}
        self._patient: dict[StreamWriter, None] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    def wake(self, writer: StreamWriter, *, urgent: bool) -> None:
        """See Outlet."""
        if urgent:
            self._urgent[writer] = None
            self._send_soon()
        else:
            self._patient[writer] = None
            if self._tick is None:
                self._tick = asyncio.get_running_loop().call_later(self._terms.coalesce_s, self._send_patient)

    async def stop(self) -> None:
        """Stop, before the connections are closed."""
        for timer in (self._tick, self._pulse):
            if timer is not None:
                timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    def _send_patient(self) -> None:
        self._tick = None
        self._urgent.update(self._patient)
        self._patient.clear()
        self._send_soon()

    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all(), name="kagura-streams")

    async def _send_all(self) -> None:
        """While one pipeline is under way, what comes in is collected for the next."""
        while self._urgent:
            writers = list(self._urgent)[:_MOST_AT_ONCE]
            for writer in writers:
                # Now, not when they are sent: whoever has more to say meanwhile comes again.
                del self._urgent[writer]
            steps = [(writer, step) for writer in writers if (step := writer.step()) is not None]
            try:
                replies = await self._send(steps) if steps else []
            except Exception:
                # Whatever it is, nobody may wait for ever. It holds no text: redis-py's errors quote no arguments.
                log.exception("streams are given up: they cannot be written")
                replies = [Reply.ENDED.value] * len(steps)
            for (writer, _), reply in zip(steps, replies, strict=True):
                _settle(writer, reply)

    async def _send(self, steps: list[tuple[StreamWriter, Step]]) -> list[object]:
        """What the server said to each; tried again while it is away, or full. Sent twice, an event is there once."""
        give_up_at = time.monotonic() + _LONGEST_OUTAGE_S
        tries = 0
        while True:
            try:
                return await self._send_once(steps)
            except CANNOT_WRITE_NOW as error:
                tries += 1
                if tries == 1:
                    log.warning("streams cannot be written: Redis is away, or full (%s)", type(error).__name__)
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _send_once(self, steps: list[tuple[StreamWriter, Step]]) -> list[object]:
        replies = await self._pipelined(steps)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._client.script_load(BEGIN.text)
            await self._client.script_load(APPEND.text)
            replies = await self._pipelined(steps)
        for reply in replies:
            if isinstance(reply, CANNOT_WRITE_NOW):
                raise reply
        return replies

    async def _pipelined(self, steps: list[tuple[StreamWriter, Step]]) -> list[object]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for writer, step in steps:
                self._add(pipeline, writer, step)
            return await pipeline.execute(raise_on_error=False)

    def _add(self, pipeline: AsyncPipeline, writer: StreamWriter, step: Step) -> None:
        key, state = writer.name.key, writer.name.state_key
        if isinstance(step, Claim):
            pipeline.evalsha(BEGIN.sha, 3, key, state, writer.mark, *begin_args(step, self._terms))
        else:
            pipeline.evalsha(APPEND.sha, 3, key, state, writer.mark, *append_args(step, self._terms))


def begin_args(step: Claim, terms: StreamTerms) -> list[Argument]:
    """What `begin.lua` takes."""
    return [step.name, step.least_attempt, terms.ttl_s, int(time.time() * 1000), step.after]


def append_args(step: Events, terms: StreamTerms) -> list[Argument]:
    """What `append.lua` takes."""
    return [step.attempt, terms.ttl_s, terms.log_bytes, "1" if step.is_end else "", step.first, *step.payloads]


def _settle(writer: StreamWriter, reply: object) -> None:
    if isinstance(reply, ResponseError):
        # Keys that hold something else, say. The answer does not depend on its stream.
        log.error("a stream cannot be written: Redis refuses it (%s)", type(reply).__name__)
        writer.settle(Reply.ENDED)
    elif isinstance(reply, list):
        attempt, *seq = cast("list[Any]", reply)
        if seq:
            writer.settle(Reply.OK, attempt, seq[0])
        else:
            writer.settle(Reply(attempt.decode()))
    else:
        writer.settle(Reply(reply.decode() if isinstance(reply, bytes) else reply))


_publishers = PerLoop(dict[Settings, Publisher])


def publisher(settings: Settings) -> Publisher:
    """The running event loop's publisher for these settings."""
    by_settings = _publishers.here()
    if settings not in by_settings:
        client = async_client(settings.results, settings.redis_timeout_s)
        opened = by_settings[settings] = Publisher(client, StreamTerms.from_settings(settings))

        async def stop() -> None:
            del by_settings[settings]
            await opened.stop()

        before_closing(stop)
    return by_settings[settings]
