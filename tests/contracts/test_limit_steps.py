"""The steps that keep limits, each by itself, with a clock of the test's own."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kagura_tasks.connections import async_client
from kagura_tasks.limits.store import (
    Ask,
    Away,
    Breaker,
    Broke,
    Budget,
    Closed,
    Ended,
    Entered,
    Limit,
    LimitStore,
    Stay,
    Verdict,
)
from kagura_tasks.limits.terms import LimitTerms
from kagura_tasks.settings import RedisUrl, Settings

_NUMBERS = count()
_START_MS = 1_800_000_000_000.0


@dataclass
class Scene:
    """One limit with a name of its own, and a clock that the test moves."""

    url: RedisUrl
    terms: LimitTerms
    now_ms: float = _START_MS
    pattern: str = field(default_factory=lambda: f"test/{uuid4().hex}")
    breaker: Breaker = field(default_factory=lambda: Breaker(failures=2, open_s=10))

    @property
    def store(self) -> LimitStore:
        return LimitStore(async_client(self.url, 2.0), self.breaker)

    def call(self, tenant: str = "a", tokens: int = 0, **given: Any) -> Ask:
        number = next(_NUMBERS)
        limits = [Limit(self.pattern, self.terms, tokens)]
        call = Ask(f"id-{number}", f"t-{number}", tenant, 1.0, 3, limits, [], lease_s=10.0)
        return replace(call, **given)

    async def ask(
        self, call: Ask, stay_s: float = 1.0, *, may_leave: bool = True, has_elsewhere: bool = False
    ) -> Verdict:
        how = {"may_leave": may_leave, "has_elsewhere": has_elsewhere}
        return await self.store.reserve(call, stay_s=stay_s, now_ms=self.now_ms, **how)

    async def end(self, call: Ask, ended: Ended | None = None) -> None:
        await self.store.settle(call, ended or Ended("answered"), self.now_ms)

    def after(self, seconds: float) -> None:
        self.now_ms += seconds * 1000


@pytest.fixture
def scene(settings: Settings) -> Scene:
    return Scene(settings.broker, LimitTerms(requests_per_min=3))


def _scene(scene: Scene, **terms: Any) -> Scene:
    return Scene(scene.url, LimitTerms(**terms))


async def test_a_window_takes_what_it_allows(scene: Scene):
    """And the next call when the first one is out of it."""
    verdicts = [await scene.ask(scene.call()) for _ in range(4)]
    assert verdicts[:3] == [Entered()] * 3
    assert isinstance(verdicts[3], Away)
    scene.after(60)
    assert not isinstance(await scene.ask(scene.call()), Entered)
    scene.after(1.5)
    assert await scene.ask(scene.call()) == Entered()


@examples(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pauses_ms=st.lists(st.integers(0, 20_000), min_size=30, max_size=80), allowed=st.integers(1, 8))
async def test_no_window_holds_more_than_it_allows(settings: Settings, pauses_ms: list[int], allowed: int):
    """Whenever calls come: not at an edge of a minute, either."""
    scene = Scene(settings.broker, LimitTerms(requests_per_min=allowed))
    begun: list[float] = []
    for pause_ms in pauses_ms:
        scene.now_ms += pause_ms
        if isinstance(await scene.ask(scene.call()), Entered):
            begun.append(scene.now_ms)
    assert all(later - earlier > 60_000 for earlier, later in zip(begun, begun[allowed:], strict=False))


async def test_the_hint_is_when_there_is_room(scene: Scene):
    """A waiter that is told to look again then finds its place, and not much later than it was free."""
    scene = _scene(scene, requests_per_min=60, window_s=1)
    assert await scene.ask(scene.call()) == Entered()
    scene.after(0.3)
    waiter = scene.call()
    stay = await scene.ask(waiter)
    assert isinstance(stay, Stay)
    assert 0.95 < stay.look_s < 1.0
    scene.now_ms += stay.look_s * 1000
    assert await scene.ask(waiter) == Entered()


async def test_tokens_are_counted_as_they_were_used(scene: Scene):
    """What was set aside and not used is there for others at once."""
    scene = _scene(scene, tokens_per_min=1000)
    first, second = scene.call(tokens=900), scene.call(tokens=200)
    assert await scene.ask(first) == Entered()
    assert isinstance(await scene.ask(second), Away)
    await scene.end(first, Ended("answered", tokens=100))
    assert await scene.ask(second) == Entered()


async def test_a_call_of_more_tokens_than_a_window_has_gets_one_of_its_own(scene: Scene):
    """It would wait for ever otherwise."""
    scene = _scene(scene, tokens_per_min=1000)
    assert await scene.ask(scene.call(tokens=5000)) == Entered()
    assert isinstance(await scene.ask(scene.call(tokens=1)), Away)


async def test_a_place_is_free_when_its_call_has_ended(scene: Scene):
    """Or when the lease of its worker has."""
    scene = _scene(scene, concurrency=1)
    first, second, third = scene.call(), scene.call(), scene.call()
    assert await scene.ask(first) == Entered()
    assert not isinstance(await scene.ask(second), Entered)
    await scene.end(first)
    assert await scene.ask(second) == Entered()
    scene.after(11)
    assert await scene.ask(third) == Entered()


async def test_who_came_first_is_first(scene: Scene):
    """Also when it was away, and is due again; whoever is long overdue blocks nobody."""
    scene = _scene(scene, concurrency=1)
    running, first, second, third = (scene.call() for _ in range(4))
    await scene.ask(running)
    away = await scene.ask(first, stay_s=0)
    assert isinstance(away, Away)
    await scene.ask(second)
    scene.now_ms += away.back_s * 1000
    await scene.end(running)
    assert isinstance(await scene.ask(second), Stay)
    scene.after(1.1)
    assert await scene.ask(second) == Entered()
    await scene.ask(third)
    await scene.end(second)
    assert isinstance(await scene.ask(first), Entered)


async def test_a_waiter_that_died_blocks_nobody(scene: Scene):
    """It has said nothing for some seconds."""
    scene = _scene(scene, concurrency=1)
    running, dead, living = (scene.call() for _ in range(3))
    await scene.ask(running, stay_s=60)
    assert isinstance(await scene.ask(dead, stay_s=60), Stay)
    await scene.end(running)
    assert isinstance(await scene.ask(living, stay_s=60), Stay)
    scene.after(3.1)
    assert await scene.ask(living, stay_s=60) == Entered()


async def test_interactive_calls_come_before_batch(scene: Scene):
    """Whenever they came."""
    scene = _scene(scene, concurrency=1)
    running, batch, person = scene.call(), scene.call(priority=9), scene.call(priority=0)
    for one in (running, batch, person):
        await scene.ask(one, stay_s=60)
    await scene.end(running)
    assert isinstance(await scene.ask(batch, stay_s=60), Stay)
    assert await scene.ask(person, stay_s=60) == Entered()


@pytest.mark.parametrize(("weight", "expected"), [(1.0, {"a": 10, "b": 10}), (3.0, {"a": 5, "b": 15})])
async def test_tenants_share_by_weight(scene: Scene, weight: float, expected: dict[str, int]):
    """However many one of them has in line before the other comes."""
    scene = _scene(scene, concurrency=1)
    running = scene.call()
    await scene.ask(running, stay_s=600)
    waiting = [scene.call("a") for _ in range(40)] + [scene.call("b", weight=weight) for _ in range(40)]
    for one in waiting:
        await scene.ask(one, stay_s=600)
    served: Counter[str] = Counter()
    for _ in range(20):
        await scene.end(running)
        for one in waiting:
            if await scene.ask(one, stay_s=600) == Entered():
                running = one
                break
        waiting.remove(running)
        served[running.tenant] += 1
    assert all(abs(served[tenant] - number) <= 1 for tenant, number in expected.items())


async def test_a_pause_closes_for_all_and_ends(scene: Scene):
    """A call that has somewhere else to go is told so, and stands in no line."""
    scene = _scene(scene, concurrency=100)
    call = scene.call()
    await scene.ask(call)
    await scene.end(call, Ended("limited", pause_s=5))
    assert await scene.ask(scene.call()) == Away(4.5)
    assert await scene.ask(scene.call(), has_elsewhere=True) == Closed(5.0)
    scene.after(4.99)
    assert isinstance(await scene.ask(scene.call()), Stay)
    scene.after(0.02)
    assert await scene.ask(scene.call()) == Entered()


async def test_the_breaker_opens_and_lets_one_call_try(scene: Scene):
    """If that one is answered, all may call; if not, it stays open."""
    scene = _scene(scene, concurrency=100)

    async def fail() -> None:
        call = scene.call()
        assert await scene.ask(call) == Entered()
        await scene.end(call, Ended("failed"))

    await fail()
    await fail()
    assert isinstance(await scene.ask(scene.call(), has_elsewhere=True), Closed)
    scene.after(10)
    await fail()
    assert isinstance(await scene.ask(scene.call(), has_elsewhere=True), Closed)
    scene.after(10)
    probe = scene.call()
    assert await scene.ask(probe) == Entered()
    assert isinstance(await scene.ask(scene.call(), has_elsewhere=True), Closed)
    await scene.end(probe)
    assert [await scene.ask(scene.call()) for _ in range(3)] == [Entered()] * 3


async def test_a_call_counts_for_all_its_limits_or_for_none(scene: Scene):
    """The model has room, the account has not: nothing is taken from the model."""
    account = _scene(scene, concurrency=1)
    both = [Limit(scene.pattern, scene.terms), Limit(account.pattern, account.terms)]
    first, second = scene.call(limits=both), scene.call(limits=both)
    assert await scene.ask(first) == Entered()
    assert not isinstance(await scene.ask(second), Entered)
    found = {one.name: one.fields for one in await scene.store.standings()}
    assert found[scene.pattern]["requests_used"] == 1
    assert found[account.pattern]["waiting"] == 1
    await scene.end(first)
    assert await scene.ask(second) == Entered()


async def test_a_budget_holds_to_the_cent(scene: Scene):
    """Twenty calls of 0.01 USD fit into 0.20; money that was not spent is there again, and what was is not."""
    budget = [Budget(f"t-{uuid4().hex[:8]}", 0.20, 0.01)]
    calls = [scene.call(limits=[], budgets=budget) for _ in range(25)]
    verdicts = [await scene.ask(call) for call in calls]
    assert verdicts[:20] == [Entered()] * 20
    assert verdicts[20] == Broke(budget[0], 0.0, 0.2)
    await scene.end(calls[0], Ended("failed"))
    await scene.end(calls[1], Ended("answered", usd=0.01))
    assert await scene.ask(calls[20]) == Entered()
    assert await scene.ask(calls[21]) == Broke(budget[0], 0.01, 0.19)


async def test_who_is_refused_while_it_waits_leaves_the_line(scene: Scene):
    """The money was spent meanwhile, or the provider closed, and there is another: nobody waits behind it."""
    scene = _scene(scene, concurrency=1)
    budget = Budget(f"t-{uuid4().hex[:8]}", 0.02, 0.01)
    running = scene.call(budgets=[budget])
    waiter = scene.call(budgets=[budget])
    await scene.ask(running)
    assert isinstance(await scene.ask(waiter), Stay)
    await scene.end(running, Ended("answered", usd=0.02))
    assert isinstance(await scene.ask(waiter), Broke)
    (standing,) = [one for one in await scene.store.standings() if one.name == scene.pattern]
    assert standing.fields["waiting"] == 0


async def test_a_dead_workers_money_comes_back(scene: Scene):
    """When its lease ends; and each day has a budget of its own."""
    budget = [Budget(f"t-{uuid4().hex[:8]}", 0.01, 0.01)]
    dead, next_one, tomorrow = (scene.call(limits=[], budgets=budget) for _ in range(3))
    assert await scene.ask(dead) == Entered()
    assert isinstance(await scene.ask(next_one), Broke)
    scene.after(10)
    assert await scene.ask(next_one) == Entered()
    await scene.end(next_one, Ended("answered", usd=0.01))
    scene.after(86_400)
    assert await scene.ask(tomorrow) == Entered()


async def test_what_is_spent_after_midnight_is_of_the_day_before(scene: Scene):
    """The day on which it was set aside."""
    budget = [Budget(f"t-{uuid4().hex[:8]}", 0.01, 0.01)]
    late, early = scene.call(limits=[], budgets=budget), scene.call(limits=[], budgets=budget)
    scene.now_ms = (scene.now_ms // 86_400_000 + 1) * 86_400_000 - 1
    await scene.ask(late)
    scene.after(1)
    await scene.end(late, Ended("answered", usd=0.01))
    assert await scene.ask(early) == Entered()


async def test_who_is_due_again_leaves_nothing_for_ever(scene: Scene):
    """Its place is made anew by whoever looks next, who gets one of their own."""
    scene = _scene(scene, concurrency=1)
    running, late = scene.call(), scene.call()
    await scene.ask(running)
    away = await scene.ask(late, stay_s=0)
    assert isinstance(away, Away)
    scene.now_ms += away.back_s * 1000
    await scene.end(running)
    await scene.ask(scene.call(), has_elsewhere=True)
    client: Any = async_client(scene.url, 2.0)
    assert await client.ttl(f"kagura:limit:{scene.pattern}:here") > 0
    assert await client.ttl(f"kagura:limit:{scene.pattern}:times") > 0


async def test_no_key_names_a_tenant_whose_data_is_not_in_it(scene: Scene):
    """A limit is the fleet's; a budget is its tenant's."""
    budget = Budget("someone", 1.0)
    assert [re.sub("[0-9a-f]{32}", "x", key) for key in scene.call(budgets=[budget]).keys] == [
        "kagura:limit:test/x",
        "kagura:budget:someone",
    ]
