"""`kagura-tasks doctor` and `kagura-tasks worker`: what is wrong, and how to mend it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import Settings
from tests.integration.test_cli import Done, document, free_port, kagura, program, started
from tests.support.dead_letters import bury, kombu_message
from tests.support.llm import LlmServer
from tests.support.wait import until
from tests.support.workers import ROOT, Worker

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
    """Redis and its version, and who serves which queue. The tests' Redis keeps nothing, which is said."""
    code, checks = examine(redis_url)
    assert code == 0
    assert [check["level"] for check in checks["redis"]] == ["ok", "warning"]
    assert checks["redis"][1]["mend"] == "set `appendonly yes`"
    assert f"{worker.hostname} serves files, llm, llm.batch, routing" in [
        check["message"] for check in checks["workers"]
    ]
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
    # Once before the clock runs: how long imports take is this machine's affair.
    kagura("doctor", redis_url=f"redis://127.0.0.1:{free_port()}/0")
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


def test_an_unfit_broker_is_a_warning():
    """Eviction, little memory, nothing on the disk: each names its setting, and work goes on."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        assert "appendonly" in the_warnings(server.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "maxmemory-policy" not in the_warnings(server.url)  # nothing is evicted where there is no limit
        client.config_set("maxmemory", client.info("memory")["used_memory"] * 105 // 100)
        found = the_warnings(server.url)
        assert "queued tasks and results may be thrown away" in found
        assert "`maxmemory-policy noeviction`" in found
        assert "raise `maxmemory`" in found


def the_warnings(redis_url: str) -> str:
    _, checks = examine(redis_url)
    return "\n".join(f"{one['message']}: {one['mend']}" for one in checks["redis"] if one["level"] == "warning")


def test_what_keeps_its_data_is_well():
    """An append-only server without a limit has no warning."""
    with EmbeddedRedis(appendonly=True) as server:
        _, checks = examine(server.url)
    assert {check["level"] for check in checks["redis"]} == {"ok"}


def test_deliveries_that_went_wrong_are_told(settings: Settings, client_of_redis: redis.Redis):
    """Counters of the fleet; a dead letter is a warning with the command that shows it."""
    _, checks = examine(settings.redis_url)
    assert [check["message"] for check in checks["delivery"]] == ["every delivery went the usual way"]
    bury(client_of_redis, kombu_message())
    _, checks = examine(settings.redis_url)
    assert [(check["level"], check["message"], check["mend"]) for check in checks["delivery"]] == [
        ("ok", "buried 1", ""),
        ("warning", "1 message that no worker will try again", "kagura-tasks dead list"),
    ]


RENEWALS = {"KAGURA_TASKS_VISIBILITY_TIMEOUT_S": "10", "KAGURA_TASKS_LEASE_RENEWAL_S": "4"}


def test_a_visibility_timeout_of_less_than_three_renewals_is_an_error(redis_url: str):
    """Both settings are named, and nothing that depends on settings is looked at."""
    code, checks = examine(redis_url, environment=RENEWALS)
    assert code == 1
    assert [check["level"] for check in checks["settings"]] == ["error"]
    assert "KAGURA_TASKS_LEASE_RENEWAL_S" in checks["settings"][0]["message"]
    assert "KAGURA_TASKS_VISIBILITY_TIMEOUT_S" in checks["settings"][0]["message"]
    assert "redis" not in checks


@pytest.mark.parametrize("command", [["kagura-tasks", "worker"], ["celery", "-A", "workers.main", "worker"]])
def test_no_worker_starts_with_less_than_three_renewals(redis_url: str, command: list[str]):
    """It ends at once, and says why in its last line."""
    programs = Path(sys.executable).parent
    environment = {"PATH": os.environ["PATH"], "KAGURA_TASKS_REDIS_URL": redis_url, **RENEWALS}
    start = [programs / command[0], *command[1:]]
    done = subprocess.run(start, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    told = (done.stdout + done.stderr).strip().splitlines()[-1]
    assert "KAGURA_TASKS_LEASE_RENEWAL_S must be at most a third of KAGURA_TASKS_VISIBILITY_TIMEOUT_S" in told


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
