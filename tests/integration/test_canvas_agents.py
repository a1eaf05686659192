"""Agents in canvas: whole ones are fixed, and those with an argument missing take what came before."""

from __future__ import annotations

import json

import pytest
from celery import chain, chord
from pydantic import BaseModel

from kagura_tasks import LLMClient, agent
from kagura_tasks.errors import PromptError
from tests.support.canvas import TIMEOUT_S, Canvas
from tests.support.llm import StubServer


class City(BaseModel):
    name: str
    people: int


def test_agents_in_a_chain_hand_on_their_text(canvas: Canvas, stub: StubServer):
    """What came before is put in front of the positional arguments, as Celery's partials have it."""

    @agent(client=canvas.client)
    async def write(topic: str) -> str:
        """Write about {{ topic }}."""
        raise AssertionError

    @agent(client=canvas.client)
    async def translate(text: str, language: str, tone: str = "plain") -> str:
        """{{ tone }} {{ language }}: {{ text }}"""
        raise AssertionError

    stub.script(when=f"Write about {canvas.word}", text=f"a text {canvas.word}")
    for partial in (translate.s("French"), translate.s(language="French"), translate.s("French", tone="plain")):
        chain(write.s(canvas.word), partial)().get(timeout=TIMEOUT_S)
    assert canvas.asked()[1:] == ["plain French: a text"]  # equal prompts, one call
    chain(write.s(canvas.word), translate.s(text=canvas.word))().get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == f"plain a text {canvas.word}:"


def test_a_whole_agent_ignores_what_came_before(canvas: Canvas):
    """With all arguments given it is as fixed as a completion."""

    @agent(client=canvas.client)
    async def ask(text: str) -> str:
        """Ask {{ text }}"""
        raise AssertionError

    chain(canvas.complete("first"), ask.s(canvas.word))().get(timeout=TIMEOUT_S)
    assert canvas.asked() == ["first", "Ask"]


def test_an_agents_list_gets_the_texts_of_a_chord(canvas: Canvas):
    """In a chord's body a list parameter is the list of the texts that succeeded."""

    @agent(client=canvas.client)
    async def combine(notes: list[str], title: str) -> str:
        """{{ title }}: {{ notes | length }} of {{ notes | join(", ") }}"""
        raise AssertionError

    header = [canvas.complete(name, on_error="collect") for name in ("a", "b")] + [canvas.refused(on_error="collect")]
    chord(header, combine.s(title=f"Notes {canvas.word}"))().get(timeout=TIMEOUT_S)
    assert canvas.asked()[-1] == f"Notes {canvas.word}: 2 of a, b"


def test_a_model_between_agents_is_an_object(canvas: Canvas, stub: StubServer):
    """An answer that is a JSON object reaches a parameter that is no str as such; response_format travels along."""

    @agent(client=canvas.client)
    async def describe(city: str) -> City:
        """Describe {{ city }}"""
        raise AssertionError

    @agent(client=canvas.client)
    async def praise(city: City) -> City:
        """Praise {{ city.name }} and its {{ city.people }} {{ city.people + 1 }}"""
        raise AssertionError

    stub.script(when=f"Describe {canvas.word}", text=json.dumps({"name": canvas.word, "people": 7}))
    chain(describe.s(canvas.word), praise.s())().get(timeout=TIMEOUT_S)
    last = stub.ledger()["requests"][-1]["body"]
    assert last["messages"][-1]["content"] == f"Praise {canvas.word} and its 7 8"
    assert last["response_format"]["json_schema"]["name"] == "City"


def test_a_partial_that_cannot_work_is_said_where_it_is_made(client: LLMClient):
    """Too much missing, too much given, an argument that cannot travel."""

    @agent(client=client)
    async def join(one: str, two: object, three: str) -> str:
        """{{ one }} {{ two }} {{ three }}"""
        raise AssertionError

    with pytest.raises(TypeError, match="three"):
        join.s("two")
    with pytest.raises(TypeError, match="too many"):
        join.s("one", "two", "three", "four")
    with pytest.raises(TypeError, match="unexpected keyword"):
        join.s("one", "two", four="four")
    with pytest.raises(PromptError, match="argument two is of type"):
        join.s(object(), "three")
