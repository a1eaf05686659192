"""Conversations on Redis and in this process do the same, in whatever order they are written, read and summed up."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kagura_tasks.conversations.local import LocalConversations
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import Conversations, RedisConversations
from kagura_tasks.conversations.turns import Claim, NewTurn, Turn
from kagura_tasks.schemas import ConversationBounds
from kagura_tasks.settings import RedisUrl

#: So long that no claim ends by itself.
_HOLD_MS = 600_000

BOUNDS = st.builds(
    ConversationBounds,
    max_turns=st.integers(1, 6),
    max_tokens=st.sampled_from([1, 12, 60, 10_000]),
    ttl_s=st.just(600),
    summary_model=st.sampled_from([None, "openai/m"]),
)

TURNS = st.lists(
    st.builds(
        NewTurn,
        role=st.sampled_from(["user", "assistant", "system"]),
        content=st.text(max_size=120),
        turn_id=st.sampled_from(["", "", "a", "b", "c", "d"]),
    ),
    min_size=1,
    max_size=4,
)


def plain(turns: list[Turn] | tuple[Turn, ...]) -> list[tuple[int, str, str]]:
    """All of a turn but its time, which two clocks say."""
    return [(turn.number, turn.role, turn.content) for turn in turns]


class Sequences(RuleBasedStateMachine):
    """Each step is made in both places."""

    url: RedisUrl

    def __init__(self) -> None:
        super().__init__()
        self.name = ConversationName("default", uuid4().hex)
        self.places: list[Conversations] = [RedisConversations(self.url), LocalConversations()]
        self.claims: list[tuple[Claim, ...]] = []

    def both(self, step: str, *args: Any) -> list[Any]:
        return [getattr(place, step)(self.name, *args) for place in self.places]

    @rule(turns=TURNS, bounds=BOUNDS)
    def append(self, turns: list[NewTurn], bounds: ConversationBounds) -> None:
        """The same numbers, and as many that wait."""
        redis, local = self.both("append", turns, bounds)
        assert redis == local

    @rule(last=st.integers(0, 8))
    def read_last(self, last: int) -> None:
        """The same turns from the end."""
        redis, local = self.both("read", last)
        assert plain(redis.turns) == plain(local.turns)
        assert len(local.turns) <= last

    @rule()
    def clear(self) -> None:
        """The same count, and nothing afterwards."""
        redis, local = self.both("clear")
        assert redis == local

    @rule()
    def claim(self) -> None:
        """The same turns, or none in both."""
        token = uuid4().hex
        claims = [asyncio.run(place.claim(self.name, token, _HOLD_MS)) for place in self.places]
        assert [claim is None for claim in claims] in ([True] * 2, [False] * 2)
        if claims[0] is not None:
            redis, local = claims
            assert (redis.summary, plain(redis.turns)) == (local.summary, plain(local.turns))
            self.claims.append((redis, local))

    @rule(summary=st.one_of(st.none(), st.text(min_size=1, max_size=20)), data=st.data())
    def fold(self, summary: str | None, data: st.DataObject) -> None:
        """Any claim, held, given back or lost: the same answer."""
        if self.claims:
            index = data.draw(st.integers(0, len(self.claims) - 1))
            claims = zip(self.places, self.claims[index], strict=True)
            folded = [asyncio.run(place.fold(self.name, claim, summary)) for place, claim in claims]
            assert folded[0] == folded[1]

    @invariant()
    def they_hold_the_same(self) -> None:
        """Summary and turns, the latter without a hole in their numbers."""
        redis, local = self.both("read", None)
        assert (redis.summary, plain(redis.turns)) == (local.summary, plain(local.turns))
        numbers = [turn.number for turn in local.turns]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def test_both_places_do_the_same(redis_url: RedisUrl):
    """Random sequences of everything."""
    Sequences.url = redis_url
    run_state_machine_as_test(Sequences, settings=hypothesis.settings(max_examples=60, stateful_step_count=30))
