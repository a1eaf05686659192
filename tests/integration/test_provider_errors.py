"""What goes wrong on the model's side reaches the caller as one of our errors, from LiteLLM through a worker."""

from __future__ import annotations

from uuid import uuid4

import pytest

from kagura_tasks import LLMClient, Settings, errors
from tests.support.llm import StubServer
from tests.support.workers import Fleet, WorkerOptions

REFUSED = '{"error": {"message": "canary words", "type": "invalid_request_error", "code": "%s", "param": "%s"}}'


@pytest.fixture
def prompt() -> str:
    return f"canary {uuid4().hex}"


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        ({"status": 400, "body": REFUSED % ("bad_value", "temperature")}, errors.RequestRefused, "param=temperature"),
        ({"status": 401, "body": REFUSED % ("invalid_api_key", "")}, errors.AuthenticationFailed, "key"),
        ({"status": 403, "body": REFUSED % ("no_access", "")}, errors.AuthenticationFailed, "key"),
        ({"status": 404, "body": REFUSED % ("model_not_found", "model")}, errors.UnknownModel, "LiteLLM's names"),
        (
            {"status": 400, "body": REFUSED % ("context_length_exceeded", "messages")},
            errors.ContextTooLong,
            "Shorten the prompt",
        ),
        (
            {"status": 400, "body": REFUSED % ("content_policy_violation", "messages")},
            errors.ContentRefused,
            "safety filter",
        ),
        ({"status": 413, "body": REFUSED % ("too_large", "")}, errors.RequestRefused, "413"),
    ],
)
def test_a_permanent_error_comes_at_once_and_quotes_nothing(
    client: LLMClient, fleet: Fleet, stub: StubServer, prompt: str, answer, expected, words
):
    """One provider request, a typed error that says what to do, and neither prompt nor the provider's own text."""
    stub.script(**answer)
    with pytest.raises(expected, match=words) as caught:
        client.complete(prompt)
    assert "canary" not in str(caught.value)
    assert stub.count() == 1


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 503}, {"status": 429}, {"cut_after": 0}, {"body": '{"choices": [{"ind'}],
    ids=str,
)
def test_a_transient_error_is_tried_again(client: LLMClient, fleet: Fleet, stub: StubServer, prompt: str, fault):
    """5xx, 429, a dropped connection and an answer cut in the middle cost another try, and the answer says so."""
    stub.script(text="Now.")
    stub.script(**fault, times=1)
    answer = client.complete(prompt)
    assert (answer.text, answer.attempts, stub.count()) == ("Now.", 2, 2)


def test_a_retry_comes_no_sooner_than_the_provider_asks(client: LLMClient, fleet: Fleet, stub: StubServer, prompt: str):
    """Retry-After: 2 means that the next request comes after two seconds, not before."""
    stub.script(text="Now.")
    stub.script(status=429, headers={"Retry-After": "2"}, times=1)
    assert client.complete(prompt).text == "Now."
    first, second = stub.ledger()["requests"]
    assert second["started_at"] - first["ended_at"] >= 2.0


def test_tries_are_limited(settings: Settings, start_workers: Fleet, stub: StubServer, prompt: str):
    """After max_retries further tries the last error is the answer, and the deadline ends tries before that."""
    stub.script(status=503)
    few = {"KAGURA_TASKS_MAX_RETRIES": "2", "KAGURA_TASKS_RETRY_BASE_S": "0.01"}
    start_workers(1, WorkerOptions(environment=few), api_base=stub.base_url)
    client = LLMClient(settings)
    with pytest.raises(errors.ProviderUnavailable):
        client.complete(prompt)
    assert stub.count() == 3
    stub.script(status=429, headers={"Retry-After": "9999"})
    with pytest.raises(errors.RateLimited) as caught:
        client.complete(f"{prompt} again")
    assert (caught.value.retry_after_s, stub.count()) == (9999, 4)


def test_a_call_ends_at_its_timeout(client: LLMClient, settings: Settings, start_workers, stub: StubServer, prompt):
    """timeout_s bounds one call of the provider."""
    stub.script(delay_s=30)
    start_workers(1, WorkerOptions(environment={"KAGURA_TASKS_MAX_RETRIES": "0"}), api_base=stub.base_url)
    with pytest.raises(errors.ProviderTimeout):
        client.complete(prompt, timeout_s=0.5)


def test_what_litellm_does_not_take_is_refused(client: LLMClient, fleet: Fleet, stub: StubServer, prompt: str):
    """An unknown provider and an unsupported parameter are our errors, before anything is sent."""
    with pytest.raises(errors.UnknownModel, match="openai/gpt-4o-mini"):
        client.complete(prompt, model="nosuch-model-7")
    with pytest.raises(errors.RequestRefused, match="temperature"):
        client.complete(prompt, model="openai/o1", temperature=0.3)
    assert stub.count() == 0


def test_a_worker_without_the_key_says_so(settings: Settings, start_workers: Fleet, prompt: str):
    """The task fails with the name of the variable that the worker lacks."""
    start_workers(1, WorkerOptions(environment={"OPENAI_API_KEY": ""}))
    with pytest.raises(errors.AuthenticationFailed, match="OPENAI_API_KEY"):
        LLMClient(settings).complete(prompt)
    with pytest.raises(errors.AuthenticationFailed, match="ANTHROPIC_API_KEY"):
        LLMClient(settings).complete(prompt, model="anthropic/claude-3-haiku-20240307")


def test_a_payload_that_is_no_request_is_refused_by_the_worker(client: LLMClient, fleet: Fleet, prompt: str):
    """Whoever writes messages by hand gets the same typed error, from the worker."""
    sent = client.app.send_task("kagura.complete", args=[{"model": "openai/x", "prompt": prompt}], queue="llm")
    with pytest.raises(errors.InvalidRequest, match="messages") as caught:
        client.result(sent.id).get(timeout_s=30)
    assert prompt not in str(caught.value)
