"""What makes a function a tool, what the model is told of it, and where a worker finds it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from kagura_tasks import LLMClient, ToolContext, agent, tool, tool_context
from kagura_tasks.errors import ConfigurationError, ToolError, ToolNotAllowed
from kagura_tasks.settings import Settings
from kagura_tasks.tools.arguments import Arguments, ArgumentsInvalid
from kagura_tasks.tools.call import answering
from kagura_tasks.tools.marking import allowed, marked_here, tool_of
from tests.support import toolbox


class Unit(enum.Enum):
    KELVIN = "K"
    CELSIUS = "C"


class Person(BaseModel):
    title: str
    born: date


def wide(
    title: str,
    json: int,
    schema: Literal["a", "b"],
    people: list[Person],
    *,
    _hidden: bool = False,
    unit: Unit = Unit.CELSIUS,
    note: str | None = None,
) -> str:
    """Take names that a model's own fields have, and types of all kinds."""
    return ""


def untyped(city) -> str:  # pyright: ignore[reportMissingParameterType]
    """Take something."""
    return str(city)


def starred(*cities: str) -> str:
    """Take some."""
    return ""


def with_options(**cities: str) -> str:
    """Take some."""
    return ""


def positional(city: str, /) -> str:
    """Take one."""
    return city


def opaque(value: Callable[[], int]) -> str:
    """Take a function."""
    return str(value)


def unresolvable(value: "NoSuchType") -> str:  # noqa: F821, UP037  # pyright: ignore[reportUndefinedVariable]
    """Take nobody knows what."""
    return ""


def undocumented(city: str) -> str:
    return city


class Callable_:
    """A method is not found by its module."""

    def method(self, city: str) -> str:
        """Take one."""
        return city


def local() -> Callable[[str], str]:
    def inner(city: str) -> str:
        """Take one."""
        return city

    return inner


def 天気(city: str) -> str:
    """Take one."""
    return city


def test_a_tool_stays_the_function_that_it_is():
    """It can be called, tested and imported as any other."""
    assert toolbox.shout("hello") == "HELLO"
    assert tool_of(toolbox.shout).place == "tests.support.toolbox:shout"


def test_any_names_and_types_become_a_schema():
    """Names that pydantic has itself, models, enums, choices and defaults; and back as Python's values."""
    arguments = Arguments(wide)
    schema = arguments.schema
    properties: Any = schema["properties"]
    assert list(properties) == ["title", "json", "schema", "people", "_hidden", "unit", "note"]
    assert schema["required"] == ["title", "json", "schema", "people"]
    assert properties["title"] == {"type": "string"}
    assert properties["schema"] == {"enum": ["a", "b"], "type": "string"}
    assert schema["$defs"]["Person"]["properties"] == {
        "title": {"type": "string"},
        "born": {"format": "date", "type": "string"},
    }
    text = '{"title": "t", "json": 1, "schema": "a", "people": [{"title": "Dr", "born": "1815-12-10"}], "unit": "K"}'
    assert arguments.read(text) == {
        "title": "t",
        "json": 1,
        "schema": "a",
        "people": [Person(title="Dr", born=date(1815, 12, 10))],
        "_hidden": False,
        "unit": Unit.KELVIN,
        "note": None,
    }


def test_arguments_that_do_not_fit_are_explained_without_their_values():
    """Where, and what would fit."""
    with pytest.raises(ArgumentsInvalid) as caught:
        Arguments(wide).read('{"title": "hunter2", "json": "hunter2", "schema": "c", "people": []}')
    assert "json: Input should be a valid integer" in str(caught.value)
    assert "schema: Input should be 'a' or 'b'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped, "without a type: city"),
        (starred, "has to be named"),
        (with_options, "has to be named"),
        (positional, "has to be named"),
        (opaque, "whose type no JSON fits"),
        (unresolvable, "whose type no JSON fits"),
        (undocumented, "no docstring"),
        (local(), "top of a module"),
        (Callable_().method, "top of a module"),
        (Callable_.method, "top of a module"),
        (lambda city: city, "top of a module"),
        (partial(positional, "x"), "top of a module"),
        (print, "top of a module"),
        (天気, "plain name"),
        ("weather", "top of a module"),
    ],
)
def test_what_cannot_be_a_tool_is_an_error_at_decoration(function: Any, words: str):
    """It names the function, and what it lacks."""
    with pytest.raises(ConfigurationError, match=words):
        tool(function)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_timeout_is_more_than_nothing(timeout_s: float):
    with pytest.raises(ConfigurationError, match="timeout_s"):
        tool(timeout_s=timeout_s)(positional)


class TestWhereToolsAreFound:
    """Modules that are named, and what is under them."""

    @pytest.mark.parametrize("modules", [["tests.support.toolbox"], ["tests.support"], ["other", "tests"]])
    def test_a_module_or_one_under_it(self, modules: list[str]):
        assert allowed("tests.support.toolbox:shout", modules).function is toolbox.shout

    @pytest.mark.parametrize(
        "modules", [[], ["tests.support.tool"], ["tests.support.toolbox.shout"], ["support.toolbox"], ["*"], [""]]
    )
    def test_no_other(self, modules: list[str]):
        """A part of a name is no name."""
        with pytest.raises(ToolNotAllowed, match="KAGURA_TASKS_TOOL_MODULES"):
            allowed("tests.support.toolbox:shout", modules)

    @pytest.mark.parametrize("name", ["unmarked", "redis", "os.environ", "Place", "", "shout.__globals__", "no_such"])
    def test_nothing_that_is_not_marked(self, name: str):
        """Whatever the module holds besides."""
        with pytest.raises(ToolNotAllowed, match="marked"):
            allowed(f"tests.support.toolbox:{name}", ["tests.support.toolbox"])
        with pytest.raises(ToolNotAllowed, match="marked"):
            marked_here(f"tests.support.toolbox:{name}")

    def test_a_function_that_has_a_tools_name_is_none(self):
        """A mark belongs to the function, not to its name."""

        def impostor(word: str) -> str:
            return word

        impostor.__module__, impostor.__qualname__ = "tests.support.toolbox", "shout"
        with pytest.raises(ConfigurationError, match="mark the function"):
            tool_of(impostor)

    @pytest.mark.parametrize(
        ("text", "names"),
        [(None, ()), ("team.tools", ("team.tools",)), ("a, b.c,d", ("a", "b.c", "d"))],
    )
    def test_modules_are_named_with_commas_between_them(self, text: str | None, names: tuple[str, ...]):
        assert Settings(tool_modules=text).modules_of_tools == names

    @pytest.mark.parametrize("text", ["team/tools", "team.tools;os", "a,,b", ",", "*", "9a", "team tools"])
    def test_what_is_no_list_of_modules_is_refused(self, text: str):
        with pytest.raises(ConfigurationError, match="KAGURA_TASKS_TOOL_MODULES"):
            Settings(tool_modules=text)


class TestAgents:
    """What an agent can be given."""

    def test_functions_are_marked(self):
        """One that is not is an error at decoration."""
        with pytest.raises(ConfigurationError, match="unmarked is no tool: mark the function"):
            agent(tools=[toolbox.unmarked])(prompt)

    def test_two_of_one_name_are_refused(self):
        """The model could not tell them apart."""
        with pytest.raises(ConfigurationError, match="two tools have one name: shout"):
            agent(tools=[toolbox.shout, toolbox.shout])(prompt)

    @pytest.mark.parametrize("rounds", [0, 101])
    def test_rounds_are_bounded(self, rounds: int):
        with pytest.raises(ConfigurationError, match="max_rounds"):
            agent(tools=[toolbox.shout], max_rounds=rounds)(prompt)

    def test_plain_text_cannot_be_taken_back(self):
        """`stream=True` hands out text that the next round would make void."""
        with pytest.raises(ConfigurationError, match=r"stream\(\)"):
            agent(tools=[toolbox.shout], stream=True)(prompt)

    def test_descriptions_are_a_parameter_of_the_model(self):
        """Tools that the caller runs travel as they always did, and are not run."""
        described = {"type": "function", "function": {"name": "shout", "parameters": {}}}
        request = agent(client=LLMClient(Settings()), tools=[described])(prompt).request("hi")
        assert request.params["tools"] == [described]
        assert request.tools is None
        with pytest.raises(ConfigurationError, match="mixes"):
            agent(tools=[described, toolbox.shout])(prompt)

    def test_a_plain_agent_sends_what_it_always_sent(self):
        """No field more: a worker of an older version knows the request."""
        document = (
            agent(client=LLMClient(Settings()))(prompt).request("hi").model_dump(mode="json", exclude_defaults=True)
        )
        assert document.keys() <= {"model", "messages", "params"}

    def test_a_request_says_what_it_uses(self):
        """By name, with what the model is told."""
        client = LLMClient(Settings())
        ask = agent(client=client, tools=[toolbox.shout], max_rounds=3, memory=True)(prompt)
        request = ask.request("hi", conversation_id="c")
        assert request.tools is not None
        assert request.conversation is not None
        assert (request.tools.tools[0].place, request.tools.max_rounds) == ("tests.support.toolbox:shout", 3)
        assert request.conversation.id == "c"
        assert not request.is_cacheable


async def prompt(text: str) -> str:
    """{{ text }}"""
    raise AssertionError


def test_a_call_is_known_only_while_it_is_answered():
    """A function that is called as any other answers nobody."""
    assert tool_context() == ToolContext()
    with answering(context := ToolContext("task.1.0", "acme")):
        assert tool_context() == context
    assert tool_context() == ToolContext()


def test_what_a_tool_says_to_the_model_is_an_error_of_ours():
    """So that whoever calls the function elsewhere can catch it."""
    with pytest.raises(ToolError, match="something else"):
        toolbox.picky("x")
