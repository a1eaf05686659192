"""A team's own Celery app with ours installed, under Celery's own test kit: pytest-celery, without Docker."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from uuid import uuid4

import pytest
from celery import Celery

# Its fixtures, in this file only: as a plugin it would cost every run of every test a second.
from pytest_celery import *  # noqa: F403
from pytest_celery import (
    CELERY_REDIS_BACKEND,
    CELERY_REDIS_BROKER,
    DEFAULT_WORKER_CONTAINER_TIMEOUT,
    DEFAULT_WORKER_VOLUME,
    RESULT_TIMEOUT,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
)
from pytest_celery.vendors.worker.tasks import add
from pytest_docker_tools import container, fxtr

from kagura_tasks import LLMClient
from tests.support import own_app
from tests.support.docker_processes import ProcessClient
from tests.support.llm import LlmServer


@pytest.fixture(scope="session")
def docker_client(request: pytest.FixtureRequest) -> Iterator[ProcessClient]:
    """The one fixture through which pytest-celery reaches Docker."""
    request.config.option.reuse_containers = False
    with pytest.MonkeyPatch.context() as patch:
        # Inside a container it would take the container's port for the one on this machine.
        patch.setattr("pytest_docker_tools.wrappers.container.tests_inside_container", lambda: False)
        yield ProcessClient()


@pytest.fixture(params=[CELERY_REDIS_BROKER])
def celery_broker(request: pytest.FixtureRequest) -> object:
    """Redis alone: the matrix's RabbitMQ is no broker of ours."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[CELERY_REDIS_BACKEND])
def celery_backend(request: pytest.FixtureRequest) -> object:
    """Redis alone."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def default_worker_app_module() -> ModuleType:
    """The team's app: pytest-celery's, with `install(app)` in its last line."""
    return own_app


@pytest.fixture
def default_worker_command() -> list[str]:
    """It serves the team's own queue and ours."""
    return CeleryWorkerContainer.command("-P", "threads", "-c", "4", "--queues", "celery,llm")


@pytest.fixture
def default_worker_env(
    default_worker_container_cls: type[CeleryWorkerContainer],
    celery_worker_cluster_config: dict[str, object],
    llm: LlmServer,
) -> dict[str, str]:
    """Where its provider is, as on any worker."""
    provider = {"OPENAI_API_KEY": "test-key", "OPENAI_API_BASE": llm.base_url}
    return default_worker_container_cls.initial_env(celery_worker_cluster_config, provider)


second_worker_container = container(
    image="{celery_base_worker_image.id}",
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
    wrapper_class=CeleryWorkerContainer,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)


@pytest.fixture
def celery_worker_cluster(
    celery_worker: CeleryTestWorker, second_worker_container: CeleryWorkerContainer, default_worker_app: Celery
) -> CeleryWorkerCluster:
    """Two workers."""
    return CeleryWorkerCluster(celery_worker, CeleryTestWorker(second_worker_container, default_worker_app))


def test_a_teams_own_app_answers_prompts(celery_setup: CeleryTestSetup, llm: LlmServer):
    """Its own tasks and prompts run on the same workers; when one of two is killed, the other goes on."""
    llm.reply("Through your own app.")
    client = LLMClient(app=celery_setup.app)
    assert celery_setup.ready(ping=True, control=True, docker=True)
    assert add.s(1, 2).delay().get(timeout=RESULT_TIMEOUT) == 3

    first, second = celery_setup.worker_cluster
    first.kill()
    assert (first.container.status, second.container.status) == ("exited", "running")
    assert add.s(3, 4).delay().get(timeout=RESULT_TIMEOUT) == 7
    results = [client.submit(f"Hello {uuid4().hex}") for _ in range(5)]
    assert {result.get(timeout_s=RESULT_TIMEOUT).text for result in results} == {"Through your own app."}
    assert llm.count("Hello") == 5
