"""Where conversations are kept: what a place for them must do, and Redis."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, cast

from pydantic import ValidationError
from redis.exceptions import OutOfMemoryError

from kagura_tasks.connections import async_client, redis_errors, sync_client
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.turns import Appended, Claim, History, NewTurn, Turn
from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import Argument
from kagura_tasks.schemas import ConversationBounds, Message
from kagura_tasks.settings import RedisUrl

log = logging.getLogger(__name__)

#: A turn's id is known for so many further turns, or for four times as many as are kept: a task that is delivered
#: again comes long before.
_LEAST_IDS: Final = 1_000
_IDS_A_TURN: Final = 4

_HERE: Final = __package__ or ""
_APPEND: Final = LuaScript.load(_HERE, "append.lua")
_READ: Final = LuaScript.load(_HERE, "read.lua")
_CLEAR: Final = LuaScript.load(_HERE, "clear.lua")
_CLAIM: Final = LuaScript.load(_HERE, "claim.lua")
_FOLD: Final = LuaScript.load(_HERE, "fold.lua")


class Conversations(Protocol):
    """Where conversations live. Each call is one atomic step. Redis that is away, or full, is RedisUnreachable."""

    def append(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """Append the turns next to each other, those that are not there yet, and let go what is too much."""
        ...

    async def aappend(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """The same, without blocking the event loop."""
        ...

    def read(self, name: ConversationName, last: int | None) -> History:
        """What is kept; of the turns only so many of the last. Nothing of what is not there."""
        ...

    async def aread(self, name: ConversationName, last: int | None) -> History:
        """The same, without blocking the event loop."""
        ...

    def clear(self, name: ConversationName) -> int:
        """Forget all of it; how many turns there were."""
        ...

    async def aclear(self, name: ConversationName) -> int:
        """The same, without blocking the event loop."""
        ...

    async def claim(self, name: ConversationName, token: str, hold_ms: int) -> Claim | None:
        """What fell out and waits to be summed up; None where there is nothing, or another has claimed it."""
        ...

    async def fold(self, name: ConversationName, claim: Claim, summary: str | None) -> bool:
        """Keep the summary in place of what was claimed; None gives the claim back. False where it is another's."""
        ...


@dataclass(frozen=True)
class _Step:
    """One call of a script, for either world."""

    script: LuaScript
    key: str
    args: list[Argument]


class RedisConversations:
    """Conversations in Redis, shared by all processes."""

    def __init__(self, url: RedisUrl, timeout_s: float = 2.0) -> None:
        """Take the address, and the seconds after which an answer is no longer waited for."""
        self._url = url
        self._timeout_s = timeout_s

    def append(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """See Conversations."""
        return _appended(self._run(_append(name, turns, bounds)))

    async def aappend(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """See Conversations."""
        return _appended(await self._arun(_append(name, turns, bounds)))

    def read(self, name: ConversationName, last: int | None) -> History:
        """See Conversations."""
        return _history(self._run(_read(name, last)))

    async def aread(self, name: ConversationName, last: int | None) -> History:
        """See Conversations."""
        return _history(await self._arun(_read(name, last)))

    def clear(self, name: ConversationName) -> int:
        """See Conversations."""
        return cast(int, self._run(_Step(_CLEAR, name.key, [])))

    async def aclear(self, name: ConversationName) -> int:
        """See Conversations."""
        return cast(int, await self._arun(_Step(_CLEAR, name.key, [])))

    async def claim(self, name: ConversationName, token: str, hold_ms: int) -> Claim | None:
        """See Conversations."""
        answer = await self._arun(_Step(_CLAIM, name.key, [token, hold_ms]))
        return Claim(token, *_history(answer)) if answer else None

    async def fold(self, name: ConversationName, claim: Claim, summary: str | None) -> bool:
        """See Conversations."""
        last = claim.turns[-1].number if summary is not None and claim.turns else 0
        return bool(await self._arun(_Step(_FOLD, name.key, [claim.token, last, summary or ""])))

    def _run(self, step: _Step) -> object:
        with self._errors():
            return step.script.run(sync_client(self._url, self._timeout_s), [step.key], step.args)

    async def _arun(self, step: _Step) -> object:
        with self._errors():
            return await step.script.arun(async_client(self._url, self._timeout_s), [step.key], step.args)

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            with redis_errors(self._url):
                yield
        except OutOfMemoryError:
            raise RedisUnreachable(self._url.masked(), "its memory is full") from None


def ids_kept(bounds: ConversationBounds) -> int:
    """For how many of the latest turns one knows that they were appended."""
    return max(_LEAST_IDS, _IDS_A_TURN * bounds.max_turns)


def _append(name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> _Step:
    is_summed_up = int(bounds.summary_model is not None)
    args: list[Argument] = [bounds.ttl_s, bounds.max_turns, bounds.max_tokens, ids_kept(bounds), is_summed_up]
    for turn in turns:
        body = Message(role=turn.role, content=turn.content).model_dump_json()
        args += [turn.turn_id, turn.tokens, body.removeprefix("{")]
    return _Step(_APPEND, name.key, args)


def _read(name: ConversationName, last: int | None) -> _Step:
    return _Step(_READ, name.key, [-1 if last is None else last])


def _appended(answer: object) -> Appended:
    waiting, *numbers = cast("list[int]", answer)
    return Appended(numbers, waiting)


def _history(answer: object) -> History:
    summary, *turns = cast("list[bytes]", answer)
    return History(summary.decode("utf-8", "replace"), list(_readable(turns)))


def _readable(turns: Iterable[bytes]) -> Iterable[Turn]:
    """The turns; what is none is left out: somebody else has written it."""
    for value in turns:
        try:
            yield Turn.model_validate_json(value)
        except ValidationError:
            log.warning("a turn of a conversation cannot be read: going on without it")
