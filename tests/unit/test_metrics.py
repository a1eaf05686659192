"""Counters and what is made of them."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import redis

from kagura_tasks.cli.flower import require_login
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.errors import ConfigurationError, RedisUnreachable
from kagura_tasks.metrics.figures import Figures, by, quantile_s
from kagura_tasks.metrics.names import BUCKETS_S, Histogram, Series
from kagura_tasks.metrics.prometheus import exposition
from kagura_tasks.metrics.snapshot import Snapshot, read_snapshot
from kagura_tasks.metrics.steps import COUNT_TASK
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.result_backend import STORE
from kagura_tasks.schemas import Completion, CompletionRequest, Message, Usage
from kagura_tasks.settings import Settings
from tests.support.workers import ROOT

USAGE = Usage(prompt_tokens=10, completion_tokens=2, total_tokens=12, cost_usd=0.1, cached_prompt_tokens=4)


def request(tenant: str = "acme", model: str = "m") -> CompletionRequest:
    return CompletionRequest(model=model, tenant=tenant, messages=(Message(role="user", content="Hi"),))


async def answered(tally: Tally, asked: CompletionRequest, usage: Usage = USAGE) -> None:
    async def call() -> Completion:
        return Completion(text="Hello", model=asked.model, finish_reason="stop", usage=usage)

    tally.about(asked)
    _ = await tally.calling(asked, call())


async def failed(tally: Tally, asked: CompletionRequest) -> None:
    async def call() -> Completion:
        raise ValueError

    tally.about(asked)
    with pytest.raises(ValueError):  # noqa: PT011
        _ = await tally.calling(asked, call())


def store(client: redis.Redis, record: dict[str, str], did: str, *, mark: str = "mark") -> object:
    return STORE.run(client, ["record", mark, "counts"], [json.dumps(record), 60, did])  # type: ignore[arg-type]


def total_of(settings: Settings, tenant: str = "acme") -> Counter[str]:
    return by(read_snapshot(settings).total, "tenant")[tenant].counts


async def test_a_failure_that_is_stored_twice_counts_once(settings: Settings, client_of_redis: redis.Redis):
    """The reply to the first time was lost; what comes later is another failure."""
    tally = Tally("kagura.complete", outcome="failed")
    await failed(tally, request())
    record = {"status": "FAILURE", "date_done": "1"}
    for _ in range(2):
        assert store(client_of_redis, record, tally.document()) == 1
    assert total_of(settings)["calls"] == total_of(settings)["failed"] == total_of(settings)["error:ValueError"] == 1
    assert store(client_of_redis, {**record, "date_done": "2"}, tally.document()) == 1
    assert total_of(settings)["calls"] == 2


async def test_what_is_refused_counts_nothing(settings: Settings, client_of_redis: redis.Redis):
    """A worker whose message was given to another one is not believed."""
    tally = Tally("kagura.complete", outcome="done")
    await answered(tally, request())
    client_of_redis.set("mark", "1", ex=60)
    assert store(client_of_redis, {"status": "SUCCESS"}, tally.document()) == 0
    assert COUNT_TASK.run(client_of_redis, ["mark", "counted"], [tally.document()]) == 0  # type: ignore[arg-type]
    assert read_snapshot(settings).total == {}


async def test_a_counter_that_is_broken_keeps_no_answer_back(settings: Settings, client_of_redis: redis.Redis):
    """Somebody put a text where a number was: the answer is stored, and all else is counted."""
    tally = Tally("kagura.complete", outcome="done")
    await answered(tally, request())
    assert store(client_of_redis, {"status": "FAILURE"}, tally.document()) == 1
    (minute,) = client_of_redis.keys("kagura:metrics:minute:*")
    client_of_redis.delete(minute)
    client_of_redis.hset(minute, "acme m kagura.complete calls", "many")
    client_of_redis.expire(minute, 60)
    assert store(client_of_redis, {"status": "RETRY"}, tally.document()) == 1
    counts = total_of(settings)
    assert (counts["calls"], counts["done"], counts["prompt_tokens"]) == (0, 1, 10)
    client_of_redis.set("kagura:metrics:series", "no set", ex=60)
    assert store(client_of_redis, {"status": "SUCCESS"}, tally.document()) == 1
    assert b"SUCCESS" in (client_of_redis.get("record") or b"")


async def test_too_many_names_are_counted_together(settings: Settings, client_of_redis: redis.Redis):
    """Callers choose tenants and models: beyond a bound they are `(other)`, and no call is lost."""
    for number in range(500):
        tally = Tally("kagura.complete")
        await answered(tally, request(tenant=f"t{number}", model=f"m{number}"))
        COUNT_TASK.run(client_of_redis, ["no-mark", f"counted-{number}"], [tally.document()])  # type: ignore[arg-type]
    for key in client_of_redis.keys("counted-*"):
        client_of_redis.delete(key)
    total = read_snapshot(settings).total
    assert len(total) < 400
    assert sum(counts["calls"] for counts in total.values()) == 500
    assert total[Series("(other)", "(other)", "kagura.complete")]["calls"] > 0


async def test_prices_add_up_exactly(settings: Settings, client_of_redis: redis.Redis):
    """Ten dimes are a dollar, which they are not in floating point."""
    tally = Tally("kagura.complete")
    for _ in range(10):
        await answered(tally, request())
    COUNT_TASK.run(client_of_redis, ["no-mark", "counted"], [tally.document()])  # type: ignore[arg-type]
    assert Figures(total_of(settings)).cost_usd == 1.0
    assert sum([0.1] * 10) != 1.0


def test_quantiles_are_estimated_as_prometheus_does():
    """Evenly within a bucket; above the last bound it is all that is known."""
    buckets = [0] * (len(BUCKETS_S) + 1)
    assert quantile_s(buckets, 0.5) is None
    buckets[7] = 10  # above half a second, up to one
    assert quantile_s(buckets, 0.5) == pytest.approx(0.75)
    assert quantile_s(buckets, 1.0) == pytest.approx(1.0)
    buckets[-1] = 90
    assert quantile_s(buckets, 0.95) == BUCKETS_S[-1]


def test_prometheus_gets_cumulative_buckets_and_escaped_names():
    """Whatever a name holds, a line is a line."""
    counts = Counter({Histogram.bucket(Histogram.CALL, 0): 2, Histogram.bucket(Histogram.CALL, 3): 1})
    table = {Series("a", 'm"\\', "t"): counts}
    text = exposition(Snapshot(0.0, table, {}, ({},), 3, (), 0, {"llm": 4}))
    labels = 'tenant="a",model="m\\"\\\\",task="t"'
    assert f'kagura_call_duration_seconds_bucket{{{labels},le="0.005"}} 2' in text
    assert f'kagura_call_duration_seconds_bucket{{{labels},le="+Inf"}} 3' in text
    assert 'kagura_queue_messages{queue="llm"} 4' in text
    assert "kagura_live_streams 3" in text


@pytest.mark.parametrize(
    ("address", "environment", "arguments", "named"),
    [
        ("0.0.0.0", {}, [], "FLOWER_BASIC_AUTH"),
        ("", {}, [], "FLOWER_BASIC_AUTH"),
        ("flower.example", {"FLOWER_BASIC_AUTH": ""}, [], "FLOWER_BASIC_AUTH"),
        ("127.0.0.1", {"FLOWER_BASIC_AUTH": "no-colon"}, [], "name:password"),
        ("::", {"FLOWER_BASIC_AUTH": "a:b", "FLOWER_UNAUTHENTICATED_API": "1"}, [], "FLOWER_UNAUTHENTICATED_API"),
        ("0.0.0.0", {}, ["--basic-auth="], "FLOWER_BASIC_AUTH"),
        ("127.0.0.1", {}, ["--address=0.0.0.0"], "said twice"),
        ("127.0.0.1", {}, ["-address", "0.0.0.0"], "said twice"),
    ],
)
def test_flower_is_open_to_nobody(address: str, environment: dict[str, str], arguments: list[str], named: str):
    """Beyond this machine it wants a login, and says which variable that is."""
    with pytest.raises(ConfigurationError, match=named):
        require_login(address, environment, arguments)


@pytest.mark.parametrize(
    ("address", "environment", "arguments"),
    [
        ("127.0.0.1", {}, []),
        ("localhost", {}, []),
        ("::1", {"FLOWER_UNAUTHENTICATED_API": "1"}, []),
        ("0.0.0.0", {"FLOWER_BASIC_AUTH": "a:b"}, []),
        ("0.0.0.0", {}, ["--basic-auth=a:b"]),
    ],
)
def test_flower_with_a_login_or_at_home(address: str, environment: dict[str, str], arguments: list[str]):
    """On loopback nobody needs one."""
    require_login(address, environment, arguments)


def test_the_dashboard_asks_for_metrics_that_are_there(settings: Settings):
    """Each name in deploy/grafana.json is one that /metrics tells."""
    told = set(re.findall(r"^# TYPE (\w+) ", exposition(read_snapshot(settings)), re.MULTILINE))
    board = json.loads((ROOT / "deploy/grafana.json").read_text("utf-8"))
    asked = {
        name.removesuffix("_bucket")
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bkagura_\w+", target["expr"])
    }
    assert len(board["panels"]) == 11
    assert asked
    assert asked <= told


async def test_a_minute_that_is_over_is_added_to_the_totals_once(settings: Settings, client_of_redis: redis.Redis):
    """By the first step after it; nothing is missing, or there twice, before, while and after."""
    tally = Tally("kagura.complete", outcome="done")
    await answered(tally, request())
    seen = []
    for number in range(3):
        COUNT_TASK.run(client_of_redis, ["no-mark", f"counted-{number}"], [tally.document()])  # type: ignore[arg-type]
        client_of_redis.delete(f"counted-{number}")
        seen.append(total_of(settings)["calls"])
        if number == 0:  # an hour passes
            minute = int(client_of_redis.get("kagura:metrics:open") or 0)
            client_of_redis.rename(f"kagura:metrics:minute:{minute}", f"kagura:metrics:minute:{minute - 60}")
            client_of_redis.set("kagura:metrics:open", minute - 60, ex=60)
            assert total_of(settings)["calls"] == 1
    assert seen == [1, 2, 3]
    assert client_of_redis.hget("kagura:metrics:total", "acme m kagura.complete calls") == b"1"
    assert sum(sum(counts["calls"] for counts in table.values()) for table in read_snapshot(settings).minutes) == 2


async def test_counters_of_several_servers_are_added():
    """Maps count beside the queues, tasks beside the results, look-ups in the cache; one page shows them all."""
    with EmbeddedRedis() as broker, EmbeddedRedis() as results, EmbeddedRedis() as cache:
        settings = Settings(broker_url=broker.url, result_url=results.url, cache_url=cache.url)
        for number, server in enumerate((broker, results, cache), start=1):
            tally = Tally("kagura.complete", outcome="done")
            for _ in range(number):
                await answered(tally, request())
            COUNT_TASK.run(sync_client(server.url, 2.0), ["no-mark", "counted"], [tally.document()])
        snapshot = read_snapshot(settings)
        for table in (snapshot.total, snapshot.today, snapshot.last_hour):
            assert by(table, "tenant")["acme"].counts["calls"] == 6


def test_a_server_that_is_away_is_named():
    """Whoever reads is told which one."""
    with EmbeddedRedis() as server:
        settings = Settings(redis_url=server.url)
        server.kill()
        with pytest.raises(RedisUnreachable):
            read_snapshot(settings)
