"""What every test may ask for. Redis, Celery and HTTP are real; only the model's words are scripted."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
import redis

from kagura_tasks.client import LLMClient
from kagura_tasks.connections import close_async_clients, sync_client
from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import RedisUrl, Settings, load_settings
from tests.support.llm import LlmServer, StubServer, server_process
from tests.support.map_scene import MapScene, MapWorkers
from tests.support.redis_keys import keys_without_ttl
from tests.support.workers import NOT_INHERITED, Fleet, Worker, WorkerOptions

#: The session's workers have databases that nobody flushes; the other one is flushed before each test.
_WORKERS_DATABASE, _TESTS_DATABASE, _FLEETS_DATABASE = 0, 1, 2

#: The folders of tests, by how long one of their files takes.
_QUICKER_AND_QUICKER = ("chaos", "e2e", "integration", "contracts", "unit")

# No deadline: a machine that others use, too, says nothing about the code. No database: a run leaves no files.
hypothesis.settings.register_profile("kagura", deadline=None, database=None)
hypothesis.settings.load_profile("kagura")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, whatever the random order: else one process is left with it at the end."""
    items.sort(key=lambda item: _QUICKER_AND_QUICKER.index(item.path.parent.name))


def pytest_configure(config: pytest.Config) -> None:
    """Say what our mark means."""
    config.addinivalue_line("markers", "litellm: may import LiteLLM in the tests' process; all others must not")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the workers' logs under a test that failed."""
    report = yield
    if report.failed:
        used = list(getattr(item, "funcargs", {}).values())
        fleets = [fleet for one in used if isinstance(fleet := getattr(one, "fleet", one), Fleet)]
        of_fleets = [worker for fleet in fleets for worker in fleet.workers]
        for worker in {*of_fleets, *(one for one in used if isinstance(one, Worker))}:
            report.sections.append((f"log of {worker.hostname}", worker.tail()))
    return report


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The session's Redis. KAGURA_TEST_REDIS_SERVER=redis-server tests on that one instead of the bundled."""
    with EmbeddedRedis(os.environ.get("KAGURA_TEST_REDIS_SERVER")) as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> RedisUrl:
    """A database of the session's Redis: an empty one, or that of `worker` or `fleet` where the test asks for it."""
    if "worker" in request.fixturenames:
        return _at_database(redis_server.url, _WORKERS_DATABASE)
    if "fleet" in request.fixturenames:
        return _at_database(redis_server.url, _FLEETS_DATABASE)
    url = _at_database(redis_server.url, _TESTS_DATABASE)
    sync_client(url, 2.0).flushdb()
    return url


@pytest.fixture
def settings(redis_url: RedisUrl) -> Settings:
    """Settings on that database, with a tenant of this test's own, so that no test sees another's answers."""
    return Settings(redis_url=redis_url, tenant=f"test-{uuid4().hex[:8]}")


@pytest.fixture
def client(settings: Settings) -> LLMClient:
    """A client with these settings."""
    return LLMClient(settings)


@pytest.fixture
def prompt() -> str:
    """A prompt that no other test asks."""
    return f"Say something about {uuid4().hex}."


@pytest.fixture
def client_of_redis(redis_url: RedisUrl) -> redis.Redis:
    """A plain client on that database, to look behind the scenes."""
    return sync_client(redis_url, 2.0)


@pytest.fixture(scope="session")
def llm_server() -> Iterator[LlmServer]:
    """llmock, one process for the session."""
    with server_process("llmock_server.py") as url:
        yield LlmServer(url)


@pytest.fixture
def llm(llm_server: LlmServer) -> LlmServer:
    """The scripted model behind `openai/...` on all workers, with no script and an empty ledger."""
    llm_server.reset()
    return llm_server


@pytest.fixture(scope="session")
def stub_server() -> Iterator[StubServer]:
    """provider.py, one process for the session."""
    with server_process("provider.py") as url:
        yield StubServer(url)


@pytest.fixture
def stub(stub_server: StubServer) -> StubServer:
    """The provider for answers that llmock cannot give, with no script and an empty ledger."""
    stub_server.reset()
    return stub_server


@pytest.fixture(scope="session")
def worker(
    redis_server: EmbeddedRedis, llm_server: LlmServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker for all tests that only need one: starting it takes seconds. Nobody flushes its database."""
    folder = tmp_path_factory.mktemp("worker")
    url = _at_database(redis_server.url, _WORKERS_DATABASE)
    options = WorkerOptions(concurrency=64, queues="llm,llm.batch,routing,files")
    worker = Worker(url, llm_server.base_url, folder, options)
    try:
        yield worker.ready()
    finally:
        worker.kill9()


@pytest.fixture(scope="session")
def fleet(
    redis_server: EmbeddedRedis, stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Four workers on the stub, for all tests that need several processes and kill none of them."""
    url = _at_database(redis_server.url, _FLEETS_DATABASE)
    fleet = Fleet(url, stub_server.base_url, tmp_path_factory.mktemp("fleet"))
    try:
        fleet(4, WorkerOptions(concurrency=64))
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="session", params=["threads", "asyncio"])
def _map_workers(
    request: pytest.FixtureRequest, stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MapWorkers]:
    with EmbeddedRedis(os.environ.get("KAGURA_TEST_REDIS_SERVER")) as server:
        fleet = Fleet(server.url, stub_server.base_url, tmp_path_factory.mktemp("maps"))
        environment = {"KAGURA_TASKS_FILE_ROOTS": str(tmp_path_factory.getbasetemp())}
        how = WorkerOptions(request.param, 32, "llm,llm.batch,files", environment=environment, arguments=("-E",))
        try:
            (worker,) = fleet(1, how)
            yield MapWorkers(server.url, stub_server, worker)
        finally:
            fleet.stop()


@pytest.fixture
def maps(_map_workers: MapWorkers, stub: StubServer) -> Iterator[MapScene]:
    """Workers on both pools that answer maps, on a Redis of their own: whoever looks at it sees this test's alone."""
    yield (scene := MapScene(_map_workers))
    scene.close()


@pytest.fixture
def start_workers(redis_url: RedisUrl, llm: LlmServer, tmp_path: Path) -> Iterator[Fleet]:
    """Starts workers of this test's own on `redis_url`: `first, second = start_workers(2)`. Ended after the test."""
    fleet = Fleet(redis_url, llm.base_url, tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of whoever runs the tests decides what they do."""
    for name in list(os.environ):
        if name.upper().startswith(NOT_INHERITED):
            monkeypatch.delenv(name)
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


@pytest.fixture(autouse=True, scope="session")
def no_open_connection_at_the_end() -> Iterator[None]:
    """The loops behind `get()` and inline calls live as long as the process: they are told when that is."""
    yield
    for module, name in (("kagura_tasks.sources", "WAITING"), ("kagura_tasks.inline", "_CALLS")):
        if module in sys.modules:
            getattr(sys.modules[module], name).run(close_async_clients())


@pytest.fixture(autouse=True)
def no_litellm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM belongs to the workers: an import of it in the tests' process fails at once."""
    if request.node.get_closest_marker("litellm") is None:
        monkeypatch.setitem(sys.modules, "litellm", None)


@pytest.fixture(autouse=True)
def no_key_without_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, it leaves nothing in Redis that would stay for ever."""
    url = request.getfixturevalue("redis_server").url if "redis_server" in request.fixturenames else None
    yield
    if url is not None:
        for database in (_WORKERS_DATABASE, _TESTS_DATABASE, _FLEETS_DATABASE):
            leaked = keys_without_ttl(sync_client(_at_database(url, database), 2.0))
            assert not leaked, f"keys without a TTL: {leaked}"


def _at_database(url: RedisUrl, number: int) -> RedisUrl:
    return RedisUrl(re.sub(r"\d+$", str(number), url))
