"""An exchange that is delivered again: what was done is found, whatever was done after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import cast
from uuid import uuid4

import pytest

from kagura_tasks import Completion, CompletionRequest, ConversationMemory, Message, Settings
from kagura_tasks.errors import ProviderUnavailable, ToolRoundsExceeded
from kagura_tasks.schemas import ConversationBounds, ConversationUse, Json, ToolUse
from kagura_tasks.tools.marking import tool_of
from kagura_tasks.worker.exchanges import Exchanges
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.retries import Tries
from tests.support import toolbox


class Model:
    """Whoever is asked: says its lines in order, and keeps what it was asked."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self.asked: list[CompletionRequest] = []

    async def ask(self, job: Job) -> Completion:
        self.asked.append(job.request)
        return Completion(text=self._lines.pop(0), model=job.request.model, finish_reason="stop")


@pytest.fixture
def exchanges(settings: Settings) -> Exchanges:
    return Exchanges.of_worker(settings.override(tool_modules="tests.support"))


@pytest.fixture
def job(settings: Settings) -> Job:
    """A prompt in a conversation."""
    use = ConversationUse(id="talk", bounds=ConversationBounds())
    prompt = (Message(role="system", content="Be brief."), Message(role="user", content="Hello."))
    request = CompletionRequest(model="openai/m", messages=prompt, tenant=settings.tenant, conversation=use)
    return Job(request, uuid4().hex)


def in_conversation(exchanges: Exchanges, job: Job, model: Model) -> Awaitable[Completion]:
    assert job.request.conversation is not None
    return exchanges.in_conversation(job, job.request.conversation, model.ask, model.ask)


async def test_a_redelivered_task_finds_its_answer(exchanges: Exchanges, job: Job, settings: Settings):
    """Its worker died between appending the exchange and storing the result: nothing is paid for or said twice."""
    model = Model("Hi.", "never said")
    answers = [await in_conversation(exchanges, job, model) for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(model.asked) == 1
    assert [turn.content for turn in ConversationMemory(settings).turns("talk")] == ["Hello.", "Hi."]


async def test_two_workers_with_one_task_append_one_exchange(exchanges: Exchanges, job: Job, settings: Settings):
    """One was taken for dead. Each has an answer; the first to append it counts."""
    model = Model("Hi.", "Hello.")
    await asyncio.gather(*(in_conversation(exchanges, job, model) for _ in range(2)))
    assert len(ConversationMemory(settings).turns("talk")) == 2


async def test_a_second_try_is_told_what_the_first_was(exchanges: Exchanges, job: Job, settings: Settings):
    """Turns of others that came meanwhile stand behind it, not before."""
    memory = ConversationMemory(settings)
    await memory.aappend("talk", "user", "Earlier.")

    async def fails(job: Job) -> Completion:
        raise ProviderUnavailable("away", job.request.model)

    assert job.request.conversation is not None
    with pytest.raises(ProviderUnavailable):
        await exchanges.in_conversation(job, job.request.conversation, fails, fails)
    await memory.aappend("talk", "user", "Meanwhile.")
    await in_conversation(exchanges, job, model := Model("Hi."))
    assert [message.content for message in model.asked[0].messages] == ["Be brief.", "Earlier.", "Hello."]


async def test_an_answer_without_text_is_not_remembered(exchanges: Exchanges, job: Job, settings: Settings):
    """A question without an answer would be all that is told of it."""
    await in_conversation(exchanges, job, Model("  "))
    assert ConversationMemory(settings).turns("talk") == []


async def test_an_answer_too_large_for_a_turn_is_handed_out(job: Job, settings: Settings):
    """It is paid for; it is only not remembered."""
    exchanges = Exchanges.of_worker(settings.override(max_prompt_bytes=100))
    assert (await in_conversation(exchanges, job, Model("x" * 101))).text == "x" * 101
    assert ConversationMemory(settings).turns("talk") == []


ODD_CALLS: list[tuple[Json, str, str]] = [
    ({}, "unknown", "{}"),
    ({"id": 7}, "unknown", "{}"),
    ({"function": "weather"}, "unknown", "{}"),
    ({"function": {"name": None, "arguments": None}}, "unknown", "{}"),
    ({"function": {"name": "functions.天気", "arguments": '{"city": "Ky'}}, "functions___", "{}"),
    ({"function": {"name": "x" * 99, "arguments": "[" * 9999}}, "x" * 64, "{}"),
    ({"function": {"name": "sun", "arguments": {"city": "Kyoto"}}}, "sun", '{"city": "Kyoto"}'),
]


@pytest.mark.parametrize(("call", "name", "arguments"), ODD_CALLS)
async def test_a_call_that_is_none_is_told_so(exchanges: Exchanges, job: Job, call: Json, name: str, arguments: str):
    """Whatever a model writes in place of a call: it is told which tools there are, in a form that providers take."""
    use = ToolUse(tools=(tool_of(toolbox.weather).spec,))
    asked: list[CompletionRequest] = []

    async def ask(job: Job) -> Completion:
        asked.append(job.request)
        calls = (call,) if len(asked) == 1 else ()
        return Completion(text="" if calls else "Fine.", model="m", finish_reason="stop", tool_calls=calls)

    assert (await exchanges.with_tools(job, use, ask)).text == "Fine."
    said, told = asked[1].messages[-2:]
    function = {"name": name, "arguments": arguments}
    assert said.to_json()["tool_calls"] == [
        {"id": told.to_json()["tool_call_id"], "type": "function", "function": function}
    ]
    assert "there is no tool" in str(told.content)
    assert str(told.content).endswith('; there are: weather"}')


async def test_what_a_provider_adds_to_a_call_goes_back_to_it(exchanges: Exchanges, job: Job):
    """A signature of its thoughts, say: some refuse the next round without it."""
    use = ToolUse(tools=(tool_of(toolbox.shout).spec,))
    function: Json = {"name": "shout", "arguments": '{"word": "a"}'}
    call: Json = {"id": "a", "type": "function", "function": function, "index": 0, "signature": {"of": "thoughts"}}
    asked: list[CompletionRequest] = []

    async def ask(job: Job) -> Completion:
        asked.append(job.request)
        calls = (call,) if len(asked) == 1 else ()
        return Completion(text="Fine.", model="m", finish_reason="stop", tool_calls=calls)

    await exchanges.with_tools(job, use, ask)
    (back,) = cast("list[Json]", asked[1].messages[-2].to_json()["tool_calls"])
    assert back == {"id": "a", "type": "function", "function": function, "signature": {"of": "thoughts"}}


async def test_tries_count_for_the_round_that_they_were(exchanges: Exchanges, job: Job):
    """A task that is delivered a second time has asked for one round before, not for all that follow."""
    use = ToolUse(tools=(tool_of(toolbox.weather).spec,))
    asked: list[tuple[int, Tries | None]] = []

    async def ask(job: Job) -> Completion:
        asked.append((job.attempt, job.tries))
        calls = ({"id": "a", "function": {"name": "?", "arguments": ""}},) if len(asked) < 3 else ()
        return Completion(text="Fine.", model="m", finish_reason="stop", tool_calls=calls)

    tries = Tries(attempts=4, started_at=0.0)
    completion = await exchanges.with_tools(replace(job, attempt=2, tries=tries), use, ask)
    assert asked == [(2, tries), (1, None), (1, None)]
    assert completion.attempts == 3


async def test_a_task_that_ran_out_of_rounds_can_be_tried_again(exchanges: Exchanges, job: Job):
    """An item of a map, say: it begins anew, and does not find the rounds that led nowhere."""
    use = ToolUse(tools=(tool_of(toolbox.weather).spec,), max_rounds=2)
    lines = [({"id": "a", "function": {"name": "?", "arguments": ""}},)] * 2

    async def ask(job: Job) -> Completion:
        calls = lines.pop() if lines else ()
        return Completion(text="Fine.", model="m", finish_reason="stop", tool_calls=calls)

    with pytest.raises(ToolRoundsExceeded):
        await exchanges.with_tools(job, use, ask)
    assert (await exchanges.with_tools(job, use, ask)).text == "Fine."
