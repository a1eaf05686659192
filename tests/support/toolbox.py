"""Tools for tests: a module that workers are allowed to take tools from. What they did is a list in Redis."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from typing import Annotated

import redis
from pydantic import BaseModel, Field

from kagura_tasks import tool, tool_context
from kagura_tasks.errors import ToolError


class Place(BaseModel):
    """Where something is."""

    city: str
    floor: int = 0


def _note(what: str, key: str) -> int:
    """Write down that a tool ran, where a test looks for it; how often one did."""
    with redis.Redis.from_url(os.environ["KAGURA_TASKS_REDIS_URL"]) as client, client.pipeline() as pipe:
        pipe.rpush(f"toolbox:{key}", what)
        pipe.expire(f"toolbox:{key}", 300)
        return int(pipe.execute()[0])


@tool
def weather(city: Annotated[str, Field(description="Its name in English")], days: int = 1) -> str:
    """Tell the weather of a city."""
    _note(f"weather {days} {tool_context().call_id}", city)
    return f"It is sunny in {city}."


@tool
async def inventory(place: Place) -> dict[str, object]:
    """Count what is in a place."""
    await asyncio.sleep(0)
    _note("inventory", place.city)
    return {"city": place.city, "floor": place.floor, "items": [1, 2]}


@tool
def shout(word: str) -> str:
    """Write a word in capitals."""
    return word.upper()


@tool
def broken(word: str) -> str:
    """Raise an error with a secret in its text."""
    raise RuntimeError(f"redis://:hunter2@example {word}")


@tool
def picky(word: str) -> str:
    """Raise what is meant for the model."""
    raise ToolError(f"say something else than {word}")


@tool
def leaving(word: str) -> str:
    """Try to end the program."""
    sys.exit(word)


@tool
async def leaving_the_loop(word: str) -> str:
    """Try to end the program, from its event loop."""
    sys.exit(word)


@tool(timeout_s=0.5)
async def hanging(word: str) -> str:
    """Wait for ever."""
    _note("hanging", word)
    await asyncio.sleep(3600)
    return word


@tool(timeout_s=0.5)
def hanging_thread(word: str) -> str:
    """Wait for ever in a thread."""
    _note("hanging", word)
    for _ in range(36_000):
        time.sleep(0.1)
    return word


@tool(timeout_s=0.5)
async def stubborn(word: str) -> str:
    """Wait, and refuse to end."""
    for _ in range(60):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
    raise RuntimeError(word)


@tool
async def cancels_itself(word: str) -> str:
    """Raise what only whoever cancels it should."""
    raise asyncio.CancelledError(word)


@tool
def stops(word: str) -> str:
    """Raise what no future can hold."""
    raise StopIteration(word)


@tool(timeout_s=300)
async def slow(word: str) -> str:
    """Wait until somebody else ends it."""
    _note("slow", word)
    try:
        await asyncio.sleep(120)
    except asyncio.CancelledError:
        _note("cancelled", word)
        raise
    return word


@tool(timeout_s=300)
async def slow_once(word: str) -> str:
    """Wait until its worker dies, and answer when it is asked again."""
    if _note(tool_context().call_id, word) == 1:
        await asyncio.sleep(120)
    return f"done for {word}"


@tool
def long(word: str) -> str:
    """Say more than anybody wants to read."""
    return word + "x" * 200_000


@tool
def unspeakable(word: str) -> object:
    """Give what has no JSON form."""
    return object()


@tool
def own_id(word: str) -> str:
    """Say by which name the call is known, and whose it is."""
    return f"{tool_context().tenant} {tool_context().call_id}"


def unmarked(word: str) -> str:
    """Is no tool."""
    return word
