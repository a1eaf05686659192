"""`kagura-tasks doctor` and `kagura-tasks worker`: what is wrong, and how to mend it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import redis

from kagura_tasks.embedded_redis import EmbeddedRedis
from tests.integration.test_cli import Done, document, free_port, kagura, program, started
from tests.support.llm import LlmServer
from tests.support.wait import until
from tests.support.workers import Worker

Checks = dict[str, list[dict[str, Any]]]


def examine(redis_url: str, environment: dict[str, str] | None = None) -> tuple[int, Checks]:
    """The exit code, and the findings by what they belong to; without the model."""
    return verdict(kagura("doctor", "--json", "--skip-model", redis_url=redis_url, environment=environment))


def verdict(done: Done) -> tuple[int, Checks]:
    assert done.stderr == ""
    checks: Checks = {}
    for check in json.loads(done.stdout)["checks"]:
        checks.setdefault(check["name"], []).append(check)
    return done.returncode, checks


def test_all_is_well_with_a_worker(worker: Worker, redis_url: str):
    """Redis, its version and policy, and who serves which queue."""
    code, checks = examine(redis_url)
    assert code == 0
    assert all(check["level"] == "ok" for check in checks["redis"])
    assert f"{worker.hostname} serves llm, llm.batch" in [check["message"] for check in checks["workers"]]
    assert "model" not in checks


def test_people_read_a_line_for_each_finding(worker: Worker, redis_url: str):
    """Level, subject, finding; nothing is broken into two lines."""
    done = kagura("doctor", "--skip-model", redis_url=redis_url)
    assert done.returncode == 0
    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warning"}


def test_no_worker_is_an_error(redis_url: str):
    """Nobody would answer: exit code 1, and the command that mends it."""
    code, checks = examine(redis_url)
    assert code == 1
    assert [(check["level"], check["mend"]) for check in checks["workers"]] == [
        ("error", "start one: kagura-tasks worker")
    ]


def test_redis_away_is_one_line():
    """The error comes within five seconds, names the address without its password, and what hangs on it is left out."""
    port = free_port()
    began = time.monotonic()
    done = kagura("doctor", redis_url=f"redis://:pa55word@127.0.0.1:{port}/0")
    assert time.monotonic() - began < 5
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"redis://***@127.0.0.1:{port}/0" in errors[0]
    assert "pa55word" not in done.stdout + done.stderr


def test_each_server_is_looked_at(redis_url: str):
    """Broker and cache may be two: one of them away is said of that one."""
    away = f"redis://127.0.0.1:{free_port()}/0"
    code, checks = examine(redis_url, environment={"KAGURA_TASKS_CACHE_URL": away})
    assert code == 1
    assert [away in check["message"] for check in checks["redis"] if check["level"] == "error"] == [True]
    assert any("(broker, results) answers" in check["message"] for check in checks["redis"])


def test_a_broker_that_evicts_is_a_warning():
    """The setting is named, and what is at stake."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        _, checks = examine(server.url)
    warnings = [check for check in checks["redis"] if check["level"] == "warning"]
    assert len(warnings) == 1
    assert "queued tasks" in warnings[0]["message"]
    assert "maxmemory-policy noeviction" in warnings[0]["mend"]


def test_a_slip_of_the_pen_is_found(redis_url: str):
    """A variable with our prefix that nobody reads is a warning, with the likely one."""
    misspelt = {"KAGURA_TASKS_CACHE_TTL": "60", "KAGURA_TASKS_REDIS_SERVER": "redis-server"}
    _, checks = examine(redis_url, environment=misspelt)
    warnings = [check for check in checks["settings"] if check["level"] == "warning"]
    assert [check["message"] for check in warnings] == ["KAGURA_TASKS_CACHE_TTL is no setting"]
    assert warnings[0]["mend"] == "did you mean KAGURA_TASKS_CACHE_TTL_S?"


def test_a_wrong_setting_is_an_error(redis_url: str):
    """It names the variable; nothing that depends on settings is looked at."""
    code, checks = examine(redis_url, environment={"KAGURA_TASKS_CONCURRENCY": "many"})
    assert code == 1
    assert "KAGURA_TASKS_CONCURRENCY" in checks["settings"][0]["message"]
    assert "redis" not in checks


def test_keys_are_told_by_name_only(redis_url: str):
    """A key's value appears nowhere."""
    keys = {"OPENAI_API_KEY": "sk-first-secret", "MISTRAL_API_KEY": "second-secret"}
    done = kagura("doctor", "--json", "--skip-model", redis_url=redis_url, environment=keys)
    assert "MISTRAL_API_KEY, OPENAI_API_KEY" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_a_model_that_litellm_does_not_know_is_an_error(worker: Worker, redis_url: str):
    """LiteLLM is asked, in a process of its own."""
    unknown = {"KAGURA_TASKS_DEFAULT_MODEL": "nonsense-9000"}
    code, checks = verdict(program("doctor", "--json", redis_url=redis_url, environment=unknown))
    assert code == 1
    assert [check["level"] for check in checks["model"]] == ["error"]
    assert "KAGURA_TASKS_DEFAULT_MODEL" in checks["model"][0]["mend"]


def test_a_worker_of_a_profile(redis_url: str, llm: LlmServer, tmp_path: Path):
    """`worker` becomes plain `celery worker`, with the profile's queues; the doctor sees which are not served."""
    keys = {"OPENAI_API_KEY": "k", "OPENAI_API_BASE": llm.base_url}
    options = ["--profile", "batch", "--concurrency", "2", "--hostname=mine@test", "--without-mingle"]
    with started(tmp_path, "worker", *options, redis_url=redis_url, environment=keys) as running:
        until(lambda: "mine@test ready." in running.stderr + running.stdout, 90, "a ready worker")
        code, checks = examine(redis_url)
        assert code == 0
        found = {check["message"]: check["level"] for check in checks["workers"]}
        assert found["mine@test serves llm.batch"] == "ok"
        assert found["0 tasks wait in llm, which no worker serves"] == "warning"
        assert running.stop(signal.SIGTERM) == 0


def test_the_documents_verdict(redis_url: str, worker: Worker):
    """`ok` says what the exit code says."""
    assert document(kagura("doctor", "--json", "--skip-model", redis_url=redis_url))["ok"] is True
