"""Agents with tools and a memory in this process: no Redis, no worker, the same promise."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from kagura_tasks import Agent, ConversationMemory, LLMClient, Settings, agent
from kagura_tasks.errors import TaskCancelled, ToolNotAllowed
from kagura_tasks.schemas import ToolSpec, ToolUse
from tests.support import toolbox
from tests.support.lanes import MARKS
from tests.support.llm import StubServer
from tests.support.tool_scene import ToolScene, call

pytestmark = MARKS


@pytest.fixture
def scene(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> ToolScene:
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("OPENAI_API_BASE", stub.base_url)
    return ToolScene(Settings(execution="inline", redis_url="redis://127.0.0.1:1/0"), stub)


def talking(scene: ToolScene, **options: Any) -> Agent[..., Any]:
    @agent(client=scene.client, **options)
    async def say(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    return say


async def test_tools_run_here(scene: ToolScene):
    """No setting allows them: whose process it is says which tools there are."""
    scene.model_says([call("shout", {"word": scene.word})], "Loud.")
    completion = await talking(scene, tools=[toolbox.shout]).submit(scene.word)
    assert (completion.text, completion.attempts) == ("Loud.", 2)
    assert scene.told() == [scene.word.upper()]


async def test_a_tool_that_fails_harms_nobody(scene: ToolScene):
    """It raises, or tries to end the program: this one goes on."""
    calls = [call(one.__name__, {"word": "x"}) for one in (toolbox.broken, toolbox.leaving, toolbox.leaving_the_loop)]
    scene.model_says(calls, "Sorry.")
    say = talking(scene, tools=[toolbox.broken, toolbox.leaving, toolbox.leaving_the_loop])
    assert await say(scene.word) == "Sorry."
    assert [told.split()[-1] for told in scene.told()] == ['RuntimeError"}', 'SystemExit"}', 'SystemExit"}']


async def test_conversations_live_here(scene: ToolScene):
    """The memory of the client's settings sees what the agents said, and tells the next call of it."""
    scene.model_says("Hello Ada.", "You are Ada.")
    say, memory = talking(scene, memory=True), ConversationMemory(scene.settings)
    await say(f"I am Ada. {scene.word}", conversation_id=scene.word)
    await say(f"Who am I? {scene.word}", conversation_id=scene.word)
    contents = [turn.content for turn in memory.turns(scene.word)]
    assert contents[1::2] == ["Hello Ada.", "You are Ada."]
    assert [one["content"] for one in scene.bodies()[-1]["messages"]] == contents[:3]
    assert ConversationMemory(scene.settings, tenant="other").turns(scene.word) == []
    memory.clear(scene.word)


async def test_a_cancelled_exchange_is_not_remembered(scene: ToolScene):
    """Neither is one that fails."""
    scene.stub.script(when=scene.word, held=True)
    memory = ConversationMemory(scene.settings)
    result = talking(scene, memory=memory).submit(scene.word, conversation_id=scene.word)
    result.cancel()
    with pytest.raises(TaskCancelled):
        await result
    assert memory.turns(scene.word) == []


async def test_a_function_that_is_no_tool_is_not_run(scene: ToolScene):
    """A request can be made by hand; it names nothing but marked functions."""
    spec = ToolSpec(place="tests.support.toolbox:unmarked", function={"name": "unmarked"})
    request = scene.client.request(uuid4().hex).model_copy(update={"tools": ToolUse(tools=(spec,))})
    with pytest.raises(ToolNotAllowed, match="marked"):
        await scene.client.acomplete(request)


async def test_what_falls_out_is_summed_up_on_request(scene: ToolScene):
    """Of turns that were appended by hand, by whoever asks for it."""
    memory = ConversationMemory(scene.settings, max_turns=2, summarise="openai/summer")
    for text in "abc":
        memory.append(scene.word, "user", f"{text} {scene.word}")
    scene.model_says("a and b")
    client = LLMClient(scene.settings)
    assert await memory.asummarise(scene.word, client.acomplete)
    assert memory.summary(scene.word) == "a and b"
    assert not await memory.asummarise(scene.word, client.acomplete)
