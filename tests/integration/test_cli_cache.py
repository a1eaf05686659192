"""`kagura-tasks cache`: looking at the remembered answers, and dropping them."""

from __future__ import annotations

import pytest

from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.schemas import Completion, Usage
from kagura_tasks.settings import RedisUrl, Settings
from tests.integration.test_cli import document, kagura, the_error


@pytest.fixture
async def remembered(redis_url: RedisUrl) -> None:
    """Four answers: of two models, two tenants, one of them tagged; and a hit and a miss."""
    cache = LLMCache.from_settings(Settings(redis_url=redis_url))
    answer = Completion(text="ok", model="m", finish_reason="stop", usage=Usage(total_tokens=1500, cost_usd=0.25))
    for key, model, tenant, tags in [
        ("v1:openai/a:1", "openai/a", "red", ["night"]),
        ("v1:openai/a:2", "openai/a", "red", []),
        ("v1:openai/b:3", "openai/b", "red", []),
        ("v1:openai/a:4", "openai/a", "blue", []),
    ]:
        assert await cache.set(key, answer, model=model, tenant=tenant, tags=tags)
    await cache.get("v1:openai/a:1", tenant="red")
    await cache.get("v1:openai/a:9", tenant="red")
    await cache.close()


def test_stats_are_the_fleets(remembered: None, redis_url: str):
    """Of all tenants, or of one; hits, misses and what was saved, in words and as JSON."""
    found = document(kagura("cache", "stats", "--json", redis_url=redis_url))
    assert (found["size"], found["hits"], found["misses"], found["hit_rate"]) == (4, 1, 1, 0.5)
    assert (found["tokens_saved"], found["usd_saved"]) == (1500, 0.25)
    assert document(kagura("cache", "stats", "--json", "--tenant", "blue", redis_url=redis_url))["size"] == 1
    words = dict(line.rsplit(maxsplit=1) for line in kagura("cache", "stats", redis_url=redis_url).stdout.splitlines())
    assert (words["hit rate"], words["tokens saved"], words["size"]) == ("50.0%", "1,500", "4")


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        (["--tenant", "red"], 3),
        (["--model", "openai/a"], 3),
        (["--model", "openai/a", "--tenant", "red"], 2),
        (["--tag", "night"], 1),
        (["--pattern", "v1:openai/b:*"], 1),
        (["--pattern", "nothing"], 0),
        (["--all"], 4),
    ],
)
def test_what_goes_is_counted(remembered: None, redis_url: str, options: list[str], dropped: int):
    """Entries that fit everything given go; the others stay."""
    assert document(kagura("cache", "invalidate", *options, "--yes", "--json", redis_url=redis_url)) == {
        "dropped": dropped
    }
    assert document(kagura("cache", "stats", "--json", redis_url=redis_url))["size"] == 4 - dropped


def test_one_is_an_entry(remembered: None, redis_url: str):
    """People read words."""
    done = kagura("cache", "invalidate", "--tag", "night", "-y", redis_url=redis_url)
    assert done.stdout == "1 entry dropped\n"


@pytest.mark.parametrize("options", [[], ["--yes"], ["--all", "--model", "openai/a", "--yes"], ["--tag", "", "--yes"]])
def test_nobody_drops_everything_by_accident(remembered: None, redis_url: str, options: list[str]):
    """Without a choice nothing goes: everything wants --all, and --all stands alone."""
    assert "--all" in the_error(kagura("cache", "invalidate", *options, redis_url=redis_url))
    assert document(kagura("cache", "stats", "--json", redis_url=redis_url))["size"] == 4


def test_where_nobody_can_be_asked_nothing_goes(remembered: None, redis_url: str):
    """A script has to say --yes."""
    assert "--yes" in the_error(kagura("cache", "invalidate", "--all", redis_url=redis_url))
    assert document(kagura("cache", "stats", "--json", redis_url=redis_url))["size"] == 4
