"""Workers that die, and a Redis that goes away, in the middle of an agent's rounds of tools."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kagura_tasks import agent
from tests.support import toolbox
from tests.support.chaos import Scene
from tests.support.tool_scene import ALLOWED, ToolScene, call
from tests.support.wait import until
from tests.support.workers import Worker


def asking(talk: ToolScene, **options: Any) -> Any:
    """An agent with the tools of the tests."""

    @agent(client=talk.client, tools=[toolbox.weather, toolbox.slow_once], **options)
    async def ask(question: str) -> str:
        """{{ question }}"""
        raise AssertionError

    return ask


@pytest.mark.parametrize("pool", ["threads", "prefork", "asyncio"])
def test_a_finished_round_is_not_made_again(scene: Scene, pool: str):
    """kill -9 while the model answers what came of a tool: the next worker neither runs that tool nor asks for it."""
    talk = ToolScene(scene.settings, scene.stub)
    talk.model_says([call("weather", {"city": talk.word})])
    scene.stub.script(when="It is sunny", text="Fine.", held=True)
    (first,) = scene.workers(1, pool, environment=ALLOWED)
    result = asking(talk).submit(talk.word)
    until(lambda: len(talk.bodies()) == 2, what="the second round")
    first.kill9()
    scene.stub.release()
    scene.workers(1, pool, environment=ALLOWED)
    assert result.get(timeout_s=60).text == "Fine."
    assert len(talk.done()) == 1
    assert [len(body["messages"]) for body in talk.bodies()] == [1, 3, 3]


@pytest.mark.parametrize("end", [Worker.kill9, Worker.terminate])
def test_a_tool_whose_worker_ended_runs_again_under_its_name(scene: Scene, end: Callable[[Worker], object]):
    """It was not finished, so nobody knows what it did: it can find out by the name of the call, which is the same."""
    talk = ToolScene(scene.settings, scene.stub)
    calls = [call("weather", {"city": talk.word}, "a"), call("slow_once", {"word": f"{talk.word}-slow"}, "b")]
    talk.model_says(calls, "Fine.")
    (first,) = scene.workers(1, environment={**ALLOWED, "KAGURA_TASKS_SHUTDOWN_TIMEOUT_S": "1"})
    result = asking(talk).submit(talk.word)
    until(lambda: talk.done() and talk.done(f"{talk.word}-slow"), what="the running tool")
    key = f"kagura:exchange:{talk.settings.tenant}:{result.id}"
    until(lambda: any(step.startswith(b"1.0.") for step in scene.redis.hkeys(key)), what="the tool that is done")
    end(first)
    scene.workers(1, environment=ALLOWED)
    assert result.get(timeout_s=60).text == "Fine."
    assert talk.done(f"{talk.word}-slow") == [f"{result.id}.1.1"] * 2
    assert len(talk.done()) == 1
    assert talk.told() == [f"It is sunny in {talk.word}.", f"done for {talk.word}-slow"]


def test_rounds_go_on_when_redis_comes_back(scene: Scene):
    """Redis restarts while the model answers what came of a tool: nothing is lost that a worker knows."""
    talk = ToolScene(scene.settings, scene.stub)
    scene.stub.script(when="It is sunny", text="Fine.", delay_s=2.0)
    talk.model_says([call("weather", {"city": talk.word})])
    scene.workers(1, environment=ALLOWED)
    result = asking(talk, memory=True).submit(talk.word, conversation_id=talk.word)
    until(lambda: len(talk.bodies()) == 2, what="the second round")
    with ThreadPoolExecutor(1) as waiting:
        answer = waiting.submit(result.get, 60)
        scene.server.restart()
        assert answer.result().text == "Fine."
    assert len(talk.bodies()) == 2


def test_steps_that_are_garbage_are_made_again(scene: Scene):
    """What somebody else wrote into the record is no step; a call that is asked for again is known all the same."""
    talk = ToolScene(scene.settings, scene.stub)
    talk.model_says([call("weather", {"city": talk.word})])
    scene.stub.script(when="It is sunny", text="Fine.", held=True)
    (first,) = scene.workers(1, environment=ALLOWED)
    result = asking(talk).submit(talk.word)
    until(lambda: len(talk.bodies()) == 2, what="the second round")
    first.kill9()
    key = f"kagura:exchange:{talk.settings.tenant}:{result.id}"
    scene.redis.hset(key, mapping={"1": b"\xff{", b"\xff": b"{"})
    scene.stub.release()
    talk.model_says([call("weather", {"city": talk.word})])
    scene.workers(1, environment=ALLOWED)
    assert result.get(timeout_s=60).text == "Fine."
    assert (len(talk.done()), len(talk.bodies())) == (1, 4)


def test_a_prompt_is_in_no_log(scene: Scene):
    """Neither what was asked, nor what a tool was given or said, nor which conversation it was."""
    talk = ToolScene(scene.settings, scene.stub)
    talk.model_says([call("weather", {"city": talk.word}), call("nothing", {"word": talk.word})], f"Fine, {talk.word}.")
    (worker,) = scene.workers(1, environment=ALLOWED, arguments=("-E",))
    result = asking(talk, memory=True).submit(f"How is {talk.word}?", conversation_id=talk.word)
    assert talk.word in result.get(timeout_s=60).text
    scene.until_settled()
    assert talk.word not in worker.log
