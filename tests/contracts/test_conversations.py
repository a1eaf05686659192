"""One promise, two places for conversations: every test here runs in this process and on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import pytest

from kagura_tasks.connections import sync_client
from kagura_tasks.conversations import ConversationMemory
from kagura_tasks.conversations.local import LocalConversations
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import Conversations, RedisConversations
from kagura_tasks.conversations.turns import NewTurn
from kagura_tasks.errors import ConfigurationError, InvalidRequest, PromptTooLarge
from kagura_tasks.settings import RedisUrl, Settings
from tests.support.wait import until


@dataclass
class Place:
    """A place under test.

    Attributes:
        store: Where conversations live.
        advance: Let seconds pass.
    """

    store: Conversations
    advance: Callable[[float], object]

    def memory(self, tenant: str = "default", **bounds: int | str) -> ConversationMemory:
        """A memory in this place."""
        return ConversationMemory(Settings(max_prompt_bytes=10_000), tenant=tenant, store=self.store, **bounds)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        clock = Clock()
        return Place(LocalConversations(clock=clock), clock.advance)
    url: RedisUrl = request.getfixturevalue("redis_url")
    return Place(RedisConversations(url), partial(_let_redis_pass, url))


@pytest.fixture
def memory(place: Place) -> ConversationMemory:
    return place.memory()


@pytest.fixture
def talk() -> str:
    """The id of a conversation that no other test has."""
    return uuid4().hex


def texts(memory: ConversationMemory, talk: str) -> list[str]:
    return [turn.content for turn in memory.turns(talk)]


def _let_redis_pass(url: RedisUrl, seconds: float) -> None:
    """Redis's clock cannot be moved: wait until it says that the time has passed."""
    client = sync_client(url, 2.0)
    client.set("clock", "1", ex=int(seconds) or 1)
    until(lambda: client.get("clock") is None, seconds + 10, "time to pass")


def test_turns_come_back_in_order_with_their_numbers(memory: ConversationMemory, talk: str):
    """Numbers count from 1; any text comes back as it was."""
    odd = 'a "quoted"\n</br> 京都 🎐 {"tokens":99999}'
    assert memory.append(talk, "user", odd) == 1
    assert memory.append(talk, "assistant", "") == 2
    first, second = memory.turns(talk)
    assert (first.number, first.role, first.content) == (1, "user", odd)
    assert (second.number, second.role, second.content) == (2, "assistant", "")
    assert 0 < first.at_ms <= second.at_ms


@pytest.mark.parametrize(("last", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_last_turns_alone(memory: ConversationMemory, talk: str, last: int, expected: list[str]):
    """`last` counts from the end."""
    for text in "abc":
        memory.append(talk, "user", text)
    assert [turn.content for turn in memory.turns(talk, last=last)] == expected


async def test_the_async_twins_are_the_same(memory: ConversationMemory, talk: str):
    """What one world writes, the other reads."""
    assert await memory.aappend(talk, "user", "hello") == 1
    assert memory.turns(talk) == await memory.aturns(talk)
    assert await memory.asummary(talk) == memory.summary(talk) == ""
    assert await memory.aclear(talk) == 1
    assert memory.turns(talk) == []


def test_a_turn_with_an_id_is_appended_once(memory: ConversationMemory, talk: str):
    """A task that is delivered again appends nothing, and gets the number of its first try."""
    assert [memory.append(talk, "user", text, turn_id="t1") for text in ("hello", "hello")] == [1, 1]
    assert memory.append(talk, "user", "hello") == 2
    assert texts(memory, talk) == ["hello", "hello"]


def test_a_turn_that_fell_out_is_not_appended_again(place: Place, talk: str):
    """Also where the redelivery comes when the turn is gone already."""
    memory = place.memory(max_turns=2)
    for number in range(9):
        memory.append(talk, "user", str(number), turn_id=f"t{number}")
    assert memory.append(talk, "user", "0", turn_id="t0") == 1
    assert texts(memory, talk) == ["7", "8"]


async def test_several_turns_stand_next_to_each_other(memory: ConversationMemory, talk: str):
    """Of an exchange that was half appended, only the other half is."""
    memory.append(talk, "user", "q", turn_id="x.user")
    appended = await memory.aappend_all(
        talk, [NewTurn("user", "q", "x.user"), NewTurn("assistant", "a", "x.assistant")]
    )
    assert appended.numbers == [1, 2]
    assert texts(memory, talk) == ["q", "a"]


def test_more_turns_than_are_kept_fall_out(place: Place, talk: str):
    """The oldest go, and no number is used again."""
    memory = place.memory(max_turns=3)
    numbers = [memory.append(talk, "user", str(number)) for number in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert [(turn.number, turn.content) for turn in memory.turns(talk)] == [(3, "2"), (4, "3"), (5, "4")]


def test_more_tokens_than_are_kept_fall_out(place: Place, talk: str):
    """100 ASCII characters are 29 tokens; 100 Japanese ones are 79."""
    memory = place.memory(max_tokens=29 + 79)
    memory.append(talk, "user", "x" * 100)
    memory.append(talk, "user", "京" * 100)
    assert [turn.number for turn in memory.turns(talk)] == [1, 2]
    memory.append(talk, "user", "y")
    assert [turn.number for turn in memory.turns(talk)] == [2, 3]


def test_the_newest_turn_is_kept_whatever_its_size(place: Place, talk: str):
    """A conversation does not lose what was said last."""
    memory = place.memory(max_tokens=10)
    memory.append(talk, "user", "short")
    memory.append(talk, "user", "x" * 1000)
    assert [turn.number for turn in memory.turns(talk)] == [2]


def test_a_conversation_is_forgotten_after_its_ttl(place: Place, talk: str):
    """It begins anew then: with the number 1, and ids that were used before."""
    memory = place.memory(ttl_s=1)
    memory.append(talk, "user", "hello", turn_id="t1")
    place.advance(1.1)
    assert memory.turns(talk) == []
    assert memory.append(talk, "user", "hello", turn_id="t1") == 1


def test_another_tenants_conversation_is_not_found(place: Place, talk: str):
    """The same id names another conversation: it cannot be read, continued or cleared."""
    ours, theirs = place.memory("ours"), place.memory("theirs")
    ours.append(talk, "user", "secret")
    assert theirs.turns(talk) == []
    assert theirs.clear(talk) == 0
    assert theirs.append(talk, "user", "hello") == 1
    assert texts(ours, talk) == ["secret"]


@pytest.mark.parametrize("other", ["a:turns", "a b", "a*", "京都", "\x00", "x" * 512, "a\n", "~" + "0" * 64, "{a}"])
def test_ids_are_opaque(memory: ConversationMemory, other: str):
    """Whatever is in an id, it names a conversation of its own."""
    memory.append("a", "user", "plain")
    memory.append(other, "user", "odd")
    assert (texts(memory, "a"), texts(memory, other)) == (["plain"], ["odd"])
    assert memory.clear(other) == 1
    assert texts(memory, "a") == ["plain"]
    memory.clear("a")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (("", "user", "hi"), "conversation's id"),
        (("x" * 513, "user", "hi"), "conversation's id"),
        ((7, "user", "hi"), "conversation's id"),
        (("a", "tool", "hi"), "role"),
        (("a", "user", None), "content is a text"),
        (("a", "user", "\ud800"), "surrogate"),
        (("\ud800", "user", "hi"), "surrogate"),
    ],
)
def test_what_cannot_be_a_turn_is_refused(memory: ConversationMemory, bad, words: str):
    """With an error that says what would do."""
    with pytest.raises(InvalidRequest, match=words):
        memory.append(*bad)


@pytest.mark.parametrize("turn_id", ["x" * 513, "\ud800"])
def test_what_cannot_be_a_turns_id_is_refused(memory: ConversationMemory, talk: str, turn_id: str):
    """Nothing is appended."""
    with pytest.raises(InvalidRequest, match="id"):
        memory.append(talk, "user", "hi", turn_id=turn_id)
    assert memory.turns(talk) == []


def test_a_turn_has_a_largest_size(memory: ConversationMemory, talk: str):
    """That of a prompt. Nothing is appended."""
    with pytest.raises(PromptTooLarge):
        memory.append(talk, "user", "x" * 10_001)
    assert memory.turns(talk) == []


@pytest.mark.parametrize("last", [-1, 1.0, True])
def test_a_number_of_turns_that_is_none_is_refused(memory: ConversationMemory, talk: str, last):
    """`last` is a whole number from 0 on."""
    with pytest.raises(InvalidRequest, match="how many"):
        memory.turns(talk, last=last)


@pytest.mark.parametrize("bounds", [{"max_turns": 0}, {"max_tokens": 0}, {"ttl_s": 0}, {"summarise": "no model!"}])
def test_bounds_that_cannot_be_kept_are_refused(place: Place, bounds):
    """When the memory is made, by name."""
    with pytest.raises(ConfigurationError, match=f"{next(iter(bounds))}|summary_model"):
        place.memory(**bounds)


def test_threads_lose_nothing(memory: ConversationMemory, place: Place, talk: str):
    """Eight writers at the same time: each number once, and each writer's turns in its order."""
    memory = place.memory(max_turns=400, max_tokens=10**6)

    def write(writer: int) -> list[int]:
        return [memory.append(talk, "user", f"{writer}.{number}") for number in range(50)]

    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(number for some in pool.map(write, range(8)) for number in some)
    assert numbers == list(range(1, 401))
    found = texts(memory, talk)
    for writer in range(8):
        assert [text for text in found if text.startswith(f"{writer}.")] == [f"{writer}.{n}" for n in range(50)]


class TestSummaries:
    """What falls out waits to be summed up, and is summed up once."""

    async def test_what_fell_out_is_claimed_and_folded(self, place: Place, talk: str):
        """The summary stands in place of the turns; a second look finds nothing more to do."""
        memory, name = place.memory(max_turns=4, summarise="openai/m"), ConversationName("default", talk)
        appended = [await memory.aappend_all(talk, [NewTurn("user", text)]) for text in "abcdef"]
        assert [one.waiting for one in appended] == [0, 0, 0, 0, 2, 2]
        claim = await place.store.claim(name, "token", 60_000)
        assert claim is not None
        assert [turn.content for turn in claim.turns] == ["a", "b"]
        assert await place.store.fold(name, claim, "a and b")
        assert (memory.summary(talk), texts(memory, talk)) == ("a and b", ["c", "d", "e", "f"])
        assert await place.store.claim(name, "token", 60_000) is None

    async def test_what_falls_out_meanwhile_waits_for_the_next(self, place: Place, talk: str):
        """Only what was claimed is gone; the next claim sees the summary so far."""
        memory, name = place.memory(max_turns=1, summarise="openai/m"), ConversationName("default", talk)
        for text in "ab":
            memory.append(talk, "user", text)
        claim = await place.store.claim(name, "token", 60_000)
        memory.append(talk, "user", "c")
        assert claim is not None
        assert await place.store.fold(name, claim, "a")
        later = await place.store.claim(name, "token2", 60_000)
        assert later is not None
        assert (later.summary, [turn.content for turn in later.turns]) == ("a", ["b"])

    async def test_only_one_claims_at_a_time(self, place: Place, talk: str):
        """Two workers that notice the same turns pay for one summary."""
        memory, name = place.memory(max_turns=1, summarise="openai/m"), ConversationName("default", talk)
        for text in "ab":
            memory.append(talk, "user", text)
        claims = await asyncio.gather(*(place.store.claim(name, f"t{n}", 60_000) for n in range(8)))
        assert len([claim for claim in claims if claim]) == 1

    async def test_a_claim_that_was_given_back_can_be_claimed(self, place: Place, talk: str):
        """Where summing up failed, nothing is lost."""
        memory, name = place.memory(max_turns=1, summarise="openai/m"), ConversationName("default", talk)
        for text in "ab":
            memory.append(talk, "user", text)
        claim = await place.store.claim(name, "t1", 60_000)
        assert claim is not None
        assert await place.store.fold(name, claim, None)
        again = await place.store.claim(name, "t2", 60_000)
        assert again is not None
        assert again.turns == claim.turns
        assert memory.summary(talk) == ""

    async def test_whoever_died_with_a_claim_keeps_nobody_from_it(self, place: Place, talk: str):
        """It ends by itself; what the dead one brings later counts for nothing."""
        memory, name = place.memory(max_turns=1, summarise="openai/m"), ConversationName("default", talk)
        for text in "ab":
            memory.append(talk, "user", text)
        dead = await place.store.claim(name, "t1", 900)
        place.advance(1)
        living = await place.store.claim(name, "t2", 60_000)
        assert dead is not None
        assert living is not None
        assert not await place.store.fold(name, dead, "late")
        assert await place.store.fold(name, living, "in time")
        assert memory.summary(talk) == "in time"

    async def test_a_summary_of_a_forgotten_conversation_is_dropped(self, place: Place, talk: str):
        """What was cleared stays cleared."""
        memory, name = place.memory(max_turns=1, summarise="openai/m"), ConversationName("default", talk)
        for text in "ab":
            memory.append(talk, "user", text)
        claim = await place.store.claim(name, "t1", 60_000)
        memory.clear(talk)
        assert claim is not None
        assert not await place.store.fold(name, claim, "late")
        assert memory.summary(talk) == ""

    async def test_what_waits_is_bounded_too(self, place: Place, talk: str):
        """Where nobody sums up, no more waits than twice what is kept."""
        memory = place.memory(max_turns=4, summarise="openai/m")
        appended = [await memory.aappend_all(talk, [NewTurn("user", str(number))]) for number in range(15)]
        assert appended[-1].waiting == 8
        claim = await place.store.claim(ConversationName("default", talk), "t", 60_000)
        assert claim is not None
        assert [turn.content for turn in claim.turns] == [str(number) for number in range(4, 12)]
