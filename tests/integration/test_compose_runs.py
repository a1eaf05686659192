"""Every command of docker-compose.yml runs: the servers, the workers, Flower, and their health checks. No Docker."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
import redis

from kagura_tasks import Settings
from kagura_tasks.app import create_app
from kagura_tasks.queues import all_queues
from tests.integration.test_cli import started
from tests.support.compose import ENTRYPOINT, HEALTHCHECK, SERVERS, Stack
from tests.support.llm import LlmServer
from tests.support.wait import until
from tests.support.workers import ROOT

WORKERS = ["worker-llm", "worker-batch", "worker-routing", "worker-files"]
COMPLETE = {"KAGURA_TASKS_REDIS_URL": "redis://127.0.0.1:1/0", "OPENAI_API_KEY": "k", "FLOWER_BASIC_AUTH": "a:b"}
WORKER = ["kagura-tasks", "worker", "--profile", "files"]
FLOWER = ["kagura-tasks", "flower", "--address=0.0.0.0"]


@pytest.fixture(scope="module")
def stack(llm_server: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it, once for this file."""
    given = {
        "FLOWER_BASIC_AUTH": "somebody:secret",
        "OPENAI_API_KEY": "test-key",
        "OPENAI_API_BASE": llm_server.base_url,
    }
    stack = Stack(given, tmp_path_factory.mktemp("compose"))
    try:
        yield stack
    finally:
        stack.stop()


def is_healthy(stack: Stack, name: str, oldest_s: int = 30) -> bool:
    """What the image's health check says of a heartbeat that may be so old (s)."""
    return stack.run(name, "/bin/sh", str(HEALTHCHECK), str(oldest_s)).returncode == 0


def serves(stack: Stack) -> dict[str, set[str]]:
    """The queues of each worker that answers, by the first half of its name."""
    app = create_app(Settings(redis_url=stack.here("redis://redis:6379/0")))
    replies = app.control.inspect(timeout=1).active_queues() or {}
    return {name.partition("@")[0]: {queue["name"] for queue in queues} for name, queues in replies.items()}


def test_the_workers_are_healthy_and_serve_every_queue(stack: Stack):
    """Each takes its own queues, and touches its file while it does."""
    until(lambda: all(is_healthy(stack, name) for name in WORKERS), 110, "four healthy workers")
    served = until(lambda: len(found := serves(stack)) == 4 and found, 30, "four workers that answer")
    assert served.keys() == {"llm", "batch", "routing", "files"}
    assert set().union(*served.values()) == {queue.name for queue in all_queues()}


def test_the_command_that_the_file_names(stack: Stack, llm_server: LlmServer):
    """`docker compose exec worker-llm kagura-tasks run ...` is answered."""
    llm_server.reset()
    llm_server.reply("Blue light is scattered most.")
    done = stack.run("worker-llm", "kagura-tasks", "run", "Why is the sky blue?")
    assert (done.returncode, done.stdout) == (0, "Blue light is scattered most.\n"), done.stderr


def test_a_worker_that_is_stuck_is_unhealthy(stack: Stack):
    """Its process is there, but does nothing; it is well again as soon as it goes on."""
    until(lambda: is_healthy(stack, "worker-batch"), 110, "a healthy worker")
    pid = stack.processes["worker-batch"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not is_healthy(stack, "worker-batch", oldest_s=3), 30, "an unhealthy worker")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: is_healthy(stack, "worker-batch", oldest_s=3), 30, "a healthy worker")


def test_flower_is_healthy_and_wants_its_login(stack: Stack):
    """Its health check needs none."""
    (_, *check) = stack.services["flower"]["healthcheck"]["test"]
    until(lambda: stack.run("flower", *check).returncode == 0, 110, "Flower")
    with pytest.raises(HTTPError, match="401"):
        build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{stack.port('5555')}/workers", timeout=10)


@pytest.mark.parametrize(("name", "expected"), [("redis", ("yes", "noeviction")), ("cache", ("no", "allkeys-lru"))])
def test_the_servers_keep_what_they_should(stack: Stack, name: str, expected: tuple[str, str]):
    """Queues and results on the disk, and never thrown away; remembered answers in memory."""
    client = redis.Redis(port=stack.port(f"{name}:6379"), decode_responses=True)
    until(lambda: answers(client), what="a server")
    told = client.config_get("appendonly", "maxmemory-policy")
    assert (told["appendonly"], told["maxmemory-policy"]) == expected
    client.close()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli on PATH")
def test_the_servers_health_checks(stack: Stack):
    """redis-cli, at the port that is a container's own."""
    for name in SERVERS:
        _, program, *words = stack.services[name]["healthcheck"]["test"]
        port = str(stack.port(f"{name}:6379"))
        until(lambda: stack.run(name, program, "-p", port, *words).stdout == "PONG\n", what=f"PONG of {name}")  # noqa: B023


@pytest.mark.parametrize(
    ("command", "missing", "told"),
    [
        (WORKER, "KAGURA_TASKS_REDIS_URL", "KAGURA_TASKS_REDIS_URL is not set"),
        (WORKER, "OPENAI_API_KEY", "OPENAI_API_KEY is not set"),
        (FLOWER, "KAGURA_TASKS_REDIS_URL", "KAGURA_TASKS_REDIS_URL is not set"),
        (FLOWER, "FLOWER_BASIC_AUTH", "set FLOWER_BASIC_AUTH=name:password"),
    ],
)
def test_a_container_names_the_variable_that_is_missing(command: list[str], missing: str, told: str):
    """And ends, before anything is started."""
    refused(command, {name: value for name, value in COMPLETE.items() if name != missing}, told)


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (WORKER, "KAGURA_TASKS_REDIS_URL", "http://redis:6379"),
        (WORKER, "KAGURA_TASKS_CALL_TIMEOUT_S", "soon"),
        (FLOWER, "FLOWER_BASIC_AUTH", "secret"),
    ],
)
def test_a_container_names_the_variable_that_is_wrong(command: list[str], name: str, value: str):
    """Never its value."""
    told = refused(command, {**COMPLETE, name: value}, rf"{name} (is|has to be) ")
    assert value not in told


def test_a_worker_names_a_variable_that_is_misspelt(tmp_path: Path):
    """It starts, since an older worker may be given what only newer ones know; its first line says what is not read."""
    environment = {
        "KAGURA_TASKS_REDIS_URL": "redis://127.0.0.1:1/0",
        "KAGURA_TASKS_CONCURENCY": "9",
        "OPENAI_API_KEY": "k",
    }
    with started(tmp_path, *WORKER[1:], environment=environment) as running:
        until(lambda: running.stderr.count("\n"), 60, "a line")
        told = running.stderr.splitlines()[0]
    assert told == "warning: KAGURA_TASKS_CONCURENCY is no setting: did you mean KAGURA_TASKS_CONCURRENCY?"


def refused(command: list[str], environment: dict[str, str], pattern: str) -> str:
    """What a container with this environment says when it ends at once; the pattern is in its one line."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words, given = ["/bin/sh", str(ENTRYPOINT), *command], {"PATH": path, **environment}
    done = subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert re.search(rf"^error: .*{pattern}", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    return done.stderr
