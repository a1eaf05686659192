"""Limits of the fleet, with real workers: what the provider sees, and what callers are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import BudgetExceeded, PriceUnknown, ProviderUnavailable
from tests.support.llm import StubServer
from tests.support.redis_keys import keys_without_ttl
from tests.support.wait import until
from tests.support.workers import Fleet, WorkerOptions

#: One limit for each test, so that none finds what another one used.
LIMITS: dict[str, Any] = {
    "openai/rate": {"requests_per_min": 600, "window_s": 1},
    "openai/places": {"concurrency": 4},
    "openai/pause": {"concurrency": 50},
    "openai/other": {"concurrency": 50},
    "openai/broken": {"concurrency": 50},
    "openai/first": {"concurrency": 50},
    "openai/fair": {"concurrency": 4},
    "openai/line": {"concurrency": 1},
}

#: What a call costs here (7 tokens of prompt, 5 of answer), and what it may cost at most with `max_tokens=20` (USD).
PRICED = "openai/gpt-4o-mini"


@pytest.fixture(scope="module", params=["threads", "asyncio"])
def _workers(
    request: pytest.FixtureRequest, stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis]:
    environment = {
        "KAGURA_TASKS_LIMITS": json.dumps(LIMITS),
        "KAGURA_TASKS_TENANT_BUDGETS_USD_PER_DAY": '{"poor": 0.00005}',
        "KAGURA_TASKS_BREAKER_FAILURES": "3",
        "KAGURA_TASKS_BREAKER_OPEN_S": "2",
        "KAGURA_TASKS_RETRY_BASE_S": "0.05",
        "KAGURA_TASKS_MAX_RETRIES": "1",
        # Such names are known to nobody but whoever runs this server.
        "KAGURA_TASKS_FALLBACKS": '{"openai/with-a-spare": ["openai/spare"]}',
    }
    with EmbeddedRedis() as server:
        fleet = Fleet(server.url, stub_server.base_url, tmp_path_factory.mktemp("limits"))
        try:
            fleet(2, WorkerOptions(pool=request.param, concurrency=32, environment=environment))
            yield server
            assert not keys_without_ttl(sync_client(server.url, 2.0))
        finally:
            fleet.stop()


class Scene:
    """One test's provider and tenants."""

    def __init__(self, server: EmbeddedRedis, stub: StubServer) -> None:
        self._url = server.url
        self.stub = stub
        self.client = self.client_of(f"test-{uuid4().hex[:8]}")

    @property
    def redis(self) -> redis.Redis:
        return sync_client(self._url, 2.0)

    def client_of(self, tenant: str) -> LLMClient:
        return LLMClient(Settings(redis_url=self._url, tenant=tenant, wait_timeout_s=60))

    def submit(self, model: str, count: int, client: LLMClient | None = None, **options: Any) -> list[Any]:
        """So many different calls of this model, with the number of each in its prompt."""
        client = client or self.client
        prompts = [f"{number} {client.settings.tenant} {uuid4().hex}" for number in range(count)]
        return [client.submit(prompt, model=f"openai/{model}", **options) for prompt in prompts]

    def seen(self, model: str) -> list[dict[str, Any]]:
        """What the provider was asked of this model, in order."""
        found = [one for one in self.stub.ledger()["requests"] if one["body"]["model"] == model]
        return sorted(found, key=lambda one: one["started_at"])


@pytest.fixture
def scene(_workers: EmbeddedRedis, stub: StubServer) -> Scene:
    return Scene(_workers, stub)


def test_no_window_has_more_calls_than_it_allows(scene: Scene):
    """Ten in a second, over all workers: forty calls at once take three seconds or more."""
    for result in scene.submit("rate", 40):
        result.get()
    begun = [one["started_at"] for one in scene.seen("rate")]
    assert len(begun) == 40
    # A call takes its time from its place under the limit to the provider.
    assert min(later - earlier for earlier, later in zip(begun, begun[10:], strict=False)) > 0.9
    assert begun[-1] - begun[0] < 8


def test_no_more_calls_run_than_there_are_places(scene: Scene):
    """And all places are used."""
    scene.stub.script(delay_s=0.2)
    results = scene.submit("places", 30)
    assert all(result.get().attempts == 1 for result in results)
    assert scene.stub.peak() == 4


def test_who_waits_holds_no_slot(scene: Scene):
    """A hundred wait for one place; a call of another model goes past them all."""
    scene.stub.script(held=True, when='"line"')
    waiting = scene.submit("line", 100)
    until(lambda: scene.redis.zcard("kagura:limit:openai/line:line") > 90, what="a line")
    assert scene.submit("free", 1)[0].get(timeout_s=5).text
    assert {result.status() for result in waiting} == {"PENDING"}
    for result in waiting:
        result.cancel()
    scene.stub.release()


def test_a_tenant_does_not_wait_behind_anothers_flood(scene: Scene):
    """Each second place is its own."""
    scene.stub.script(delay_s=1, when='"fair"')
    flood = scene.submit("fair", 60)
    until(lambda: scene.redis.zcard("kagura:limit:openai/fair:line") > 40, what="a line")
    few = scene.submit("fair", 4, scene.client_of(f"test-{uuid4().hex[:8]}"))
    for result in few:
        result.get(timeout_s=10)
    began = [one["body"]["messages"][0]["content"].split()[1] for one in scene.seen("fair")]
    tenant = scene.client.settings.tenant
    behind = max(number for number, name in enumerate(began) if name != tenant)
    first = min(number for number, name in enumerate(began) if name != tenant)
    # Two rounds of four places, and what was there before.
    assert behind - first <= 12
    for result in flood:
        result.cancel()


def test_one_retry_after_closes_the_key_for_all_workers(scene: Scene):
    """For so long, and no other key."""
    scene.stub.script(status=429, headers={"Retry-After": "2"}, times=1, when='"pause"')
    (first,) = scene.submit("pause", 1)
    until(lambda: scene.redis.hexists("kagura:limit:openai/pause", "paused_until"), what="a pause")
    others = scene.submit("pause", 10)
    for result in scene.submit("other", 10):
        result.get(timeout_s=10)
    assert len(scene.seen("pause")) == 1
    assert [result.get().attempts for result in (first, *others)] == [2] + [1] * 10
    refused, *later = scene.seen("pause")
    waited_s = [one["started_at"] - refused["ended_at"] for one in later]
    assert min(waited_s) >= 2
    assert sorted(waited_s)[0] < 2.6


def test_a_deployment_that_fails_is_left_alone_until_one_call_is_answered(scene: Scene):
    """Three failures close it; after two seconds one call tries, and all others follow."""
    scene.stub.script(status=503, times=3, when='"broken"')
    failing = scene.submit("broken", 1)[0]
    with pytest.raises(ProviderUnavailable):
        failing.get()
    scene.submit("broken", 1)[0].get()
    closed_at = [one["ended_at"] for one in scene.seen("broken")][2]
    for result in scene.submit("broken", 5):
        result.get()
    assert min(one["started_at"] for one in scene.seen("broken")[3:]) - closed_at >= 1.9


def test_a_fallback_answers_where_the_model_fails(scene: Scene):
    """At once. It is named, all calls count, and nobody gets its answer later who did not name it."""
    scene.stub.script(status=503, when='"first"')
    prompt = f"Say something about {uuid4().hex}."
    answer = scene.client.complete(prompt, model="openai/first", fallbacks=["openai/second", "openai/third"])
    assert (answer.model, answer.attempts, answer.cached) == ("openai/second", 2, False)
    again = scene.client.complete(prompt, model="openai/first", fallbacks=["openai/second", "openai/third"])
    assert (again.model, again.cached) == ("openai/second", True)
    scene.stub.script(status=503, times=1, when='"with-a-spare"')
    assert scene.client.complete(prompt, model="openai/with-a-spare").model == "openai/spare"
    later = scene.client.complete(prompt, model="openai/with-a-spare")
    assert (later.model, later.cached) == ("openai/with-a-spare", False)


def test_a_budget_holds_before_any_call(scene: Scene):
    """Fifty at once, money for some: what is refused is not called, and the error says why."""
    poor = scene.client_of("poor")
    results = [poor.submit(f"{uuid4().hex}", model=PRICED, max_tokens=20) for _ in range(50)]

    def refusal(result: Any) -> float | None:
        try:
            result.get()
        except BudgetExceeded as error:
            return error.budget_usd
        return None

    with ThreadPoolExecutor(10) as pool:
        refused = [usd for usd in pool.map(refusal, results) if usd is not None]
    assert 3 <= len(scene.seen("gpt-4o-mini")) == 50 - len(refused) < 50
    assert set(refused) == {0.00005}
    with pytest.raises(PriceUnknown):
        poor.complete("?", model="openai/a-model-of-our-own")
