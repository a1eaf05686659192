"""Agents with tools: workers run marked functions for the model, and tell it what came of them."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from celery import group

from kagura_tasks import Completion, agent, tool
from kagura_tasks.errors import ConfigurationError, PriceUnknown, TaskCancelled, ToolNotAllowed, ToolRoundsExceeded
from kagura_tasks.schemas import ToolSpec, ToolUse
from kagura_tasks.streaming.events import Reset
from tests.support import toolbox
from tests.support.tool_scene import ToolScene, call
from tests.support.wait import until


def asking(scene: ToolScene, *tools, **options):
    """An agent with these tools."""

    @agent(client=scene.client, tools=tools, **options)
    async def ask(question: str) -> str:
        """{{ question }}"""
        raise AssertionError

    return ask


async def test_a_tool_is_run_and_its_result_told(scene: ToolScene):
    """The model sees name, docstring and schema, asks, is told, and answers; usage and attempts are those of both."""
    scene.model_says([call("weather", {"city": scene.word})], "Take a hat.")
    ask = asking(scene, toolbox.weather)
    completion = await ask.submit(f"How is {scene.word}?")
    assert (completion.text, completion.tool_calls) == ("Take a hat.", ())
    assert (completion.attempts, completion.usage.prompt_tokens) == (2, 14)
    first, second = scene.bodies()
    (offered,) = first["tools"]
    assert offered["function"]["name"] == "weather"
    assert offered["function"]["description"] == "Tell the weather of a city."
    assert offered["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name in English"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    asked, told = second["messages"][1:]
    assert asked["tool_calls"] == [call("weather", {"city": scene.word})]
    assert told == {"role": "tool", "tool_call_id": "call_a", "content": f"It is sunny in {scene.word}."}


async def test_several_calls_in_one_round(scene: ToolScene):
    """They are answered in the model's order; async functions, models as parameters and JSON results work."""
    place = {"city": scene.word, "floor": 2}
    calls = [call("weather", {"city": scene.word, "days": 3}, "a"), call("inventory", {"place": place}, "b")]
    scene.model_says(calls, "Fine.")
    assert await asking(scene, toolbox.weather, toolbox.inventory)(scene.word) == "Fine."
    sunny, stock = scene.told()
    assert sunny == f"It is sunny in {scene.word}."
    assert json.loads(stock) == {**place, "items": [1, 2]}


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        (toolbox.broken, '{"error": "broken failed with RuntimeError"}'),
        (toolbox.leaving, '{"error": "leaving failed with SystemExit"}'),
        (toolbox.leaving_the_loop, '{"error": "leaving_the_loop failed with SystemExit"}'),
        (toolbox.hanging, '{"error": "hanging did not answer within 0.5 s"}'),
        (toolbox.hanging_thread, '{"error": "hanging_thread did not answer within 0.5 s"}'),
        (toolbox.stubborn, '{"error": "stubborn did not answer within 0.5 s"}'),
        (toolbox.cancels_itself, '{"error": "cancels_itself failed with CancelledError"}'),
        (toolbox.stops, '{"error": "stops failed with StopIteration"}'),
        (toolbox.unspeakable, '{"error": "unspeakable failed with PydanticSerializationError"}'),
    ],
)
async def test_a_tool_that_fails_harms_nobody(scene: ToolScene, tool, told: str):
    """It raises, hangs, or tries to end the program: the model is told so, without the error's text, and answers."""
    scene.model_says([call(tool.__name__, {"word": scene.word})], "Sorry.")
    assert await asking(scene, tool)(scene.word) == "Sorry."
    assert scene.told() == [told]


async def test_a_tool_can_tell_the_model_what_is_wrong(scene: ToolScene):
    """A ToolError's text is for the model."""
    scene.model_says([call("picky", {"word": scene.word})], "Sorry.")
    assert await asking(scene, toolbox.picky)(scene.word) == "Sorry."
    assert json.loads(scene.told()[0]) == {"error": f"say something else than {scene.word}"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (call("wether", {}), "there is no tool 'wether'; there are: weather"),
        (call("unmarked", {"word": "x"}), "there is no tool 'unmarked'"),
        (call("tests.support.toolbox:broken", {"word": "x"}), "there is no tool"),
        (call("weather", {}), "city: Field required"),
        (call("weather", {"city": "x", "days": "many"}), "days: Input should be a valid integer"),
        (call("weather", {"city": "x", "more": 1}), "more: Extra inputs are not permitted"),
        (call("weather", '{"city": "Kyo'), "Invalid JSON"),
        (call("weather", "[]"), "Input should be an object"),
        (call("weather", ""), "city: Field required"),
    ],
)
async def test_what_the_model_made_up_is_not_run(scene: ToolScene, asked, words: str):
    """A name that is no tool of the agent, arguments that do not fit: the model is told, and may try again."""
    scene.model_says([asked], [call("weather", {"city": scene.word})], "Sunny.")
    assert await asking(scene, toolbox.weather)(scene.word) == "Sunny."
    wrong, right = scene.told()
    assert words in json.loads(wrong)["error"]
    assert right == f"It is sunny in {scene.word}."


async def test_a_long_result_is_cut(scene: ToolScene):
    """The model is told how much there would have been."""
    scene.model_says([call("long", {"word": scene.word})], "Too long.")
    await asking(scene, toolbox.long)(scene.word)
    (told,) = scene.told()
    assert len(told) < 101_000
    assert told.endswith("[cut: these are the first 100,000 of 200,032 bytes]")


async def test_a_model_that_never_answers_is_stopped(scene: ToolScene):
    """After `max_rounds` calls of the model; what it asks for in the last one is not run."""
    rounds = [[call("weather", {"city": scene.word}, f"c{number}")] for number in range(3)]
    scene.model_says(*rounds, "never said")
    with pytest.raises(ToolRoundsExceeded, match="3 rounds") as caught:
        await asking(scene, toolbox.weather, max_rounds=3)(scene.word)
    assert caught.value.rounds == 3
    assert len(scene.bodies()) == 3
    assert len(scene.done()) == 2


async def test_more_calls_than_one_round_takes(scene: ToolScene):
    """The model is told to ask for fewer."""
    scene.model_says([call("weather", {"city": scene.word}, f"c{n}") for n in range(40)], "Fine.")
    await asking(scene, toolbox.weather)(scene.word)
    assert len(scene.done()) == 32
    assert [json.loads(told)["error"][:9] for told in scene.told()[32:]] == ["not done:"] * 8


async def test_an_answer_that_tools_were_used_for_is_not_remembered(scene: ToolScene):
    """A tool's effect is wanted each time."""
    for _ in range(2):
        scene.model_says([call("weather", {"city": scene.word})], "Fine.")
    ask = asking(scene, toolbox.weather)
    answers = [await ask.submit(scene.word) for _ in range(2)]
    assert [one.cached for one in answers] == [False, False]
    assert len(scene.done()) == 2


async def test_an_answer_of_pure_tools_is_remembered(scene: ToolScene):
    """As the whole exchange; another set of tools is another request."""
    scene.model_says([call("weather", {"city": scene.word})], "Fine.", "Other.")
    ask = asking(scene, toolbox.weather, pure_tools=True)
    answers = [await ask.submit(scene.word) for _ in range(2)]
    assert [(one.text, one.cached) for one in answers] == [("Fine.", False), ("Fine.", True)]
    other = asking(scene, toolbox.weather, toolbox.picky, pure_tools=True)
    assert await other(scene.word) == "Other."
    assert len(scene.done()) == 1


def test_signatures_run_tools(scene: ToolScene):
    """In a group, and as a partial of a chain."""
    ask = asking(scene, toolbox.weather)
    asked = [call("weather", {"city": scene.word})]
    scene.model_says(asked, "Fine.", f"And {scene.word}?", asked, "Fine, too.")
    (found,) = group([ask.s(scene.word)]).apply_async().get(timeout=30)
    assert Completion.model_validate(found).text == "Fine."
    found = (asking(scene).s(f"Once more, {scene.word}") | ask.s()).apply_async().get(timeout=30)
    assert Completion.model_validate(found).text == "Fine, too."
    assert len(scene.done()) == 2


def test_maps_run_tools(scene: ToolScene):
    """But not under a budget: nobody knows what an exchange may cost."""
    request = asking(scene, toolbox.weather).request(scene.word)
    (refused,) = scene.client.map([request], budget_usd=1.0).get(timeout_s=30)
    assert isinstance(refused, PriceUnknown)
    assert scene.bodies() == []
    scene.model_says([call("weather", {"city": scene.word})], "Fine.")
    (answer,) = scene.client.map([request]).get(timeout_s=30)
    assert isinstance(answer, Completion)
    assert (answer.text, len(scene.done())) == ("Fine.", 1)


async def test_a_stream_tells_what_text_is_void(scene: ToolScene):
    """What the model writes beside a call is followed by a reset; the text after the last one is the answer."""
    scene.model_says("Fine, take a hat.")
    scene.stub.script(
        when=scene.word,
        times=1,
        text="Let me see.",
        finish_reason="tool_calls",
        calls=[call("weather", {"city": scene.word})],
    )
    stream = asking(scene, toolbox.weather).stream(scene.word)
    text = ""
    async for event in stream.events():
        text = "" if isinstance(event, Reset) else text + getattr(event, "text", "")
    assert text == "Fine, take a hat."
    assert (await stream.acompletion()).text == text
    assert scene.told() == [f"It is sunny in {scene.word}."]


async def test_cancelling_ends_a_tool(scene: ToolScene):
    """The function's coroutine is cancelled, and the model is not asked again."""
    scene.model_says([call("slow", {"word": scene.word})], "never said")
    result = asking(scene, toolbox.slow).submit(scene.word)
    until(lambda: scene.done() == ["slow"], what="the running tool")
    result.cancel()
    with pytest.raises(TaskCancelled):
        await result
    until(lambda: scene.done() == ["slow", "cancelled"], what="the cancelled tool")
    assert len(scene.bodies()) == 1


async def test_a_call_has_a_name_of_its_own(scene: ToolScene):
    """A tool can record under it what must not happen twice, and knows whose data it may read."""
    scene.model_says([call("own_id", {"word": scene.word}, n) for n in "ab"], "Fine.")
    result = asking(scene, toolbox.own_id).submit(scene.word)
    await result
    assert scene.told() == [f"{scene.settings.tenant} {result.id}.1.{number}" for number in range(2)]


class TestWhatAWorkerRuns:
    """A message can name nothing but marked functions of allowed modules."""

    @pytest.mark.parametrize(
        ("place", "words"),
        [
            ("os:system", "KAGURA_TASKS_TOOL_MODULES"),
            ("tests.support.toolbox_two:weather", "KAGURA_TASKS_TOOL_MODULES"),
            ("tests.support:toolbox", "KAGURA_TASKS_TOOL_MODULES"),
            ("tests.support.toolbox:unmarked", "marked"),
            ("tests.support.toolbox:sys.exit", "marked"),
            ("tests.support.toolbox:os.system", "marked"),
            ("tests.support.toolbox:no_such", "marked"),
            ("tests.support.toolbox.under:weather", "cannot be imported"),
        ],
    )
    async def test_nothing_else_is_run(self, scene: ToolScene, place: str, words: str):
        """The task fails before the model is asked; the error says what to do."""
        about = {"name": "weather", "description": "?", "parameters": {"type": "object", "properties": {}}}
        use = ToolUse(tools=(ToolSpec(place=place, function=about),))
        request = scene.client.request(scene.word).model_copy(update={"tools": use})
        with pytest.raises(ToolNotAllowed, match=words) as caught:
            await scene.client.acomplete(request)
        assert caught.value.place == place
        assert scene.bodies() == []

    def test_what_is_in_the_program_itself_is_not_sent(self, scene: ToolScene):
        """No worker could find it: the error says so where it is called."""

        def clap() -> str:
            """Clap."""
            return ""

        clap.__module__, clap.__qualname__ = "__main__", "clap"
        with pytest.raises(ConfigurationError, match="clap is in the program itself"):
            asking(scene, tool(clap)).submit(scene.word)

    async def test_a_worker_runs_no_tools_by_itself(self, worker, llm, client):
        """Without the setting, each function is refused."""

        @agent(client=client, tools=[toolbox.weather])
        async def ask(question: str) -> str:
            """{{ question }}"""
            raise AssertionError

        with pytest.raises(ToolNotAllowed, match="KAGURA_TASKS_TOOL_MODULES"):
            await ask(word := uuid4().hex)
        assert llm.count(word) == 0
