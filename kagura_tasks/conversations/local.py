"""Conversations in this process, for `execution="inline"`. The same promise, as far as one process goes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import ids_kept
from kagura_tasks.conversations.turns import Appended, Claim, History, NewTurn, Turn, turn_tokens
from kagura_tasks.forks import ProcessLock
from kagura_tasks.schemas import ConversationBounds

#: The part of its bounds that is left of a conversation when turns fall out to be summed up: a summary costs a call of
#: a model, so they do in parts that are worth it.
_LEFT: Final = 0.75

#: So many times its bounds may wait to be summed up. Where nobody does so for long, the oldest are forgotten.
_WAITING: Final = 2

#: So many conversations at most; those that were used longest ago go first.
_MOST: Final = 1_000


@dataclass
class _Conversation:
    expires_at: float = 0.0
    number: int = 0
    turns: list[Turn] = field(default_factory=list[Turn])
    fallen: list[Turn] = field(default_factory=list[Turn])
    ids: OrderedDict[str, int] = field(default_factory=OrderedDict[str, int])
    summary: str = ""
    claim: str = ""
    claimed_until: float = 0.0


class LocalConversations:
    """Conversations in memory. They end with the process. See Conversations."""

    def __init__(self, most: int = _MOST, clock: Callable[[], float] = time.time) -> None:
        """Take how many conversations are kept at most, and what says the time (Unix s)."""
        self._most = most
        self._clock = clock
        self._lock = ProcessLock()
        self._conversations: OrderedDict[ConversationName, _Conversation] = OrderedDict()

    def append(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """See Conversations."""
        with self._lock:
            kept = self._find(name) or _Conversation()
            self._keep(name, kept, bounds.ttl_s)
            numbers = [self._add(kept, turn) for turn in turns]
            while len(kept.ids) > ids_kept(bounds):
                kept.ids.popitem(last=False)
            if bounds.summary_model is None:
                _ = _shortened(kept.turns, bounds, 1, 1, 1)
                return Appended(numbers, 0)
            kept.fallen += _shortened(kept.turns, bounds, 1, 1, _LEFT)
            _ = _shortened(kept.fallen, bounds, 0, _WAITING, _WAITING)
            return Appended(numbers, len(kept.fallen))

    async def aappend(self, name: ConversationName, turns: Sequence[NewTurn], bounds: ConversationBounds) -> Appended:
        """See Conversations."""
        return self.append(name, turns, bounds)

    def read(self, name: ConversationName, last: int | None) -> History:
        """See Conversations."""
        with self._lock:
            kept = self._find(name) or _Conversation()
            first = 0 if last is None else max(0, len(kept.turns) - last)
            return History(kept.summary, kept.turns[first:])

    async def aread(self, name: ConversationName, last: int | None) -> History:
        """See Conversations."""
        return self.read(name, last)

    def clear(self, name: ConversationName) -> int:
        """See Conversations."""
        with self._lock:
            kept = self._find(name)
            self._conversations.pop(name, None)
            return len(kept.turns) if kept else 0

    async def aclear(self, name: ConversationName) -> int:
        """See Conversations."""
        return self.clear(name)

    async def claim(self, name: ConversationName, token: str, hold_ms: int) -> Claim | None:
        """See Conversations."""
        with self._lock:
            kept = self._find(name)
            if kept is None or not kept.fallen or kept.claimed_until > self._clock():
                return None
            kept.claim, kept.claimed_until = token, self._clock() + hold_ms / 1000
            return Claim(token, kept.summary, [*kept.fallen])

    async def fold(self, name: ConversationName, claim: Claim, summary: str | None) -> bool:
        """See Conversations."""
        with self._lock:
            kept = self._find(name)
            if kept is None or kept.claim != claim.token:
                return False
            kept.claim, kept.claimed_until = "", 0.0
            if summary is not None and claim.turns:
                last = claim.turns[-1].number
                kept.summary = summary
                kept.fallen = [turn for turn in kept.fallen if turn.number > last]
            return True

    def _find(self, name: ConversationName) -> _Conversation | None:
        kept = self._conversations.get(name)
        if kept is not None and kept.expires_at <= self._clock():
            del self._conversations[name]
            return None
        return kept

    def _keep(self, name: ConversationName, kept: _Conversation, ttl_s: int) -> None:
        kept.expires_at = self._clock() + ttl_s
        self._conversations[name] = kept
        self._conversations.move_to_end(name)
        while len(self._conversations) > self._most:
            self._conversations.popitem(last=False)

    def _add(self, kept: _Conversation, new: NewTurn) -> int:
        if new.turn_id in kept.ids:
            return kept.ids[new.turn_id]
        kept.number += 1
        at_ms = int(self._clock() * 1000)
        kept.turns.append(Turn(number=kept.number, role=new.role, content=new.content, at_ms=at_ms))
        if new.turn_id:
            kept.ids[new.turn_id] = kept.number
        return kept.number


#: The conversations of this process, whoever asks for them: inline calls and their callers share them.
LOCAL: Final = LocalConversations()


def _shortened(turns: list[Turn], bounds: ConversationBounds, least: int, over: float, left: float) -> list[Turn]:
    """What is taken from the front of turns that are more than `over` times their bounds, so that `left` times remain.

    The last `least` stay.
    """
    tokens = sum(turn_tokens(turn.content) for turn in turns)
    count = len(turns)
    if count <= bounds.max_turns * over and tokens <= bounds.max_tokens * over:
        return []
    while count > least and (count > bounds.max_turns * left or tokens > bounds.max_tokens * left):
        tokens -= turn_tokens(turns[len(turns) - count].content)
        count -= 1
    taken = turns[: len(turns) - count]
    del turns[: len(taken)]
    return taken
