"""Conversations with many writers, some of which die, on a Redis that goes away or holds what is not ours."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kagura_tasks import ConversationMemory, LLMClient, agent
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import RedisUnreachable
from tests.support import writer
from tests.support.chaos import Scene
from tests.support.wait import until
from tests.support.workers import ROOT

_WRITERS = 8
_TURNS_EACH = 125


def writing(url: str, talk: str, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(writer.__file__)), url, talk, str(number), str(_TURNS_EACH)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def talking(client: LLMClient) -> Any:
    @agent(client=client, memory=True)
    async def say(text: str) -> str:
        """{{ text }}"""
        raise AssertionError

    return say


def test_eight_processes_lose_nothing(redis_url: str):
    """1,000 turns: each once, with a number of its own, and each writer's in the order in which it wrote them.

    Two writers are killed on their way and begin anew: what they had appended is not appended again.
    """
    talk = uuid4().hex
    running = [writing(redis_url, talk, number) for number in range(_WRITERS)]
    for victim in (0, 1):
        assert running[victim].stdout.readline()
        running[victim].kill()
        running[victim].communicate()
        running[victim] = writing(redis_url, talk, victim)
    numbers = [int(line) for process in running for line in process.communicate(timeout=60)[0].split()]
    turns = ConversationMemory(redis_url=redis_url).turns(talk)
    assert sorted(numbers) == [turn.number for turn in turns] == list(range(1, _WRITERS * _TURNS_EACH + 1))
    for number in range(_WRITERS):
        own = [turn.content for turn in turns if turn.content.startswith(f"{number}.")]
        assert own == [f"{number}.{turn}" for turn in range(_TURNS_EACH)]


@pytest.mark.parametrize("call", ["append", "turns", "summary", "clear"])
def test_a_redis_that_is_away_is_said_so(call: str):
    """Within seconds, with the address and without its password."""
    memory = ConversationMemory(redis_url="redis://:hunter2@127.0.0.1:1/0")
    started = time.monotonic()
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1") as caught:
        getattr(memory, call)("talk", *(["user", "hello"] if call == "append" else []))
    assert time.monotonic() - started < 5
    assert "hunter2" not in str(caught.value)


def test_what_is_no_turn_is_left_out(client_of_redis: Any, redis_url: str):
    """Garbage in the list: reading and appending go on."""
    memory, talk = ConversationMemory(redis_url=redis_url, max_turns=5), uuid4().hex
    memory.append(talk, "user", "before")
    key = f"kagura:conversation:{memory.tenant}:{talk}:turns"
    garbage = [
        b"\xff\x00",
        b"{}",
        b'{"number":"x","tokens":"many"}',
        b'{"number":1,"role":"tool","content":"","at_ms":1}',
    ]
    for value in garbage:
        client_of_redis.rpush(key, value)
    assert [turn.content for turn in memory.turns(talk)] == ["before"]
    for number in range(5):
        memory.append(talk, "user", str(number))
    assert [turn.content for turn in memory.turns(talk)] == list("01234")


def test_an_answer_is_remembered_when_redis_comes_back(scene: Scene):
    """Redis restarts while the model answers: the worker waits for it, and appends the exchange once."""
    scene.workers(1)
    word = uuid4().hex
    scene.stub.script(text="After all.", delay_s=2.0)
    result = talking(scene.client).submit(word, conversation_id=word)
    until(lambda: scene.stub.count() == 1, what="the running call")
    with ThreadPoolExecutor(1) as waiting:
        answer = waiting.submit(result.get, 60)
        scene.server.restart()
        assert answer.result().text == "After all."
    turns = ConversationMemory(scene.settings).turns(word)
    assert [turn.content for turn in turns] == [word, "After all."]


@pytest.mark.parametrize("when", ["in the call", "once stored"])
def test_a_killed_worker_remembers_once(scene: Scene, when: str):
    """kill -9 while the model answers, or when all is stored: the exchange stands there once."""
    environment = {"CHAOS_STOP_ONCE_STORED": "1"} if when == "once stored" else {}
    (first,) = scene.workers(1, environment=environment)
    word = uuid4().hex
    scene.stub.script(text="Here.", held=when == "in the call")
    result = talking(scene.client).submit(word, conversation_id=word)
    until(lambda: scene.stub.count() == 1, what="the running call")
    memory = ConversationMemory(scene.settings)
    if when == "once stored":
        until(lambda: len(memory.turns(word)) == 2, what="the turns")
    first.kill9()
    scene.stub.release()
    scene.workers(1)
    assert result.get(timeout_s=60).text == "Here."
    scene.until_settled()
    assert [turn.content for turn in memory.turns(word)] == [word, "Here."]


def test_memory_of_a_server_that_forgot_is_empty(forgetful_scene: Scene):
    """A Redis without persistence restarts: the conversation begins anew, with the number 1."""
    memory, talk = ConversationMemory(forgetful_scene.settings), uuid4().hex
    memory.append(talk, "user", "before")
    forgetful_scene.server.restart()
    until(lambda: memory.turns(talk) == [], what="an empty conversation")
    assert memory.append(talk, "user", "after") == 1


def test_a_full_redis_takes_no_turn():
    """What cannot be appended is an error that says why; what is there can be read, and nothing is half appended."""
    with EmbeddedRedis() as server:
        memory, talk = ConversationMemory(redis_url=server.url), uuid4().hex
        memory.append(talk, "user", "before")
        client: Any = sync_client(server.url, 2.0)
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisUnreachable, match="full"):
            memory.append(talk, "user", "lost", turn_id="t")
        assert [turn.content for turn in memory.turns(talk)] == ["before"]
        client.config_set("maxmemory", 0)
        assert memory.append(talk, "user", "after", turn_id="t") == 2
