"""Settings: what is wrong is told by the variable's name and the value's kind; a secret is in no text."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getdoc
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kagura_tasks.client import LLMClient
from kagura_tasks.connections import celery_url
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import ENV_PREFIX, RedisUrl, Settings, load_settings
from kagura_tasks.worker import install

SECRET = "hunter2"


def test_without_any_variable_there_are_defaults():
    """Nothing set: Redis on this machine, and calls through the queue."""
    settings = Settings()
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.broker == settings.results == settings.cache == settings.redis_url
    assert (settings.execution, settings.tenant, settings.cache_ttl_s) == ("queue", "default", 3600)


@pytest.mark.parametrize(
    ("name", "value", "field", "meant"),
    [
        ("REDIS_URL", "redis://host:1/2", "redis_url", "redis://host:1/2"),
        ("DEFAULT_MODEL", "groq/llama-3.3-70b", "default_model", "groq/llama-3.3-70b"),
        ("TENANT", "acme", "tenant", "acme"),
        ("EXECUTION", "inline", "execution", "inline"),
        ("CACHE_TTL_S", "60", "cache_ttl_s", 60),
        ("CACHE_ENABLED", "false", "cache_enabled", False),
        ("CALL_TIMEOUT_S", "2.5", "call_timeout_s", 2.5),
        ("MAX_RETRIES", "0", "max_retries", 0),
        ("VISIBILITY_TIMEOUT_S", "10", "visibility_timeout_s", 10),
        ("VISIBILITY_TIMEOUT_S", "10", "renewal_s", 2.5),
        ("LEASE_RENEWAL_S", "10", "renewal_s", 10),
        ("LONGEST_HOLD_S", "7200", "longest_hold_s", 7200),
        ("MAX_DEATHS", "1", "max_deaths", 1),
        ("SHUTDOWN_TIMEOUT_S", "0.5", "shutdown_timeout_s", 0.5),
        ("CONCURRENCY", "500", "concurrency", 500),
        ("concurrency", "500", "concurrency", 500),
        ("CONCURRENCY", "", "concurrency", Settings.model_fields["concurrency"].default),
    ],
)
def test_each_setting_is_a_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, meant: object):
    """KAGURA_TASKS_<NAME> sets it; an empty variable is none."""
    monkeypatch.setenv(f"{ENV_PREFIX}{name}", value)
    assert getattr(Settings(), field) == meant


def test_every_setting_is_documented():
    """The class's docstring names each field."""
    documented = getdoc(Settings) or ""
    assert [name for name in Settings.model_fields if f"\n    {name}: " not in documented] == []


def test_an_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch):
    """What the program says counts more than its environment."""
    monkeypatch.setenv("KAGURA_TASKS_TENANT", "from-environment")
    assert Settings(tenant="from-program").tenant == "from-program"


@pytest.mark.parametrize("part", ["broker", "result", "cache"])
def test_one_address_can_differ_from_the_rest(monkeypatch: pytest.MonkeyPatch, part: str):
    """BROKER_URL, RESULT_URL and CACHE_URL each move one part; the others stay at REDIS_URL."""
    monkeypatch.setenv("KAGURA_TASKS_REDIS_URL", "redis://all:6379/0")
    monkeypatch.setenv(f"KAGURA_TASKS_{part.upper()}_URL", "redis://one:6379/0")
    settings = Settings()
    found = {"broker": settings.broker, "result": settings.results, "cache": settings.cache}
    assert {name: url.split("/")[2] for name, url in found.items()} == {
        **dict.fromkeys(found, "all:6379"),
        part: "one:6379",
    }


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("REDIS_URL", f"http://user:{SECRET}@host", "redis://host:6379/0"),
        ("REDIS_URL", SECRET, "redis://host:6379/0"),
        ("REDIS_URL", f"redis://:{SECRET}@", "redis://host:6379/0"),
        ("REDIS_URL", f"redis://:{SECRET}@host:port/0", "redis://host:6379/0"),
        ("REDIS_URL", f"redis://:{SECRET}@[host/0", "redis://host:6379/0"),
        ("REDIS_URL", "unix://", "unix:///path/redis.sock"),
        ("CACHE_URL", SECRET, "redis://host:6379/0"),
        ("EXECUTION", SECRET, "'queue' or 'inline'"),
        ("CACHE_TTL_S", SECRET, "valid integer"),
        ("CACHE_TTL_S", "0", "greater than 0"),
        ("CACHE_TTL_S", "1.5", "valid integer"),
        ("CALL_TIMEOUT_S", "-1", "greater than 0"),
        ("CALL_TIMEOUT_S", "nan", "finite"),
        ("CALL_TIMEOUT_S", "inf", "finite"),
        ("CACHE_ENABLED", SECRET, "valid boolean"),
        ("TENANT", f"{SECRET} with spaces", "pattern"),
        ("TENANT", "a:b", "pattern"),
        ("DEFAULT_MODEL", f"{SECRET} model", "pattern"),
        ("MAX_RETRIES", "-1", "greater than or equal to 0"),
        ("VISIBILITY_TIMEOUT_S", "1", "greater than or equal to 2"),
        ("LEASE_RENEWAL_S", "0", "greater than or equal to 0.1"),
        ("LONGEST_HOLD_S", "0", "greater than 0"),
        ("MAX_DEATHS", "0", "greater than 0"),
        ("SHUTDOWN_TIMEOUT_S", "0", "greater than 0"),
    ],
)
def test_a_wrong_value_stops_the_program_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, allowed: str
):
    """One error: the variable's name, the value's kind and what is allowed; never the value."""
    monkeypatch.setenv(f"{ENV_PREFIX}{name}", wrong)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    told = str(caught.value)
    assert told.startswith(f"KAGURA_TASKS_{name} is a text of {len(wrong)} characters: ")
    assert allowed in told
    assert SECRET not in told
    assert caught.value.__cause__ is None
    assert SECRET not in repr(caught.value)


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch):
    """Nobody mends a configuration one error at a time."""
    monkeypatch.setenv("KAGURA_TASKS_TENANT", "?")
    monkeypatch.setenv("KAGURA_TASKS_CONCURRENCY", "0")
    with pytest.raises(ConfigurationError, match=r"(?s)KAGURA_TASKS_TENANT.*KAGURA_TASKS_CONCURRENCY"):
        Settings()


@pytest.mark.parametrize(
    ("visibility_timeout_s", "lease_renewal_s", "fits"),
    [(30, 10, True), (30, 10.1, False), (2, None, True), (2, 0.6, True), (2, 0.7, False), (7.5, 30, False)],
)
def test_three_renewals_fit_into_the_visibility_timeout(
    visibility_timeout_s: float, lease_renewal_s: float | None, fits: bool
):
    """One late renewal must not cost a worker what it holds: the error names both settings, and no value."""
    given: dict[str, Any] = {"visibility_timeout_s": visibility_timeout_s, "lease_renewal_s": lease_renewal_s}
    if fits:
        assert Settings(**given).renewal_s * 3 <= visibility_timeout_s
        return
    with pytest.raises(ConfigurationError) as caught:
        Settings(**given)
    told = "KAGURA_TASKS_LEASE_RENEWAL_S must be at most a third of KAGURA_TASKS_VISIBILITY_TIMEOUT_S"
    assert str(caught.value) == told


def test_a_shorter_visibility_timeout_brings_shorter_renewals():
    """Unless these are set: then the change is checked like any other."""
    assert Settings().override(visibility_timeout_s=4.0).renewal_s == 1
    with pytest.raises(ConfigurationError, match="LEASE_RENEWAL_S"):
        Settings(lease_renewal_s=5).override(visibility_timeout_s=4.0)


def test_an_argument_that_is_no_setting_is_refused():
    """A misspelled argument is not silently ignored."""
    with pytest.raises(ConfigurationError, match="KAGURA_TASKS_REDIS_ULR is no setting"):
        Settings(redis_ulr=SECRET)


def test_an_argument_of_the_wrong_type_is_told_by_its_type():
    """Not every wrong value is a text."""
    with pytest.raises(ConfigurationError, match="KAGURA_TASKS_CONCURRENCY is of type list"):
        Settings(concurrency=[SECRET])


def test_settings_cannot_be_changed():
    """Settings are read once; whoever needs others makes others."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().tenant = "other"


def test_the_processs_settings_are_read_once(monkeypatch: pytest.MonkeyPatch):
    """`load_settings` reads the environment at its first call."""
    first = load_settings()
    monkeypatch.setenv("KAGURA_TASKS_TENANT", "later")
    assert load_settings() is first


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        (f"redis://:{SECRET}@host:6379/0", "redis://***@host:6379/0"),
        (f"rediss://user:{SECRET}@host:6379/0", "rediss://***@host:6379/0"),
        (f"redis://user:{SECRET}%40@host/0?password={SECRET}", "redis://***@host/0"),
        (f"redis://user:with@{SECRET}@host/0", "redis://***@host/0"),
        (f"redis://user:with/{SECRET}@host/0", "redis://***@host/0"),
        (f"redis://user:with?{SECRET}@host/0", "redis://***@host/0"),
        (f"redis://user:with#{SECRET}@host/0", "redis://***@host/0"),
        (f"unix://:{SECRET}@/tmp/redis.sock?db=1", "unix://***@/tmp/redis.sock"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, masked: str):
    """Neither `masked` nor a repr, also of the settings around it, holds a password."""
    address = RedisUrl(url)
    assert SECRET not in address.masked() + repr(address)
    assert address.masked().startswith(masked)


@given(
    user=st.sampled_from(["", "user"]),
    password=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1).map("p4ss".__add__),
)
def test_no_password_is_ever_shown(user: str, password: str):
    """Whatever characters it has, escaped or not: its beginning and its end are in no text."""
    url = f"redis://{user}:{password}{SECRET}@host:6379/0"
    told = RedisUrl(url).masked() + repr(RedisUrl(url))
    try:
        told += repr(Settings(redis_url=RedisUrl(url)))
    except ConfigurationError as error:
        told += str(error)
    assert SECRET not in told
    assert "p4ss" not in told


def test_a_repr_of_settings_shows_no_password():
    """Settings end up in logs."""
    url = RedisUrl(f"redis://:{SECRET}@host:6379/0")
    settings = Settings(redis_url=url, broker_url=url, result_url=url, cache_url=url)
    assert SECRET not in repr(settings) + str(settings)
    assert "***@host:6379" in repr(settings)


@pytest.mark.parametrize(
    ("url", "for_celery"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("rediss://:pw@host:6379/1", "rediss://:pw@host:6379/1"),
        ("unix:///tmp/redis.sock", "redis+socket:///tmp/redis.sock?virtual_host=0"),
        ("unix:///tmp/redis.sock?db=3", "redis+socket:///tmp/redis.sock?virtual_host=3"),
        ("unix://:pw@/tmp/redis.sock?db=3", "redis+socket://:pw@/tmp/redis.sock?virtual_host=3"),
    ],
)
def test_an_address_is_spelled_as_celery_does(url: str, for_celery: str):
    """redis-py says unix://, kombu says redis+socket://."""
    assert celery_url(RedisUrl(url)) == for_celery


@pytest.mark.parametrize("option", ["broker_transport_options", "result_backend_transport_options"])
@pytest.mark.parametrize("use", [install, lambda app: LLMClient(app=app)])
def test_an_app_with_a_prefix_for_its_keys_is_refused(use: Callable[[Celery], object], option: str):
    """By workers and by applications, before anything is sent: its messages and results would not be found."""
    app = Celery(broker="redis://host:6379/0", backend="redis://host:6379/0", set_as_current=False)
    app.conf[option] = {"global_keyprefix": "team-"}
    with pytest.raises(ConfigurationError, match=f"{option}.*global_keyprefix.*database"):
        use(app)


def values_of(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Settings.model_fields}


def test_an_address_survives_a_copy():
    """A copy of the settings, as a worker makes it, still hides its passwords."""
    settings = Settings(redis_url=RedisUrl(f"redis://:{SECRET}@host:6379/0"))
    assert SECRET not in repr(Settings(**values_of(settings)))
    assert SECRET not in repr(settings.model_copy(update={"tenant": "other"}))
