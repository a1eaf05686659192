"""Tasks of all kinds for a worker that runs very many of them, and a census of what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from greenlet import greenlet

from kagura_tasks.app import create_app
from kagura_tasks.settings import load_settings
from kagura_tasks.worker import install

app = create_app(load_settings())
install(app)


@app.task(name="soak.coroutine")
async def coroutine(number: int) -> int:
    await asyncio.sleep(0)
    return number


@app.task(name="soak.plain")
def plain(number: int) -> int:
    return number


@app.task(name="soak.fails")
async def fails(number: int) -> None:
    await asyncio.sleep(0)
    raise ValueError(number)


@app.task(name="soak.fails_plain")
def fails_plain(number: int) -> None:
    raise ValueError(number)


@app.task(name="soak.retried", bind=True)
async def retried(self: Any, number: int) -> int:
    await asyncio.sleep(0)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return number


@app.task(name="soak.retried_plain", bind=True)
def retried_plain(self: Any, number: int) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return number


@app.task(name="soak.too_long", time_limit=0.2)
async def too_long(number: int) -> int:
    await asyncio.sleep(60)
    return number


@app.task(name="soak.too_long_plain", time_limit=0.2)
def too_long_plain(number: int) -> int:
    time.sleep(0.4)
    return number


@app.task(name="soak.cleans_up", soft_time_limit=0.2)
async def cleans_up(number: int) -> int:
    try:
        await asyncio.sleep(60)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
    return number


@app.task(name="soak.census")
async def census() -> dict[str, int]:
    """What there is in this process, this task included."""
    gc.collect()
    # Each thread has one without a parent.
    found = [one for one in gc.get_objects() if isinstance(one, greenlet) and one.parent is not None]
    return {
        "greenlets": sum(not one.dead for one in found),
        "asyncio tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }
