"""`kagura-tasks run --stream` and `kagura-tasks tail`: text that grows in a terminal, events for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kagura_tasks.client import LLMClient
from kagura_tasks.settings import Settings
from tests.integration.test_cli import kagura, program, started, the_error
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet


@pytest.fixture
def tenant(settings: Settings) -> str:
    """This test's own."""
    return settings.tenant


def events_in(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_the_text_and_nothing_else_is_printed(fleet: Fleet, stub: StubServer, redis_url: str, tenant: str):
    """As it comes, with a newline at the end."""
    stub.script(text="Once upon a time.", chunks=5)
    done = program("run", "--stream", "Tell me a story.", "--tenant", tenant, redis_url=redis_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Once upon a time.\n", "")


def test_machines_get_an_event_a_line(fleet: Fleet, stub: StubServer, redis_url: str, tenant: str):
    """With the task's id, by which `tail` reads the same; and from behind any event of it."""
    stub.script(text="one two three", chunks=3, chunk_delay_s=0.05)
    printed = kagura("run", "--stream", "--json", "Count.", "--tenant", tenant, redis_url=redis_url).stdout
    events = events_in(printed)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["kind"], events[-1]["kind"]) == ("start", "done")
    command = ["tail", events[0]["id"], "--json", "--tenant", tenant]
    assert events_in(kagura(*command, redis_url=redis_url).stdout) == events
    assert events_in(kagura(*command, "--after", "2", redis_url=redis_url).stdout) == events[2:]


def test_an_unknown_task_is_one_line(redis_url: str):
    """It says that there is no result either, and does not wait."""
    done = kagura("tail", str(uuid4()), redis_url=redis_url)
    assert "no stream for task" in the_error(done)


def test_a_failure_is_one_line_under_the_text(fleet: Fleet, stub: StubServer, redis_url: str, tenant: str):
    """And the exit code is 1."""
    stub.script(status=400)
    done = kagura("run", "--stream", "No.", "--tenant", tenant, redis_url=redis_url)
    assert "refused the request" in the_error(done)


def test_ctrl_c_cancels_what_run_began(fleet: Fleet, stub: StubServer, redis_url: str, tenant: str, tmp_path: Path):
    """Nobody else knows of the task: its call is closed."""
    stub.script(text="x " * 200, chunks=200, chunk_delay_s=0.1)
    with started(tmp_path, "run", "--stream", "Go on.", "--tenant", tenant, redis_url=redis_url) as run:
        run.printed("x")
        assert run.stop() == 130, run.stderr
    until(lambda: stub.ledger()["in_flight"] == 0, 5)


def test_ctrl_c_on_a_tail_cancels_nothing(
    fleet: Fleet, stub: StubServer, client: LLMClient, redis_url: str, prompt: str, tmp_path: Path
):
    """Its last line says how to read on."""
    stub.script(text="a b c d", chunks=4, held=True)
    stream = client.stream(prompt)
    command = ("tail", stream.id, "--json", "--tenant", client.settings.tenant)
    with started(tmp_path, *command, redis_url=redis_url) as tail:
        tail.printed("start")
        assert tail.stop() == 130
        assert f"kagura-tasks tail {stream.id} --after 1" in tail.stderr
    stub.release()
    assert stream.completion(30).text == "a b c d"
