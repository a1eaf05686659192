"""What the contracts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kagura_tasks.connections import close_async_clients
from kagura_tasks.loops import LoopThread
from kagura_tasks.providers.lanes import Knows
from kagura_tasks.providers.provider import Provider
from tests.support.lanes import KEY, Knowledge, Lane
from tests.support.llm import StubServer


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    """One loop for all, as in a worker."""
    loop = LoopThread("test-lanes")
    yield loop
    loop.run(close_async_clients())


@pytest.fixture(scope="session")
def litellm() -> Knows:
    from kagura_tasks.providers.litellm import LiteLLMProvider, prepare

    prepare()
    return LiteLLMProvider()


@pytest.fixture
def providers(litellm: Knows) -> dict[str, Provider]:
    """New ones for each test: they remember for a moment where the environment sends their calls."""
    from kagura_tasks.providers.lanes import Lanes

    return {"litellm": litellm, "direct": Lanes(Knowledge(litellm)), "auto": Lanes(litellm)}


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def lanes(key: None, providers: dict[str, Provider], loop: LoopThread, stub: StubServer) -> dict[str, Lane]:
    return {name: Lane(name, provider, loop, stub.base_url) for name, provider in providers.items()}


@pytest.fixture(params=["litellm", "direct"])
def lane(request: pytest.FixtureRequest, lanes: dict[str, Lane]) -> Lane:
    return lanes[request.param]
