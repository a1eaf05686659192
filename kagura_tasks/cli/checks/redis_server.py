"""Is each Redis there, new enough, and set up for what it does?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kagura_tasks.broker_health import problems_of
from kagura_tasks.cli.checks.check import Check
from kagura_tasks.cli.preflight import ServerInfo, ask_servers
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.settings import RedisUrl, Settings

_OLDEST: Final = (7, 0)


def check(settings: Settings) -> Iterator[Check]:
    """Look at each server once, whatever it does."""
    duties: dict[RedisUrl, list[str]] = {}
    for duty, url in (("broker", settings.broker), ("results", settings.results), ("cache", settings.cache)):
        duties.setdefault(url, []).append(duty)
    for url, answer in ask_servers(list(duties)).items():
        if isinstance(answer, KaguraTasksError):
            yield Check("redis", "error", *_problem_and_cure(answer))
        else:
            yield from judge(url, answer, duties[url])


def _problem_and_cure(error: KaguraTasksError) -> tuple[str, str]:
    """The error's own words: what is behind its first colon with a space says what to do."""
    problem, _, cure = str(error).partition(": ")
    return problem, cure


def judge(url: RedisUrl, info: ServerInfo, duties: list[str]) -> Iterator[Check]:
    """Is what the server tells about itself good enough for these duties: "broker", "results", "cache"?"""
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    where = f"{url.masked()} ({', '.join(duties)})"
    if _numbers(version) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        yield Check("redis", "error", f"{where} has version {version}", f"our scripts need {oldest} or later")
    else:
        yield Check("redis", "ok", f"{where} answers: {name} {version}")
    problems = list(problems_of(info, duties))
    for problem in problems:
        yield Check("redis", "warning", f"{where}: {problem.message}", problem.mend)
    if not problems:
        policy, appends = info.get("maxmemory_policy", "not told"), "yes" if info.get("aof_enabled") else "no"
        yield Check("redis", "ok", f"{where}: maxmemory-policy is {policy}, appendonly is {appends}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
