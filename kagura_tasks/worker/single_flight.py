"""Equal requests at the same time share one provider call, over all processes of the fleet.

The first to ask leads the flight and holds a lease on it; all others follow, and wait for its outcome: an answer, or
the leader's error. A leader that dies stops renewing its lease, and exactly one follower takes over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from redis.exceptions import RedisError

from kagura_tasks.cache.backend import CacheEntry, decode_completion
from kagura_tasks.cache.key import cache_key
from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.cache.redis import STATS_TTL_S, RedisBackend, entry_key, stats_key, store_args, store_keys
from kagura_tasks.connections import async_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.errors import KaguraTasksError, TaskCancelled, rebuild
from kagura_tasks.lua import LuaScript
from kagura_tasks.metrics.steps import ADD_UP
from kagura_tasks.redis_types import Argument, AsyncRedis
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.settings import Settings
from kagura_tasks.subscriptions import subscriptions
from kagura_tasks.task_store import TaskRecord, record_key
from kagura_tasks.worker.job import Job, RetryLater
from kagura_tasks.worker.renewals import Renewed

log = logging.getLogger(__name__)

Call = Callable[[], Awaitable[Completion]]

#: Hands on what the task of this id streams, until it is cancelled or has handed on all.
Relay = Callable[[str], Coroutine[Any, Any, None]]

#: Seconds for which a flight's outcome can be fetched by a follower that missed its announcement.
_OUTCOME_TTL_S: Final = 60

#: The part of the lease after which it is renewed: two renewals may fail before it ends.
_RENEWALS_A_LEASE: Final = 3

#: The outcome of a flight whose leader was cancelled.
_LEFT: Final = '{"left": true}'

_CACHE: Final = "kagura_tasks.cache"
_HERE: Final = __package__ or ""


_JOIN = LuaScript.load(_HERE, "join.lua").behind(ADD_UP, LuaScript.load(_CACHE, "count.lua"))
_RENEW = LuaScript.load(_HERE, "renew.lua")
_LAND = LuaScript.load(_HERE, "land.lua").behind(ADD_UP, LuaScript.load(_CACHE, "count.lua", "store.lua"))


class SingleFlight(Protocol):
    """Sees to it that equal requests share one call."""

    @property
    def looks_for_outcomes(self) -> bool:
        """`answer` finds out, in the step in which it looks for an answer, whether the task has an outcome already."""
        ...

    async def answer(self, job: Job, call: Call, relay: Relay) -> Completion:
        """The remembered answer, another's that is on its way, or that of `call`. Raises what the call raised.

        A task that has an outcome already gets that again, or its error; see `looks_for_outcomes`.

        While another's answer is on its way, `relay` gets the id of its task, if that is streamed.
        """
        ...


@dataclass(frozen=True)
class _Flight:
    """A flight as one of its participants sees it, towards the cache's `entry`.

    `fence` is 0 for a follower, who may read the `streamed` task.
    """

    entry: str
    key: str
    outcome_key: str
    stats_key: str
    id: str
    fence: int = 0
    lease_left_s: float = 0.0
    streamed: str = ""


class RedisSingleFlight:
    """Flights of the whole fleet, in the Redis of the cache."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings: the cache's address and TTL, and the lease."""
        self._url = settings.cache
        self._store = RedisBackend(settings.cache, settings.redis_timeout_s)
        self._timeout_s = settings.redis_timeout_s
        self._lease_s = settings.flight_lease_s
        self._ttl_s = settings.cache_ttl_s
        self.looks_for_outcomes = settings.results == settings.cache

    async def answer(self, job: Job, call: Call, relay: Relay) -> Completion:
        """See SingleFlight. While Redis is away, or full, each request makes its own call."""
        key, following = cache_key(job.request), ""
        while True:
            try:
                joined = await self._join(job, key, following)
                if isinstance(joined, _Flight) and not joined.fence:
                    following = joined.id
                    async with _relayed(joined.streamed, relay):
                        joined = await self._follow(joined)
            except RedisError as error:
                log.warning("no single-flight: Redis does not take part (%s)", type(error).__name__)
                return await call()
            if isinstance(joined, Completion):
                return joined
            if joined is not None:
                return await self._lead(job, joined, call)

    @property
    def _client(self) -> AsyncRedis:
        return async_client(self._url, self._timeout_s)

    async def _join(self, job: Job, key: str, following: str) -> Completion | _Flight | None:
        """The answer, a flight to lead or to follow; None where a corrupt entry was in the way and is gone now."""
        request = job.request
        keys = [entry_key(request.tenant, key), stats_key(request.tenant), _flight_key(request, key)]
        if self.looks_for_outcomes:
            keys.append(record_key(job.task_id))
        looked_up = "1" if job.looked_up or job.tries else ""
        streamed = "1" if job.is_streamed else ""
        args: list[Argument] = [_new_id(), job.task_id, self._lease_ms, STATS_TTL_S, looked_up, following, streamed]
        match cast("list[bytes | int]", await _JOIN.arun(self._client, keys, args)):
            case [b"done", bytes(record)]:
                return TaskRecord.parse(job.task_id, record).completion()
            case [b"hit", bytes(value)]:
                return await self._remembered(request, key, value)
            case [b"lead", bytes(flight_id), int(fence)]:
                return _flight(request, key, flight_id.decode(), fence=fence)
            case [b"follow", bytes(flight_id), int(left_ms), bytes(streamed_id)]:
                followed = _flight(request, key, flight_id.decode())
                return replace(followed, lease_left_s=max(left_ms, 0) / 1000, streamed=streamed_id.decode())
            case reply:
                raise RuntimeError(f"join.lua answered {len(reply)} fields that it does not document")

    async def _remembered(self, request: CompletionRequest, key: str, value: bytes) -> Completion | None:
        completion = decode_completion(value, request.model)
        if completion is None:
            log.warning("a cache entry of tenant %s is corrupt: dropped, and counted as a miss", request.tenant)
            await self._store.discard(request.tenant, key)
        return completion

    async def _lead(self, job: Job, flight: _Flight, call: Call) -> Completion:
        try:
            with Renewed(partial(self._keep, flight), self._lease_s / _RENEWALS_A_LEASE):
                completion = await call()
        except RetryLater as later:
            await self._hold(flight, later.wait_s)
            raise
        except TaskCancelled:
            # Whoever follows did not cancel anything: one of them makes the call.
            await self._land(job, flight, _LEFT, None)
            raise
        except KaguraTasksError as error:
            await self._land(job, flight, json.dumps({"error": type(error).__name__, "args": list(error.args)}), None)
            raise
        is_kept = is_worth_keeping(job.request, completion)
        entry = self._entry(job.request, flight.entry, completion) if is_kept else None
        await self._land(job, flight, f'{{"completion":{completion.model_dump_json()}}}', entry)
        return completion

    def _entry(self, request: CompletionRequest, key: str, completion: Completion) -> CacheEntry:
        ttl_s = request.cache_ttl_s or self._ttl_s
        return CacheEntry(key, completion, ttl=ttl_s, model=request.model, tenant=request.tenant, tags=request.tags)

    async def _keep(self, flight: _Flight) -> bool:
        if await self._renew(flight, self._lease_ms):
            return True
        log.warning("a flight was taken over while its call was running: it may be paid for twice")
        return False

    async def _renew(self, flight: _Flight, lease_ms: int) -> bool:
        try:
            return bool(await _RENEW.arun(self._client, [flight.key], [flight.id, flight.fence, lease_ms]))
        except RedisError:
            return True

    async def _hold(self, flight: _Flight, wait_s: float) -> None:
        """Keep the flight while its leader waits in the queue for its next try."""
        await self._renew(flight, int(wait_s * 1000) + self._lease_ms)

    async def _land(self, job: Job, flight: _Flight, outcome: str, entry: CacheEntry | None) -> None:
        mark = taken_key(job.delivery_tag or job.task_id)
        keys = [flight.key, flight.outcome_key, flight.stats_key, mark, *(store_keys(entry) if entry else [])]
        args: list[Argument] = [flight.id, flight.fence, outcome, _OUTCOME_TTL_S, STATS_TTL_S]
        try:
            landed = await _LAND.arun(self._client, keys, [*args, *(store_args(entry) if entry else [])])
        except RedisError as error:
            log.warning("an answer could not be remembered (%s)", type(error).__name__)
            return
        if not landed:
            log.warning("an answer came after its flight was taken over: it was not remembered")

    async def _follow(self, flight: _Flight) -> Completion | None:
        """The leader's outcome, or None when it is time to join again: its lease ended, or was renewed meanwhile."""
        hub = subscriptions(self._url, self._timeout_s)
        with hub.listen(flight.outcome_key) as listener:
            try:
                # A Redis that hangs ends here as well: joining again finds out, and the call is made without it.
                await listener.confirmed(self._lease_s)
                payload = await self._client.get(flight.outcome_key)
                payload = payload or await listener.next(flight.lease_left_s + 0.05)
            except TimeoutError:
                return None
        return None if payload is None else _outcome(payload)

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)


class LocalSingleFlight:
    """Flights of one event loop, around a cache that is no shared Redis."""

    looks_for_outcomes = False

    def __init__(self, cache: LLMCache) -> None:
        """Take the cache that answers are looked up and kept in."""
        self._cache = cache
        self._flights: dict[tuple[str, str], _LocalFlight] = {}

    async def answer(self, job: Job, call: Call, relay: Relay) -> Completion:
        """See SingleFlight."""
        name = (job.request.tenant, cache_key(job.request))
        while flight := self._flights.get(name):
            try:
                async with _relayed(flight.streamed, relay):
                    return (await asyncio.shield(flight.answer)).as_cached()
            except TaskCancelled:
                continue  # the leader was, and nobody else
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._flights[name] = _LocalFlight(answer, job.task_id if job.is_streamed else "")
        try:
            completion = await self._lead(job, call)
            answer.set_result(completion)
            return completion
        except BaseException as error:
            answer.set_exception(TaskCancelled(job.task_id) if isinstance(error, asyncio.CancelledError) else error)
            answer.exception()  # Marks it as seen: there may be no follower.
            raise
        finally:
            del self._flights[name]

    async def _lead(self, job: Job, call: Call) -> Completion:
        remembered = None if job.looked_up else await self._cache.alookup(job.request)
        completion = remembered or await call()
        if is_worth_keeping(job.request, completion):
            await self._cache.remember(job.request, completion)
        return completion


class _LocalFlight(NamedTuple):
    answer: asyncio.Future[Completion]
    streamed: str


def is_worth_keeping(request: CompletionRequest, completion: Completion) -> bool:
    """It is whole, and of a model that the request names: the key does not know the fallbacks of the settings."""
    return completion.is_complete and completion.model in (request.model, *request.fallbacks)


def _new_id() -> str:
    """As good as a UUID, whose bits the system makes: asking it, a thread hands the GIL to whichever waits for it."""
    return f"{random.getrandbits(128):032x}"


def _flight_key(request: CompletionRequest, key: str) -> str:
    return f"kagura:flight:{request.tenant}:{key}"


def _flight(request: CompletionRequest, key: str, flight_id: str, fence: int = 0) -> _Flight:
    outcome_key = f"kagura:flight:{request.tenant}:outcome:{flight_id}"
    return _Flight(key, _flight_key(request, key), outcome_key, stats_key(request.tenant), flight_id, fence)


@asynccontextmanager
async def _relayed(task_id: str, relay: Relay) -> AsyncGenerator[None]:
    """What this task streams is relayed for as long as the block runs."""
    relaying = asyncio.create_task(relay(task_id)) if task_id else None
    try:
        yield
    finally:
        if relaying is not None:
            relaying.cancel()
            await asyncio.wait([relaying])


def _outcome(payload: bytes) -> Completion | None:
    """What the leader announced: its answer, or its error, which is raised here as well; None where it just left."""
    outcome = cast("dict[str, object]", json.loads(payload))
    if "left" in outcome:
        return None
    if "error" in outcome:
        raise rebuild(str(outcome["error"]), cast("list[object]", outcome["args"]))
    return Completion.model_validate(outcome["completion"]).as_cached()
