"""The main job: enqueue a prompt, a worker answers it, Redis remembers it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from uuid import uuid4

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.errors import (
    InvalidRequest,
    PromptTooLarge,
    RequestRefused,
    ResultTimeout,
    SecretInRequest,
    TaskCancelled,
)
from tests.support.llm import LlmServer, StubServer
from tests.support.workers import Fleet, Worker


def test_a_prompt_is_answered_by_a_worker(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """`complete` enqueues, waits, and returns the model's text with what it used."""
    llm.reply("Something.")
    answer = client.complete(prompt)
    assert (answer.text, answer.finish_reason, answer.cached, answer.attempts) == ("Something.", "stop", False, 1)
    assert answer.usage.total_tokens > 0
    assert llm.count(prompt) == 1


def test_the_same_prompt_again_needs_no_worker(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """A warm hit comes from the cache: no provider call, no message in the broker, and it says so."""
    first = client.complete(prompt)
    again = LLMClient(client.settings.override(broker_url="redis://127.0.0.1:1/0")).complete(prompt)
    assert (again.text, again.cached, again.attempts) == (first.text, True, 0)
    assert llm.count(prompt) == 1


async def test_await_is_the_same_without_blocking(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """`asubmit` and `await` answer as `submit` and `get` do, and the event loop goes on meanwhile."""
    llm.delay(0.3)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    answer = await (await client.asubmit(prompt))
    ticking.cancel()
    assert answer.text
    assert ticks > 5
    assert (await client.acomplete(prompt)).cached


def test_messages_and_parameters_reach_the_provider(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """Chat turns and whatever else LiteLLM takes arrive as they were given."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    client.complete(turns, temperature=0.25, max_tokens=7)
    (seen,) = llm.requests(prompt)
    assert seen.body["messages"] == turns
    assert (seen.body["temperature"], seen.body["max_tokens"]) == (0.25, 7)


def test_a_call_without_cache_is_made_each_time(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """use_cache=False neither looks up nor remembers."""
    for _ in range(2):
        assert not client.complete(prompt, use_cache=False).cached
    assert llm.count(prompt) == 2


@pytest.mark.parametrize(("text", "finish_reason"), [("Half an", "length"), ("No.", "content_filter"), ("", "stop")])
def test_an_incomplete_answer_is_handed_out_but_not_remembered(
    client: LLMClient, worker: Worker, llm: LlmServer, prompt: str, text: str, finish_reason: str
):
    """What was cut, filtered or empty is paid for again, rather than replayed as if it were whole."""
    llm.reply(text, finish_reason=finish_reason)
    for _ in range(2):
        assert client.complete(prompt).text == text
    assert llm.count(prompt) == 2


def test_a_tool_call_is_an_answer(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """An answer that only calls tools is complete, and remembered."""
    llm.call_tool("weather", {"city": "Kyoto"})
    first, again = client.complete(prompt), client.complete(prompt)
    assert first.finish_reason == "tool_calls"
    (call,) = again.tool_calls
    assert json.loads(call["function"]["arguments"]) == {"city": "Kyoto"}
    assert again.cached


def test_a_planted_pickle_is_a_miss_and_nothing_runs(
    client: LLMClient, worker: Worker, llm: LlmServer, prompt: str, client_of_redis, tmp_path
):
    """Bytes under a key that are no entry of ours are dropped and counted; the worker answers anew."""
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    client.complete(prompt)
    (key,) = client_of_redis.keys(f"kagura:cache:{client.settings.tenant}:entry:*")
    client_of_redis.set(key, pickle.dumps(Bomb()), ex=60)
    assert not client.complete(prompt).cached
    assert not (tmp_path / "executed").exists()
    assert asyncio.run(client.cache.stats(client.settings.tenant))["corrupt"] == 1
    assert llm.count(prompt) == 2


def test_tenants_share_nothing(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """The same prompt of another tenant is another call."""
    client.complete(prompt)
    assert not client.complete(prompt, tenant=f"{client.settings.tenant}-b").cached
    assert llm.count(prompt) == 2


def test_waiting_ends_in_time_and_the_task_goes_on(client: LLMClient, fleet: Fleet, stub: StubServer, prompt: str):
    """`get(timeout_s=)` gives up waiting, not the call: a later `get` has the answer."""
    stub.script(held=True)
    result = client.submit(prompt)
    with pytest.raises(ResultTimeout, match=result.id):
        result.get(timeout_s=0.2)
    assert result.status() == "PENDING"
    stub.release()
    assert result.get(timeout_s=30).text
    assert result.status() == "SUCCESS"


def test_a_queued_task_that_is_cancelled_is_never_started(settings: Settings, start_workers, llm: LlmServer, prompt):
    """Cancelled while nobody serves the queue: waiters learn it at once, and a worker that comes later skips it."""
    client = LLMClient(settings)
    cancelled, other = client.submit(prompt), client.submit(f"{prompt} And more.")
    cancelled.cancel()
    with pytest.raises(TaskCancelled):
        cancelled.get(timeout_s=30)
    start_workers()
    assert other.get(timeout_s=30).text
    assert llm.count(prompt) == 1
    assert cancelled.status() == "REVOKED"


def test_an_answer_that_is_there_survives_cancelling(client: LLMClient, worker: Worker, llm: LlmServer, prompt: str):
    """cancel() after the end changes nothing."""
    result = client.submit(prompt)
    text = result.get().text
    client.cancel(result.id)
    assert client.result(result.id).get().text == text


def test_what_can_be_known_to_be_wrong_is_not_sent(settings: Settings, client_of_redis):
    """A bad request is a typed error before anything is enqueued."""
    client = LLMClient(settings)
    bad: list[tuple[object, dict[str, object], type[Exception], str]] = [
        ("", {}, InvalidRequest, "empty"),
        ("  \n", {}, InvalidRequest, "empty"),
        ([], {}, InvalidRequest, "messages"),
        ([{"content": "no role"}], {}, InvalidRequest, "role"),
        ("half \ud83d", {}, InvalidRequest, "half a character"),
        ([{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}], {}, InvalidRequest, "half a character"),
        ("hi", {"stop": "\ud83d"}, InvalidRequest, "half a character"),
        ("hi", {"model": "two words"}, InvalidRequest, "model"),
        ("hi", {"api_key": "sk-canary"}, SecretInRequest, "keys live with the workers"),
        ("hi", {"extra_headers": {"Authorization": "sk-canary"}}, SecretInRequest, "keys live with the workers"),
        ("hi", {"timeout": 5}, InvalidRequest, "timeout_s"),
        ("hi", {"priority": "soon"}, InvalidRequest, "interactive"),
        ("hi", {"tenant": "a:b"}, InvalidRequest, "tenant"),
        ("hi", {"temperature": float("nan")}, InvalidRequest, "finite"),
        ("hi", {"tools": [object()]}, InvalidRequest, "params"),
        ("x" * 1_000_001, {}, PromptTooLarge, "KAGURA_TASKS_MAX_PROMPT_BYTES"),
    ]
    for prompt, options, expected, words in bad:
        with pytest.raises(expected, match=words) as caught:
            client.submit(prompt, **options)
        assert "canary" not in str(caught.value)
    assert client_of_redis.dbsize() == 0


def test_no_prompt_is_seen_in_logs_and_events(
    client: LLMClient, worker: Worker, llm: LlmServer, client_of_redis: redis.Redis
):
    """The worker's log and Celery's events show neither prompt nor answer, also where a call is retried or fails."""
    canary = f"canary{uuid4().hex}"
    with client_of_redis.pubsub() as events:
        events.psubscribe("*celeryev*")
        llm.reply(f"The answer to {canary}.")
        llm.fail(429, retry_after_s=1.2)
        client.complete(canary)
        llm.fail(400)
        with pytest.raises(RequestRefused):
            client.complete(f"{canary} again")
        seen = ""
        while "task-failed" not in seen:
            frame = events.get_message(timeout=30)
            assert frame is not None, f"no event within 30 s; so far: {seen}"
            seen += _body_of_event(frame["data"])
    assert all(kind in seen for kind in ("task-sent", "task-received", "task-retried", "task-succeeded"))
    assert canary not in seen
    assert canary not in worker.log


def _body_of_event(data: object) -> str:
    """What kombu wraps: an event, or several, as JSON in base64."""
    return b64decode(json.loads(data)["body"]).decode() if isinstance(data, bytes) else ""
