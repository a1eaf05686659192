"""Agents with a memory: what was said in a conversation stands before the prompt, and what is said is appended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from kagura_tasks import Agent, Completion, ConversationMemory, LLMClient, agent
from kagura_tasks.errors import ConfigurationError, InvalidRequest, RequestRefused
from tests.support import toolbox
from tests.support.tool_scene import ToolScene, call
from tests.support.wait import until


def talking(scene: ToolScene, memory: Any = True, **options: Any) -> Agent[..., Any]:
    """An agent with this memory."""

    @agent(client=scene.client, memory=memory, **options)
    async def say(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    return say


def memory_of(scene: ToolScene, **bounds: Any) -> ConversationMemory:
    return ConversationMemory(scene.settings, **bounds)


def said(scene: ToolScene) -> list[tuple[str, str]]:
    """What stands in the conversation of the test's word."""
    return [(turn.role, turn.content) for turn in memory_of(scene).turns(scene.word)]


def sent(scene: ToolScene) -> list[tuple[str, str]]:
    """The messages of the last request that is no summary's."""
    asked = [body for body in scene.bodies() if body["model"] != "summer"]
    return [(turn["role"], turn["content"]) for turn in asked[-1]["messages"]]


async def test_what_was_said_stands_before_the_prompt(scene: ToolScene):
    """The second call shows the model the first; both are kept, in order."""
    scene.model_says("Hello Ada.", "You are Ada.")
    say = talking(scene)
    first, second = f"I am Ada. {scene.word}", f"Who am I? {scene.word}"
    assert await say(first, conversation_id=scene.word) == "Hello Ada."
    assert await say(second, conversation_id=scene.word) == "You are Ada."
    assert sent(scene) == [("user", first), ("assistant", "Hello Ada."), ("user", second)]
    assert said(scene) == [*sent(scene), ("assistant", "You are Ada.")]


async def test_another_tenants_conversation_is_not_found(scene: ToolScene):
    """The same id with another tenant is a conversation of its own: nothing of the first one is told."""
    scene.model_says("Noted.", "I do not know.")
    other = LLMClient(scene.settings, tenant=f"{scene.settings.tenant}-b")
    await talking(scene)(f"The code is 1234. {scene.word}", conversation_id=scene.word)

    @agent(client=other, memory=True)
    async def spy(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    question = f"What is the code? {scene.word}"
    assert await spy(question, conversation_id=scene.word) == "I do not know."
    assert sent(scene) == [("user", question)]
    assert len(said(scene)) == 2


async def test_conversations_are_apart(scene: ToolScene):
    """Another id, another conversation."""
    scene.model_says("one", "two")
    say = talking(scene)
    await say(f"a {scene.word}", conversation_id=scene.word)
    await say(f"b {scene.word}", conversation_id=f"{scene.word}-b")
    assert sent(scene) == [("user", f"b {scene.word}")]


def test_it_is_remembered_when_nobody_waits(scene: ToolScene):
    """The worker appends: the caller may be gone."""
    scene.model_says("Yes.")
    talking(scene).submit(scene.word, conversation_id=scene.word)
    until(lambda: said(scene) == [("user", scene.word), ("assistant", "Yes.")], what="the turns")


async def test_a_failed_call_is_not_remembered(scene: ToolScene):
    """The next one begins where the last good one ended."""
    scene.model_says("never said", status=400)
    with pytest.raises(RequestRefused):
        await talking(scene)(scene.word, conversation_id=scene.word)
    assert said(scene) == []


async def test_a_task_that_is_tried_again_is_remembered_once(scene: ToolScene):
    """Also where the next try comes after a wait in the queue."""
    scene.model_says("Yes.")
    scene.stub.script(when=scene.word, times=1, status=429, headers={"Retry-After": "2"})
    completion = await talking(scene).submit(scene.word, conversation_id=scene.word)
    assert completion.attempts == 2
    assert said(scene) == [("user", scene.word), ("assistant", "Yes.")]


async def test_the_memory_bounds_what_is_told(scene: ToolScene):
    """With two turns kept, the model sees the last exchange alone."""
    scene.model_says("one", "two", "three")
    say = talking(scene, memory_of(scene, max_turns=2))
    for text in "abc":
        await say(f"{text} {scene.word}", conversation_id=scene.word)
    assert sent(scene) == [("user", f"b {scene.word}"), ("assistant", "two"), ("user", f"c {scene.word}")]
    assert [content for _, content in said(scene)] == [f"c {scene.word}", "three"]


async def test_a_history_begins_with_the_user(scene: ToolScene):
    """An answer whose question fell out is not told: some providers take no such beginning."""
    scene.model_says("one", "two", "three")
    say = talking(scene, memory_of(scene, max_turns=3))
    for text in "abc":
        await say(f"{text} {scene.word}", conversation_id=scene.word)
    assert sent(scene) == [("user", f"b {scene.word}"), ("assistant", "two"), ("user", f"c {scene.word}")]


async def test_what_falls_out_is_summed_up(scene: ToolScene):
    """By the model that the memory names, after the answer; the summary stands before the turns."""
    say = talking(scene, memory := memory_of(scene, max_turns=4, summarise="openai/summer"))
    scene.model_says("one", "two", "three")
    scene.stub.script(when='"summer"', text="Ada said a.")
    for text in "abc":
        await say(f"{text} {scene.word}", conversation_id=scene.word)
    until(lambda: memory.summary(scene.word) == "Ada said a.", what="the summary")
    (order,) = [body for body in scene.bodies() if body["model"] == "summer"]
    assert f"user: a {scene.word}\n\nassistant: one" in order["messages"][-1]["content"]
    scene.model_says("four")
    await say(f"d {scene.word}", conversation_id=scene.word)
    told = sent(scene)
    assert told[0] == ("system", "Summary of the conversation so far:\nAda said a.")
    assert told[1][0] == "user"


async def test_a_summary_that_fails_harms_nobody(scene: ToolScene):
    """What waits for it is summed up after the next answer."""
    say = talking(scene, memory := memory_of(scene, max_turns=4, summarise="openai/summer"))
    scene.model_says("one", "two", "three")
    scene.stub.script(when='"summer"', status=400)
    for text in "abc":
        assert await say(f"{text} {scene.word}", conversation_id=scene.word)
    until(lambda: any(body["model"] == "summer" for body in scene.bodies()), what="the failed summary")
    scene.stub.script(when='"summer"', text="Better now.")
    scene.model_says("four")
    await say(f"d {scene.word}", conversation_id=scene.word)
    until(lambda: memory.summary(scene.word) == "Better now.", what="the summary")
    orders = [body["messages"][-1]["content"] for body in scene.bodies() if body["model"] == "summer"]
    assert f"a {scene.word}" in orders[-1]


async def test_exchanges_at_the_same_time_stay_whole(scene: ToolScene):
    """Each question stands next to its answer, whichever comes first."""
    scene.stub.script(when=scene.word, echoes=True, delay_s=0.2)
    say = talking(scene)
    await asyncio.gather(*(say(f"{n} {scene.word}", conversation_id=scene.word) for n in range(8)))
    turns = said(scene)
    assert len(turns) == 16
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        assert (question[0], answer[0]) == ("user", "assistant")
        assert question[1] == answer[1]


async def test_equal_histories_share_an_answer(scene: ToolScene):
    """Whose conversation it is does not matter to the model: what is remembered serves both, and both keep it."""
    scene.model_says("Hello.")
    say = talking(scene)
    first = await say.submit(f"Hi {scene.word}", conversation_id=scene.word)
    second = await say.submit(f"Hi {scene.word}", conversation_id=f"{scene.word}-b")
    assert (first.cached, second.cached, len(scene.bodies())) == (False, True, 1)
    assert len(memory_of(scene).turns(f"{scene.word}-b")) == 2


async def test_a_stream_is_remembered(scene: ToolScene):
    """Text that is read while it is written is appended as any other."""
    scene.model_says("Piece by piece.")

    @agent(client=scene.client, memory=True, stream=True)
    async def say(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    assert "".join([piece async for piece in say(scene.word, conversation_id=scene.word)]) == "Piece by piece."
    assert said(scene) == [("user", scene.word), ("assistant", "Piece by piece.")]


def test_signatures_are_a_part_of_the_conversation(scene: ToolScene):
    """Whole ones, and a partial of a chain."""
    scene.model_says(f"one {scene.word}", "two")
    say = talking(scene)
    chain = say.s(f"a {scene.word}", conversation_id=scene.word) | say.s(conversation_id=scene.word)
    assert Completion.model_validate(chain.apply_async().get(timeout=30)).text == "two"
    assert [content for _, content in said(scene)] == [f"a {scene.word}", *[f"one {scene.word}"] * 2, "two"]


async def test_tools_leave_no_turns(scene: ToolScene):
    """Question and answer are remembered; what was asked of tools is not."""
    scene.model_says([call("weather", {"city": scene.word})], "Sunny.")
    assert await talking(scene, tools=[toolbox.weather])(scene.word, conversation_id=scene.word) == "Sunny."
    assert said(scene) == [("user", scene.word), ("assistant", "Sunny.")]


class City(BaseModel):
    name: str


async def test_an_answer_that_is_asked_for_again_is_remembered_once(scene: ToolScene):
    """The conversation keeps the first answer; what was wrong with it is between us and the model."""
    scene.model_says("no JSON", json.dumps({"name": scene.word}))

    @agent(client=scene.client, memory=True)
    async def find(text: str) -> City:
        """{{ text }}"""
        raise AssertionError

    assert await find(scene.word, conversation_id=scene.word) == City(name=scene.word)
    assert said(scene) == [("user", scene.word), ("assistant", "no JSON")]


@pytest.mark.parametrize("conversation_id", [None, "", 7, "x" * 513, "\ud800"])
async def test_a_call_names_its_conversation(scene: ToolScene, conversation_id: Any):
    """What cannot be an id is refused, and nothing sent."""
    with pytest.raises(InvalidRequest, match="conversation"):
        await talking(scene)(scene.word, conversation_id=conversation_id)
    with pytest.raises(InvalidRequest, match="conversation_id"):
        await talking(scene)(scene.word)
    assert scene.bodies() == []


@pytest.mark.parametrize(
    "another",
    [lambda scene: {"tenant": "somebody"}, lambda scene: {"redis_url": "redis://127.0.0.1:1/9"}],
)
def test_a_memory_elsewhere_is_refused(scene: ToolScene, another: Callable[[ToolScene], dict[str, Any]]):
    """Workers write to their own Redis, under the request's tenant: another memory would stay empty."""
    memory = ConversationMemory(scene.settings, **another(scene))
    with pytest.raises(ConfigurationError, match=r"ConversationMemory\(client.settings\)"):
        talking(scene, memory).submit(scene.word, conversation_id=scene.word)


def test_a_parameter_of_that_name_is_refused(scene: ToolScene):
    """At decoration: the memory needs the keyword."""
    with pytest.raises(ConfigurationError, match="conversation_id"):

        @agent(client=scene.client, memory=True)
        async def say(conversation_id: str) -> str:
            """{{ conversation_id }}"""
            raise AssertionError
