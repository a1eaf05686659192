"""What limits, budgets and weights may say, and whom a limit is for."""

from __future__ import annotations

import pytest

from kagura_tasks import LLMClient, Settings
from kagura_tasks.cache.key import cache_key
from kagura_tasks.errors import ConfigurationError, InvalidRequest
from kagura_tasks.limits.terms import LimitTerms, patterns_for
from kagura_tasks.schemas import CompletionRequest, Message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITS", "no JSON"),
        ("LIMITS", "[]"),
        ("LIMITS", '{"openai/*": 600}'),
        ("LIMITS", '{"openai/*": {"requests_per_min": 0}}'),
        ("LIMITS", '{"openai/*": {"requests_per_min": -1}}'),
        ("LIMITS", '{"openai/*": {"requests_per_min": "many"}}'),
        ("LIMITS", '{"openai/*": {"requests_per_min": true}}'),
        ("LIMITS", '{"openai/*": {"tokens_per_min": 0.5}}'),
        ("LIMITS", '{"openai/*": {"concurrency": 0}}'),
        ("LIMITS", '{"openai/*": {"requests_per_hour": 600}}'),
        ("LIMITS", '{"openai/*": {"requests_per_min": 5, "window_s": 6}}'),
        ("LIMITS", '{"a model": {}}'),
        ("TENANT_WEIGHTS", '{"acme": 0}'),
        ("TENANT_WEIGHTS", '{"acme": -1}'),
        ("BUDGET_USD_PER_DAY", "much"),
        ("BUDGET_USD_PER_DAY", "0"),
        ("BUDGET_USD_PER_DAY", "nan"),
        ("TENANT_BUDGETS_USD_PER_DAY", '{"acme": "much"}'),
        ("TENANT_BUDGETS_USD_PER_DAY", '{"acme": -1}'),
        ("TENANT_BUDGETS_USD_PER_DAY", '{"a tenant": 1}'),
        ("FALLBACKS", '{"openai/gpt-4o": "openai/gpt-4o-mini"}'),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_settings_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    """Before anything starts; the value itself is not quoted."""
    monkeypatch.setenv(f"KAGURA_TASKS_{name}", value)
    with pytest.raises(ConfigurationError, match=f"^KAGURA_TASKS_{name} ") as refused:
        Settings()
    assert len(value) < 5 or value not in str(refused.value)


def test_a_window_has_its_part_of_a_minute():
    """Rounded down: a minute never has more."""
    terms = LimitTerms(requests_per_min=605, tokens_per_min=1000, window_s=6)
    assert (terms.requests, terms.tokens, terms.concurrency) == (60, 100, None)


def test_the_most_specific_limit_is_first():
    """A name before a pattern, a long pattern before a short one; what does not fit is left out."""
    limits = {name: LimitTerms() for name in ("*", "openai/*", "openai/gpt-4o*", "openai/gpt-4o-mini", "anthropic/*")}
    assert patterns_for(limits, "openai/gpt-4o-mini") == ["openai/gpt-4o-mini", "openai/gpt-4o*", "openai/*", "*"]


def test_fallbacks_are_part_of_the_key_and_no_parameter():
    """Who allows another model deserves its answer; who does not, does not."""
    client = LLMClient(Settings(execution="inline"))
    alone = client.request("hello", model="openai/a")
    named = client.request("hello", model="openai/a", fallbacks=["openai/b"])
    assert (named.fallbacks, named.params) == (("openai/b",), {})
    assert cache_key(named) != cache_key(alone)
    assert cache_key(alone) == cache_key(
        CompletionRequest(model="openai/a", messages=(Message(role="user", content="hello"),))
    )


@pytest.mark.parametrize("fallbacks", ["openai/b", ["a model"], [1], ["openai/b"] * 9])
def test_fallbacks_are_names_of_models(fallbacks: object):
    """A few of them, in a list."""
    with pytest.raises(InvalidRequest):
        LLMClient(Settings(execution="inline")).request("hello", fallbacks=fallbacks)
