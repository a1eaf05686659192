"""A Redis that has no memory left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import redis

from kagura_tasks import Settings
from kagura_tasks.app import create_app
from kagura_tasks.connections import async_client, sync_client
from kagura_tasks.delivery_keys import LEASES
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.result_backend import STORE
from kagura_tasks.result_writer import ResultWriter, Write
from kagura_tasks.task_store import record_key
from kagura_tasks.worker.deliveries import FETCH, Deliveries
from tests.support.wait import until


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def client(server: EmbeddedRedis) -> redis.Redis:
    return sync_client(server.url, 5.0)


def refused(client: redis.Redis) -> int:
    """How many commands the server refused for want of memory."""
    return int(client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


def test_a_result_waits_for_room(server: EmbeddedRedis, client: redis.Redis):
    """The answer is paid for: the worker tries to store it until there is room."""
    backend = create_app(Settings(redis_url=server.url)).backend
    task_id = uuid4().hex
    client.config_set("maxmemory", 1)
    with ThreadPoolExecutor(1) as worker:
        storing = worker.submit(backend.store_result, task_id, {"text": "paid"}, "SUCCESS")
        until(lambda: refused(client) >= 2, what="a second try")
        assert not storing.done()
        client.config_set("maxmemory", 0)
        storing.result(timeout=30)
    assert json.loads(client.get(record_key(task_id)))["result"] == {"text": "paid"}


async def test_results_of_an_event_loop_wait_for_room(server: EmbeddedRedis, client: redis.Redis):
    """On the asyncio pool, too; the loop goes on."""
    writer = ResultWriter(async_client(server.url, 5.0))
    await asyncio.to_thread(client.config_set, "maxmemory", 1)
    storing = asyncio.create_task(writer.store(Write(STORE, ("result", "mark", "counts"), ("{}", 60))))
    await asyncio.to_thread(until, lambda: refused(client) >= 2, what="a second try")
    assert not storing.done()
    await asyncio.to_thread(client.config_set, "maxmemory", 0)
    await asyncio.wait_for(storing, 30)
    assert client.get("result") == b"{}"


def test_a_fetch_loses_nothing(server: EmbeddedRedis, client: redis.Redis):
    """What leaves its list is recorded in the same step, also where there is no memory for it."""
    for number in range(20):
        properties = {"delivery_tag": f"tag-{number}", "delivery_info": {"exchange": "", "routing_key": "q"}}
        client.lpush("q", json.dumps({"body": "x" * 2000, "headers": {}, "properties": properties}))
    client.config_set("maxmemory", 1)
    keys, args = Deliveries(client, 30_000).fetch_command(10, ["q"], [True], [])
    FETCH.run(client, keys, args)
    assert (client.llen("q"), client.hlen("unacked"), client.zcard(LEASES)) == (10, 10, 10)
