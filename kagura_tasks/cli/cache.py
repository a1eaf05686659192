"""`kagura-tasks cache`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from kagura_tasks.cli.confirm import confirm
from kagura_tasks.cli.options import AsJson, Yes
from kagura_tasks.errors import InvalidRequest

if TYPE_CHECKING:
    from kagura_tasks.cache.llm_cache import LLMCache

T = TypeVar("T")

cache: Final = typer.Typer(help="Look at the remembered answers, and drop them.", no_args_is_help=True)

Tenant = Annotated[str | None, typer.Option(show_default="all", help="Of this tenant only.")]


@cache.command()
def stats(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Print what the cache did, for all processes that share it."""
    from kagura_tasks.cli.screen import Screen

    found = _with_cache(lambda cache: cache.stats(tenant))
    # How much Redis may hold is its own setting, `maxmemory`.
    del found["max_size"]
    screen = Screen(as_json)
    screen.document(dict(found))
    for name, value in found.items():
        screen.say(f"{name.replace('_', ' '):<13} {_in_words(name, value)}")


@cache.command()
def invalidate(
    pattern: Annotated[
        str | None, typer.Option(help="Whose key fits this glob, or contains this text: the keys name the model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of this model.")] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag.")] = None,
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries of all tenants.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drop remembered answers: those that fit everything given, or all of them with --all."""
    given = {"pattern": pattern, "model": model, "tag": tag, "tenant": tenant}
    chosen = {name: value for name, value in given.items() if value}
    if bool(chosen) == everything:
        raise InvalidRequest("say which entries: --pattern, --model, --tag, --tenant, or --all alone for all of them")
    if not yes:
        which = ", ".join(f"{name} {value}" for name, value in chosen.items())
        confirm(f"Drop the entries of {which}?" if which else "Drop ALL remembered answers?")

    from kagura_tasks.cli.screen import Screen

    went = _with_cache(lambda cache: cache.invalidate(**chosen))
    screen = Screen(as_json)
    screen.document({"dropped": went})
    screen.say(f"{went} {'entry' if went == 1 else 'entries'} dropped")


def _with_cache(ask: Callable[[LLMCache], Awaitable[T]]) -> T:
    """What the fleet's cache answers. Raises RedisUnreachable."""
    from kagura_tasks.cache.llm_cache import LLMCache
    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.connections import redis_errors
    from kagura_tasks.settings import load_settings

    settings = load_settings()
    require_redis(settings.cache)

    async def asking() -> T:
        cache = LLMCache.from_settings(settings)
        try:
            with redis_errors(settings.cache):
                return await ask(cache)
        finally:
            await cache.close()

    return asyncio.run(asking())


def _in_words(name: str, value: float | str) -> str:
    if name == "hit_rate":
        return f"{value:.1%}"
    if name == "usd_saved":
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
