"""What a map may cost: a call is made only where the budget has room for the most that it may cost."""

from __future__ import annotations

import pytest

from kagura_tasks.errors import BudgetExceeded, InvalidRequest, PriceUnknown
from tests.support.map_scene import MapScene

#: What a call costs here (7 tokens of prompt, 5 of answer), and what it may cost at most with `max_tokens=20` (USD).
CALL_USD = 4.05e-6
MOST_USD = 1.4e-5


def test_a_map_never_costs_more_than_its_budget(maps: MapScene):
    """Each item reserves before it calls. What was answered is kept, and a larger budget goes on."""
    maps.stub.script(text="A scripted answer.", delay_s=0.05)
    budget_usd = 40 * CALL_USD
    group = maps.client.map(maps.prompts(100), max_in_flight=32, budget_usd=budget_usd, max_tokens=20)
    with pytest.raises(BudgetExceeded) as exceeded:
        group.get(timeout_s=60)
    progress = group.progress()
    assert (progress.state, progress.in_flight, progress.failed) == ("over_budget", 0, 0)
    assert progress.done == maps.stub.count()
    assert budget_usd - MOST_USD < progress.cost_usd <= budget_usd
    assert exceeded.value.spent_usd == pytest.approx(progress.cost_usd)
    again = maps.client.resume_map(group.id, budget_usd=1.0)
    assert len(again.get(timeout_s=60)) == maps.stub.count() == 100


def test_what_costs_nothing_needs_no_budget(maps: MapScene):
    """Remembered answers, and equal items, come where there is no money for a single call."""
    prompts = maps.prompts(5)
    maps.client.map(prompts, max_tokens=20).get(timeout_s=60)
    group = maps.client.map(prompts * 2, budget_usd=CALL_USD / 100, max_tokens=20)
    assert [answer.cached for answer in group.get(timeout_s=60) if not isinstance(answer, Exception)] == [True] * 10
    assert maps.stub.count() == 5


def test_no_call_is_made_where_the_budget_is_too_small_for_one(maps: MapScene):
    """The map stops at once, and says what it has."""
    group = maps.client.map(maps.prompts(8), budget_usd=CALL_USD / 100, max_tokens=20)
    with pytest.raises(BudgetExceeded):
        group.get(timeout_s=60)
    assert maps.stub.count() == 0


def test_a_model_without_a_price_fails_under_a_budget(maps: MapScene):
    """Nobody could keep it. Without a budget the same model is called."""
    group = maps.client.map(maps.prompts(2), model="openai/a-model-of-our-own", budget_usd=1.0, max_tokens=20)
    answers = group.get(timeout_s=60)
    assert [type(answer) for answer in answers] == [PriceUnknown] * 2
    assert maps.stub.count() == 0
    assert len(maps.client.map(maps.prompts(2), model="openai/a-model-of-our-own").get(timeout_s=60)) == 2


def test_a_call_that_fails_gives_its_money_back(maps: MapScene):
    """Failures cost nothing here: the budget of one call is enough for all that follow, one after the other."""
    maps.stub.script(status=400, body="{}")
    group = maps.client.map(maps.prompts(20), budget_usd=MOST_USD, max_tokens=20)
    assert sum(isinstance(answer, Exception) for answer in group.get(timeout_s=60)) == 20
    progress = group.progress()
    assert (progress.state, progress.cost_usd) == ("done", 0.0)


@pytest.mark.parametrize("budget_usd", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_number_above_zero(maps: MapScene, budget_usd: float):
    """Anything else is refused before anything is sent."""
    with pytest.raises(InvalidRequest, match="budget_usd"):
        maps.client.map(maps.prompts(1), budget_usd=budget_usd)
    assert maps.keys() == []
