"""What the tests of canvas, of tools and of routing share: workers on both pools, for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from kagura_tasks import AgentRouter, Completion, LLMClient
from kagura_tasks.app import create_app
from kagura_tasks.connections import sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import RedisUrl, Settings
from tests.support.canvas import Canvas
from tests.support.llm import StubServer
from tests.support.redis_keys import keys_without_ttl
from tests.support.results import collect_results
from tests.support.routing_scene import TIMEOUT_S, Route, RoutingScene
from tests.support.tool_scene import ToolScene, tool_worker
from tests.support.workers import Fleet, WorkerOptions


@pytest.fixture(scope="session")
def canvas_url(redis_server: EmbeddedRedis) -> RedisUrl:
    """A database that nobody flushes."""
    return RedisUrl(re.sub(r"\d+$", "3", redis_server.url))


@pytest.fixture(scope="session", params=["threads", "asyncio"])
def canvas_workers(
    request: pytest.FixtureRequest,
    canvas_url: RedisUrl,
    stub_server: StubServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """A worker on this pool, whose app has tasks of a team's own, too."""
    fleet = Fleet(canvas_url, stub_server.base_url, tmp_path_factory.mktemp("canvas"))
    try:
        fleet(1, WorkerOptions(pool=request.param, concurrency=64, app="tests.support.canvas_team"))
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="session")
def canvas_app(canvas_url: RedisUrl) -> Iterator[Celery]:
    """An application's Celery app: it knows no task of ours, and none of the team's."""
    app = create_app(Settings(redis_url=canvas_url))
    yield app
    # Celery goes on waiting for some results of nested canvas. They say goodbye to Redis, which must be there.
    for pending in app.backend._pending_results:
        pending.clear()
    collect_results()
    app.close()


@pytest.fixture
def canvas(canvas_app: Celery, canvas_url: RedisUrl, canvas_workers: Fleet, stub: StubServer) -> Iterator[Canvas]:
    """Signatures for this test."""
    canvas = Canvas(canvas_app, canvas_url, stub)
    yield canvas
    leaked = keys_without_ttl(canvas.redis)
    assert not leaked, f"keys without a TTL: {leaked}"


@pytest.fixture(scope="session", params=["threads", "asyncio"])
def _tool_workers(
    request: pytest.FixtureRequest,
    redis_server: EmbeddedRedis,
    stub_server: StubServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RedisUrl]:
    """A database that nobody flushes, and a worker on this pool that runs the tests' tools."""
    url = RedisUrl(re.sub(r"\d+$", "4", redis_server.url))
    fleet = Fleet(url, stub_server.base_url, tmp_path_factory.mktemp("tools"))
    try:
        fleet(1, tool_worker(request.param))
        yield url
    finally:
        fleet.stop()


@pytest.fixture
def scene(_tool_workers: RedisUrl, stub: StubServer) -> Iterator[ToolScene]:
    """Agents with tools and conversations, on workers of both pools."""
    yield ToolScene(Settings(redis_url=_tool_workers), stub)
    leaked = keys_without_ttl(sync_client(_tool_workers, 2.0))
    assert not leaked, f"keys without a TTL: {leaked}"


@pytest.fixture(scope="session", params=["threads", "asyncio"])
def _routing_workers(
    request: pytest.FixtureRequest,
    redis_server: EmbeddedRedis,
    stub_server: StubServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RedisUrl]:
    """A database that nobody flushes, and a worker on this pool that routes."""
    url = RedisUrl(re.sub(r"\d+$", "5", redis_server.url))
    fleet = Fleet(url, stub_server.base_url, tmp_path_factory.mktemp("routing"))
    try:
        fleet(1, WorkerOptions(pool=request.param, concurrency=64, queues="llm,llm.batch,routing"))
        yield url
    finally:
        fleet.stop()


@pytest.fixture
def routing(_routing_workers: RedisUrl, stub: StubServer) -> Iterator[RoutingScene]:
    """Agents to route to, on workers of both pools."""
    yield RoutingScene(Settings(redis_url=_routing_workers), stub)
    leaked = keys_without_ttl(sync_client(_routing_workers, 2.0))
    assert not leaked, f"keys without a TTL: {leaked}"


@pytest.fixture(params=["here", "task"])
def routed(request: pytest.FixtureRequest, routing: RoutingScene) -> Route:
    """Both ways to route: decided in the application, or by a worker in the task that answers."""

    async def route(router: AgentRouter, query: str, **options: Any) -> Completion:
        if request.param == "here":
            return await (await router.aroute(query, **options)).aget(TIMEOUT_S)
        return await (await routing.client.aroute(query, router, **options)).aget(TIMEOUT_S)

    return route


@pytest.fixture
def inline_client(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> LLMClient:
    """A client that makes its calls in this process, to a provider that echoes."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("OPENAI_API_BASE", stub.base_url)
    stub.script(echoes=True)
    return LLMClient(Settings(execution="inline", redis_url="redis://127.0.0.1:1/0"))
