"""Equal prompts at the same time, of which some stream: one call, and everybody's text is the provider's."""

from __future__ import annotations

import pytest

from kagura_tasks import LLMClient
from kagura_tasks.streaming.events import Done
from tests.support.stream_scenes import PoolScene, Reading
from tests.support.wait import until

_TEXT = "".join(f"{number}, " for number in range(30))
_SLOW = {"text": _TEXT, "chunks": 30, "chunk_delay_s": 0.03}

pytestmark = pytest.mark.parametrize("pool", ["asyncio"])


def test_followers_read_along_from_the_beginning(pool_scene: PoolScene, prompt: str):
    """Also those that come in the middle: each has all of the text, before the leader is done."""
    pool_scene.stub.script(**_SLOW)
    leader = Reading(pool_scene.client.stream(prompt))
    leader.until_text(pieces=4)
    followers = [Reading(pool_scene.client.stream(prompt)) for _ in range(2)]
    for follower in followers:
        follower.until_text(pieces=1)
        assert leader.kinds == ["start"]
    for reading in (leader, *followers):
        assert isinstance(reading.until_over(), Done)
        assert (reading.kinds, reading.text) == (["start", "done"], _TEXT)
    assert [reading.stream.completion().cached for reading in (leader, *followers)] == [False, True, True]
    assert pool_scene.calls_of(prompt) == 1


def test_who_streams_may_follow_who_does_not(pool_scene: PoolScene, prompt: str):
    """And the other way round: the text comes at the end, or as a result, whole, out of one call."""
    pool_scene.stub.script(text=_TEXT, held=True)
    plain = pool_scene.client.submit(prompt)
    assert pool_scene.request_of(prompt)
    streamed = Reading(pool_scene.client.stream(prompt))
    until(lambda: "start" in streamed.kinds, what="a follower")
    pool_scene.stub.release()
    assert isinstance(streamed.until_over(), Done)
    assert streamed.text == plain.get(timeout_s=10).text == _TEXT
    other = f"{prompt} Again."
    leader = Reading(pool_scene.client.stream(other))
    leader.until_text(pieces=1)
    assert pool_scene.client.submit(other).get(timeout_s=20).text == _TEXT
    assert isinstance(leader.until_over(), Done)
    assert pool_scene.calls_of(prompt) == pool_scene.calls_of(other) == 1


def test_a_remembered_answer_streams_and_can_be_resumed(pool_scene: PoolScene, prompt: str):
    """By whoever has its id, and from any number on."""
    assert pool_scene.client.complete(prompt).text
    stream = pool_scene.client.stream(prompt)
    events = list(stream.events())
    assert stream.completion().cached
    elsewhere = LLMClient(pool_scene.settings)
    for seq in range(len(events)):
        found = list(elsewhere.resume(stream.id, seq).events())
        assert [event.seq for event in found] == [event.seq for event in events[seq:]]
    assert pool_scene.calls_of(prompt) == 1
