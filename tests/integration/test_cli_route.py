"""`kagura-tasks route`: how a router decides, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kagura_tasks import ConversationMemory, Settings
from tests.support.workers import NOT_INHERITED

Command = Callable[..., subprocess.CompletedProcess[str]]

_DESK = '''
from kagura_tasks import AgentRouter, LLMClient, MemoryAwareRouter, agent

client = LLMClient()

@agent(client=client)
async def weather(query: str) -> str:
    """{{ query }}"""
    raise AssertionError

router = MemoryAwareRouter(client=client)
router.register(weather, intents=["weather", "天気"])
router.register(weather, intents=["refund"], name="refunds")
plain = AgentRouter(client=client)
plain.register(weather, intents=["weather"])
'''


@pytest.fixture
def command(settings: Settings, tmp_path: Path) -> Command:
    """Runs `kagura-tasks route ...` in a folder with desk.py."""
    (tmp_path / "desk.py").write_text(_DESK, "utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
    ours = {"KAGURA_TASKS_REDIS_URL": str(settings.redis_url), "KAGURA_TASKS_TENANT": settings.tenant}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "kagura_tasks.cli", "route", *arguments]
        return subprocess.run(
            words, cwd=tmp_path, env={**inherited, **ours}, capture_output=True, text=True, timeout=60
        )

    return run


def test_it_names_the_agent(command: Command):
    """One line: name, score, reason."""
    done = command("明日の天気は？", "--router", "desk:router")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "weather"
    assert "天気" in done.stdout


def test_it_explains_with_the_conversation(command: Command, settings: Settings):
    """Scores of all agents, what matched, and what was said before."""
    memory = ConversationMemory(settings)
    memory.append("c1", "user", "What is the weather in Tokyo?")
    done = command("And a refund in Kyoto?", "--router", "desk:router", "--conversation", "c1", "--explain")
    assert done.returncode == 0, done.stderr
    words = done.stdout
    for expected in ("Scores", "refunds", "weather", "decided by intent", "needs it: yes (a follow-up)", "Tokyo"):
        assert expected in words
    assert len(memory.turns("c1")) == 1  # nothing was run, or appended


def test_json_is_for_programs(command: Command):
    """The record; with --explain, the scores of all agents, too."""
    record = json.loads(command("weather", "--router", "desk:plain", "--json", "--explain").stdout)
    assert (record["agent"], record["strategy"], record["query"]) == ("weather", "intent", "weather")
    assert [one["agent"] for one in record["scores"]] == ["weather"]


def test_nobody_is_an_error(command: Command):
    """Exit code 1, and one line that says what to do; with --explain, what was seen."""
    done = command("bread", "--router", "desk:router", "--explain")
    assert done.returncode == 1
    assert "nobody" in done.stdout
    assert "error: no agent scores 0.35" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--router", "nowhere:router"), "cannot be loaded"),
        (("--router", "desk:nothing"), "cannot be loaded"),
        (("--router", "desk"), "is no AgentRouter"),
        (("--router", "desk:client"), "is no AgentRouter"),
        (("--router", "desk:plain", "--conversation", "c1"), "a MemoryAwareRouter"),
    ],
)
def test_a_router_that_is_none_is_one_line(command: Command, arguments: tuple[str, ...], words: str):
    """No traceback."""
    done = command("weather", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
