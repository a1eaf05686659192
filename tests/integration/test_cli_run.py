"""`kagura-tasks run`: a prompt from the shell to a worker and back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.canvas import Signature

from kagura_tasks import task_store
from kagura_tasks.client import LLMClient
from kagura_tasks.settings import Settings
from tests.integration.test_cli import document, kagura, program, started, the_error
from tests.support.llm import LlmServer
from tests.support.wait import until
from tests.support.workers import Worker


@pytest.fixture
def tenant(settings: Settings) -> str:
    """This test's own."""
    return settings.tenant


def test_the_answer_is_printed(worker: Worker, llm: LlmServer, redis_url: str, tenant: str):
    """The answer and nothing else, on standard output."""
    llm.reply("Because of Rayleigh.")
    done = program("run", "Why is the sky blue?", "--tenant", tenant, redis_url=redis_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Because of Rayleigh.\n", "")


def test_the_same_prompt_again_is_remembered(worker: Worker, llm: LlmServer, redis_url: str, tenant: str):
    """The second answer is a hit; --no-cache calls the model again."""
    llm.reply("Blue.")
    command = ["run", "Which colour?", "--tenant", tenant, "--json"]
    first = document(kagura(*command, redis_url=redis_url))
    again = document(kagura(*command, redis_url=redis_url))
    anew = document(kagura(*command, "--no-cache", redis_url=redis_url))
    assert [answer["cached"] for answer in (first, again, anew)] == [False, True, False]
    assert [answer["attempts"] for answer in (first, again, anew)] == [1, 0, 1]
    assert {answer["text"] for answer in (first, again, anew)} == {"Blue."}
    assert llm.count() == 2


def test_the_request_is_what_was_typed(worker: Worker, llm: LlmServer, redis_url: str, tenant: str):
    """System message, model and parameters reach the provider; a dash reads the prompt from standard input."""
    llm.reply("ok")
    options = ["--system", "Be brief.", "--param", "temperature=0.25", "--param", 'stop=["END"]', "--tenant", tenant]
    done = kagura("run", "-", "--model", "openai/gpt-x", *options, stdin="Grüße\nan alle", redis_url=redis_url)
    assert done.returncode == 0, done.stderr
    body = llm.requests()[0].body
    assert body["model"] == "gpt-x"
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "Grüße\nan alle"),
    ]
    assert (body["temperature"], body["stop"]) == (0.25, ["END"])


def test_a_cut_answer_is_printed_with_a_warning(worker: Worker, llm: LlmServer, redis_url: str, tenant: str):
    """Whoever pipes the answer on learns on standard error that it is not all."""
    llm.reply("Once upon", finish_reason="length")
    done = kagura("run", "A story", "--tenant", tenant, redis_url=redis_url)
    assert (done.returncode, done.stdout) == (0, "Once upon\n")
    assert "finish_reason: length" in done.stderr


def test_the_providers_refusal_is_one_line(worker: Worker, llm: LlmServer, redis_url: str, tenant: str):
    """The worker's error arrives as a line, without a traceback."""
    llm.fail(401, times=None)
    error = the_error(kagura("run", "hello", "--tenant", tenant, redis_url=redis_url))
    assert "openai/gpt-4o-mini" in error
    assert "key" in error


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["  "], "", "empty"),
        (["-"], "", "empty"),
        (["-"], b"\xff\xfe", "UTF-8"),
        ([b"\xff".decode(errors="surrogateescape")], "", "UTF-8"),
        (["-"], "x" * 1_100_000, "KAGURA_TASKS_MAX_PROMPT_BYTES"),
        (["hi", "--param", 'api_key="sk-secret"'], "", "keys live with the workers"),
        (["hi", "--param", "stream=true"], "", "stream"),
        (["hi", "--model", "two words"], "", "model"),
        (["hi", "--tenant", "a*"], "", "tenant"),
    ],
    ids=["blank", "no-input", "bytes", "bytes-typed", "large", "key", "stream", "model", "tenant"],
)
def test_what_cannot_be_right_is_not_sent(
    arguments: list[str], stdin: str | bytes, told: str, redis_url: str, client_of_redis: redis.Redis
):
    """One line says what is wrong; no message is in the broker, and no secret in the line."""
    error = the_error(kagura("run", *arguments, stdin=stdin, redis_url=redis_url))
    assert told in error
    assert "sk-secret" not in error
    assert client_of_redis.dbsize() == 0


def test_nobody_answers(redis_url: str):
    """Without a worker the wait ends, and the line says where to look."""
    error = the_error(kagura("run", "hi", "--timeout", "0.3", redis_url=redis_url))
    assert "kagura-tasks doctor" in error


def test_ctrl_c_is_quiet_and_takes_the_task_along(redis_url: str, client_of_redis: redis.Redis, tmp_path: Path):
    """Exit code 130, no word; the task that nobody waits for is not started any more."""
    with started(tmp_path, "run", "hi", redis_url=redis_url) as running:
        queued = until(lambda: queued_ids(client_of_redis), 60, "a queued task")
        assert running.stop() == 130
        assert (running.stdout, running.stderr) == ("", "")
    assert status(redis_url, queued[0]) == "REVOKED"


def test_ctrl_c_at_the_worst_moments(
    redis_url: str, client_of_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, ctrl_c: None
):
    """Also when the message is in the queue and nobody knows its id yet, and again while the task is cancelled."""
    interrupt_at(monkeypatch, Signature, "apply_async")
    interrupt_at(monkeypatch, task_store, "cancel")
    done = kagura("run", "hi", redis_url=redis_url)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    (queued,) = queued_ids(client_of_redis)
    assert status(redis_url, queued) == "REVOKED"


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C works, also where whoever runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Ctrl-C comes twice: when this function begins, and when it has done its work."""
    function = getattr(owner, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        result = function(*args, **kwargs)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, interrupted)


def status(redis_url: str, task_id: str) -> str:
    """What is recorded of a task."""
    return LLMClient(Settings(redis_url=redis_url)).result(task_id).status()


def queued_ids(client: redis.Redis) -> list[str]:
    """The ids of the tasks that wait in the queue `llm`."""
    queues = client.scan_iter(match="llm*", _type="list")
    messages = [json.loads(message) for name in queues for message in client.lrange(name, 0, -1)]
    return [message["headers"]["id"] for message in messages]
