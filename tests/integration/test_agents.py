"""Agents: a docstring is the prompt, the return type the answer's form."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from celery import chord, group
from pydantic import BaseModel, field_validator

from kagura_tasks import LLMClient, LLMConfig, agent
from kagura_tasks.errors import ConfigurationError, OutputInvalid, PromptError, PromptTooLarge
from kagura_tasks.schemas import Completion
from tests.support.llm import LlmServer
from tests.support.workers import Worker


class City(BaseModel):
    name: str
    people: int

    @field_validator("people")
    @classmethod
    def positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("a city has no negative number of people")
        return value


async def test_the_docstring_is_the_prompt(client: LLMClient, worker: Worker, llm: LlmServer):
    """Arguments, defaults among them, are filled in; the body never runs; the options reach the provider."""
    word = uuid4().hex

    @agent(client=client, temperature=0.1)
    async def translate(text: str, language: str = "Japanese") -> str:
        """Translate into {{ language }}: {{ text }}"""
        raise AssertionError("the body of an agent never runs")

    llm.reply("konnichiwa")
    assert await translate(word) == "konnichiwa"
    (seen,) = llm.requests(word)
    assert seen.prompt == f"Translate into Japanese: {word}"
    assert seen.body["temperature"] == 0.1
    assert translate.submit(word).get().cached
    assert translate.__name__ == "translate"


async def test_a_model_is_asked_for_validated_and_returned(client: LLMClient, worker: Worker, llm: LlmServer):
    """A pydantic return type becomes the provider's structured output, and the answer an instance."""
    word = uuid4().hex

    @agent(client=client)
    async def describe(city: str) -> City:
        """Describe {{ city }}."""
        raise AssertionError

    llm.reply(json.dumps({"name": word, "people": 7}))
    assert await describe(word) == City(name=word, people=7)
    (seen,) = llm.requests(word)
    assert seen.body["response_format"]["json_schema"]["schema"]["required"] == ["name", "people"]
    assert describe.submit(word).get().parsed == City(name=word, people=7)


async def test_an_answer_that_does_not_fit_is_asked_for_again(client: LLMClient, worker: Worker, llm: LlmServer):
    """The model is told what was wrong, twice at most."""
    word = uuid4().hex

    @agent(client=client)
    async def describe(city: str) -> City:
        """Describe {{ city }}."""
        raise AssertionError

    llm.reply("no JSON", times=1)
    llm.reply(json.dumps({"name": word, "people": -1}), times=1)
    llm.reply(json.dumps({"name": word, "people": 7}), times=1)
    told = await describe(word)
    turns = [len(seen.body["messages"]) for seen in llm.requests()]
    assert (told.people, sorted(turns)) == (7, [1, 3, 5])
    assert "no negative number" in str(llm.requests()[-1].body["messages"][-1]["content"])


async def test_a_model_that_cannot_do_it_is_an_error(client: LLMClient, worker: Worker, llm: LlmServer):
    """After two further asks: OutputInvalid, which says where it did not fit and holds nothing of the answer."""
    word = uuid4().hex

    @agent(client=client)
    async def describe(city: str) -> City:
        """Describe {{ city }}."""
        raise AssertionError

    llm.reply(json.dumps({"name": word}))
    with pytest.raises(OutputInvalid, match=r"City after 3 tries: people: Field required") as caught:
        await describe(word)
    assert word not in str(caught.value)
    assert llm.count() == 3


def test_a_signature_works_in_canvas(client: LLMClient, worker: Worker, llm: LlmServer):
    """`.s()` is a plain Celery signature: a group of it, and a chord, run on workers of this package."""
    words = [uuid4().hex for _ in range(4)]

    @agent(client=client)
    async def summarise(text: str) -> str:
        """Summarise: {{ text }}"""
        raise AssertionError

    found = group(summarise.s(word) for word in words).apply_async().get(timeout=30)
    assert [Completion.model_validate(one).finish_reason for one in found] == ["stop"] * 4
    assert all(llm.count(word) == 1 for word in words)
    body = client.app.signature("celery.accumulate", queue="llm")
    header = group(summarise.s(word) for word in words)
    answers = chord(header, app=client.app)(body).get(timeout=30)
    assert len(answers[0]) == 4


@pytest.mark.parametrize(
    ("docstring", "words"),
    [
        (None, "docstring"),
        ("Translate {{ txt }}", "txt"),
        ("{% for %}", "valid template"),
        ("{{ text * 1000000000 }}", "multiplies"),
    ],
)
def test_a_prompt_that_cannot_work_is_an_error_at_decoration(docstring, words):
    """No docstring, an unknown name, a syntax error, text out of nothing: said where the agent is declared."""

    async def broken(text: str) -> str:
        raise AssertionError

    broken.__doc__ = docstring
    with pytest.raises(PromptError, match=words):
        agent(broken)


def test_a_prompt_can_reach_nothing_but_its_arguments(client: LLMClient):
    """The template runs in a sandbox: no attribute that leads into Python, no change of what it is given."""

    @agent(client=client)
    async def sneaky(value: list[int]) -> str:
        """{{ value.__class__.__mro__ }}"""
        raise AssertionError

    @agent(client=client)
    async def changing(value: list[int]) -> str:
        """{{ value.append(1) }}"""
        raise AssertionError

    for one in (sneaky, changing):
        with pytest.raises(PromptError, match="cannot be rendered"):
            one.submit([1])


def test_a_prompt_that_grows_too_large_is_stopped(client: LLMClient):
    """Rendering ends at the limit; it does not first fill the memory."""

    @agent(client=client)
    async def loud(text: str) -> str:
        """{% for _ in range(99999) %}{{ text }}{% endfor %}"""
        raise AssertionError

    with pytest.raises(PromptTooLarge):
        loud.submit("x" * 100_000)


def test_a_return_type_that_no_model_can_give_is_an_error_at_decoration():
    """str and pydantic models only."""
    with pytest.raises(ConfigurationError, match="str or a pydantic model"):

        @agent
        async def count(text: str) -> int:
            """Count {{ text }}"""
            raise AssertionError


def test_a_config_is_a_set_of_options(client: LLMClient):
    """LLMConfig says model, temperature and cache at once; what the decorator says wins."""

    @agent(client=client, config=LLMConfig(model="openai/gpt-x", temperature=0.9, cache_ttl=60), temperature=0)
    async def ask(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    request = ask.request("hi")
    assert (request.model, request.params["temperature"], request.cache_ttl_s) == ("openai/gpt-x", 0, 60)
