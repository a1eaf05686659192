"""A worker that is killed in the middle of a call that others share."""

from __future__ import annotations

from uuid import uuid4

import pytest

from kagura_tasks import LLMClient, Settings
from tests.support.chaos import worker_options
from tests.support.llm import StubServer
from tests.support.wait import until
from tests.support.workers import Fleet


@pytest.fixture
def prompt() -> str:
    return f"Say something about {uuid4().hex}."


@pytest.mark.parametrize("pool", ["threads", "prefork", "asyncio"])
def test_one_follower_takes_over_when_the_leader_is_killed(
    settings: Settings, start_workers: Fleet, stub: StubServer, prompt: str, pool: str
):
    """kill -9 of the leading worker in the middle of its call: exactly one of the followers calls again."""
    stub.script(text="Second time lucky.")
    stub.script(delay_s=60, times=1)
    lease = {"KAGURA_TASKS_FLIGHT_LEASE_S": "1"}
    (leader,) = start_workers(1, worker_options(pool, 1, environment=lease), api_base=stub.base_url)
    client = LLMClient(settings)
    first = client.submit(prompt)
    until(lambda: stub.count() == 1, what="the leader's call")
    start_workers(1, worker_options(pool, 6, environment=lease), api_base=stub.base_url)
    followers = [client.submit(prompt) for _ in range(6)]
    leader.kill9()
    assert {follower.get(timeout_s=30).text for follower in followers} == {"Second time lucky."}
    assert stub.count() == 2
    assert first.status() == "PENDING"
