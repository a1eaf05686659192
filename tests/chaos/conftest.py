"""What the tests that kill workers and servers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from kagura_tasks.embedded_redis import EmbeddedRedis
from tests.support.chaos import Scene
from tests.support.llm import StubServer
from tests.support.redis_keys import keys_without_ttl
from tests.support.stream_scenes import PoolScene, pool_scenes


@pytest.fixture(params=["threads", "prefork", "asyncio"])
def pool(request: pytest.FixtureRequest) -> str:
    """All pools."""
    return str(request.param)


@pytest.fixture
def prompt() -> str:
    """A prompt that no other test asks."""
    return f"Say something about {uuid4().hex}."


@pytest.fixture
def scene(stub: StubServer, tmp_path: Path) -> Iterator[Scene]:
    """A Redis (append-only), a provider and workers of this test's own."""
    with EmbeddedRedis(appendonly=True) as server:
        scene = Scene(server, stub, tmp_path)
        try:
            yield scene
            assert not keys_without_ttl(scene.redis)
        finally:
            scene.close()


@pytest.fixture
def forgetful_scene(stub: StubServer, tmp_path: Path) -> Iterator[Scene]:
    """The same with a Redis that keeps nothing on a disk."""
    with EmbeddedRedis() as server:
        scene = Scene(server, stub, tmp_path)
        try:
            yield scene
        finally:
            scene.close()


@pytest.fixture(scope="session")
def _pool_scenes(stub_server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PoolScene]]:
    folder = tmp_path_factory.mktemp("pools")
    with EmbeddedRedis(appendonly=True) as server, pool_scenes(server, stub_server, folder) as scenes:
        yield scenes


@pytest.fixture
def pool_scene(_pool_scenes: dict[str, PoolScene], stub: StubServer, pool: str) -> Iterator[PoolScene]:
    """A worker of the pool that no test kills, on a Redis (append-only) that tests may harm."""
    yield _pool_scenes[pool]
    assert not keys_without_ttl(_pool_scenes[pool].redis)
