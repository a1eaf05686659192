"""What a server tells about itself, and what that means for queues and results."""

from __future__ import annotations

from typing import Any

import pytest

from kagura_tasks.broker_health import problems_of

MB = 1_000_000


@pytest.mark.parametrize(
    ("info", "settings"),
    [
        ({}, []),
        ({"maxmemory_policy": "noeviction", "maxmemory": 100 * MB, "used_memory": 90 * MB, "aof_enabled": 1}, []),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 100 * MB, "used_memory": MB}, ["maxmemory-policy"]),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": 100 * MB}, ["maxmemory-policy"]),
        ({"maxmemory_policy": "allkeys-lru"}, ["maxmemory-policy"]),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, []),
        ({"maxmemory": 100 * MB, "used_memory": 91 * MB}, ["`maxmemory`"]),
        ({"maxmemory": 0, "used_memory": 91 * MB, "total_system_memory": 100 * MB}, ["`maxmemory`"]),
        ({"maxmemory": 200 * MB, "used_memory": 91 * MB, "total_system_memory": 100 * MB}, []),
        ({"maxmemory": "lots", "used_memory": None}, []),
        ({"aof_enabled": 0}, ["appendonly"]),
        (
            {"maxmemory_policy": "allkeys-lfu", "maxmemory": 100 * MB, "used_memory": 99 * MB, "aof_enabled": 0},
            ["maxmemory-policy", "`maxmemory`", "appendonly"],
        ),
    ],
)
def test_a_problem_names_its_setting(info: dict[str, Any], settings: list[str]):
    """And only what the server tells is judged."""
    found = list(problems_of(info, ["broker", "results"]))
    assert len(found) == len(settings)
    assert all(name in problem.mend for name, problem in zip(settings, found, strict=True))


@pytest.mark.parametrize(
    ("duties", "at_stake"),
    [
        (["broker"], "queued tasks may be"),
        (["results", "cache"], "results may be"),
        (["broker", "results", "cache"], "queued tasks and results may be"),
    ],
)
def test_it_is_said_what_is_at_stake(duties: list[str], at_stake: str):
    """A server loses what it is there for."""
    [problem] = problems_of({"maxmemory_policy": "allkeys-lru"}, duties)
    assert at_stake in problem.message


def test_a_cache_may_lose_anything():
    """Remembered answers are made again."""
    info = {"maxmemory_policy": "allkeys-lru", "maxmemory": MB, "used_memory": MB, "aof_enabled": 0}
    assert list(problems_of(info, ["cache"])) == []
