"""A task that has an outcome already gets that again, wherever its record is kept: no call is made for it twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import RequestRefused, TaskCancelled
from kagura_tasks.schemas import Completion, CompletionRequest, Message
from kagura_tasks.settings import Settings
from kagura_tasks.task_store import cancel, record_key
from kagura_tasks.worker.job import Job
from kagura_tasks.worker.runtime import Runtime

TASK = "a-task"


class Model:
    """A provider that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        self.calls += 1
        return Completion(text="new", model=request.model, finish_reason="stop")


Answer = Callable[[Model], Awaitable[Completion]]


@pytest.fixture(params=["one Redis", "a cache of its own", "not remembered"])
def answer(request: pytest.FixtureRequest, settings: Settings) -> Any:
    """Runs the task as a worker does."""
    with EmbeddedRedis() as other:
        at = settings.override(cache_url=other.url) if request.param == "a cache of its own" else settings
        asked = CompletionRequest(
            model="openai/gpt-4o-mini",
            messages=(Message(role="user", content="What is new?"),),
            tenant=settings.tenant,
            use_cache=request.param != "not remembered",
        )

        async def run(model: Model) -> Completion:
            return await Runtime(at, lambda: cast(Any, model)).answer(Job(asked, TASK))

        yield run


def keep(settings: Settings, document: str) -> None:
    """Store this as the task's record."""
    sync_client(settings.results, 5.0).set(record_key(TASK), document, ex=60)


async def test_its_answer(settings: Settings, answer: Answer):
    """Delivered again after it was stored."""
    stored = Completion(text="old", model="openai/gpt-4o-mini", finish_reason="stop").model_dump(mode="json")
    keep(settings, json.dumps({"status": "SUCCESS", "result": stored}))
    model = Model()
    assert (await answer(model)).text == "old"
    assert model.calls == 0


async def test_its_error(settings: Settings, answer: Answer):
    """The same one, of the same type."""
    error = {"exc_type": "RequestRefused", "exc_module": "kagura_tasks.errors", "exc_message": ["no", "a model"]}
    keep(settings, json.dumps({"status": "FAILURE", "result": error}))
    model = Model()
    with pytest.raises(RequestRefused, match="no"):
        await answer(model)
    assert model.calls == 0


async def test_its_cancellation(settings: Settings, answer: Answer):
    """While it waited in the queue."""
    assert cancel(settings, TASK)
    model = Model()
    with pytest.raises(TaskCancelled):
        await answer(model)
    assert model.calls == 0


RECORDS = ('{"status": "RETRY"}', '{"status": "STARTED", "result": null}', "[]", "no JSON", "")


@pytest.mark.parametrize("record", RECORDS)
async def test_what_is_no_outcome_is_in_nobodys_way(settings: Settings, answer: Answer, record: str):
    """It is answered."""
    keep(settings, record)
    model = Model()
    assert (await answer(model)).text == "new"
    assert model.calls == 1
