"""What a worker says at its start about its servers; none of them keeps it from starting."""

from __future__ import annotations

import logging
import os
import signal
import time

import pytest
import redis

from kagura_tasks.embedded_redis import EmbeddedRedis
from kagura_tasks.settings import RedisUrl, Settings
from kagura_tasks.worker.start_checks import log_broker_problems
from tests.integration.test_cli import free_port


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture):
    """The lines that are logged for these settings."""

    def warnings(settings: Settings) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "kagura_tasks.worker.start_checks"):
            log_broker_problems(settings)
        assert all(record.levelno == logging.WARNING for record in caplog.records)
        return caplog.messages

    return warnings


def test_a_server_that_is_fit_is_not_mentioned(warnings_of):
    """Append-only, no limit: nothing to say."""
    with EmbeddedRedis(appendonly=True) as server:
        assert warnings_of(Settings(redis_url=server.url)) == []


def test_each_problem_is_a_line_that_names_its_setting(warnings_of):
    """The server's address, what is wrong, and how to mend it."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", client.info("memory")["used_memory"] * 105 // 100)
        url = server.url
        lines = warnings_of(Settings(redis_url=url))
    assert len(lines) == 3
    assert all(line.startswith(f"Redis at {url.masked()} (broker, results): ") for line in lines)
    for setting, line in zip(["maxmemory-policy noeviction", "maxmemory", "appendonly yes"], lines, strict=True):
        assert f"`{setting}`" in line


def test_each_server_is_asked_once(warnings_of):
    """Broker and results may be two; the cache is nobody's concern here."""
    with EmbeddedRedis(appendonly=True) as broker, EmbeddedRedis() as results, EmbeddedRedis() as cache:
        settings = Settings(redis_url=broker.url, result_url=results.url, cache_url=cache.url)
        clients = [redis.Redis.from_url(server.url) for server in (broker, results, cache)]
        for client in clients:
            client.config_resetstat()
        [line] = warnings_of(settings)
        assert "(results): appendonly is no" in line
        asked = [client.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"] for client in clients]
        for client in clients:
            client.close()
    assert asked == [1, 1, 0]


def test_a_server_that_is_away_is_passed_over(warnings_of):
    """Nothing is raised, and nothing is said: connecting says it."""
    for url in (f"redis://:pw@127.0.0.1:{free_port()}/0", f"redis://{'a' * 70}/0", "unix:///nowhere/redis.sock"):
        assert warnings_of(Settings(redis_url=RedisUrl(url), redis_timeout_s=1.0)) == []


def test_a_server_that_hangs_costs_its_timeout(warnings_of):
    """A frozen server delays a start by no more than two answers that do not come."""
    with EmbeddedRedis() as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert warnings_of(Settings(redis_url=server.url, redis_timeout_s=0.5)) == []
            assert time.monotonic() - began < 10
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_a_server_that_does_not_tell_is_passed_over(warnings_of):
    """A managed Redis may refuse INFO."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.acl_setuser("default", categories=["-@all"], commands=["+ping", "+client"])
        assert warnings_of(Settings(redis_url=server.url)) == []
