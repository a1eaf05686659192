"""Keeps a lease on something for as long as it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager


@contextmanager
def renewed(renew: Callable[[], Awaitable[bool]], every_s: float) -> Generator[None]:
    """`renew` is awaited every so many seconds while the block runs, until it returns False: there is nothing to keep.

    A block that ends sooner costs nothing but a timer.
    """
    loop = asyncio.get_running_loop()
    renewals: list[asyncio.Task[None]] = []

    async def go_on() -> None:
        is_kept = True
        while is_kept:
            is_kept = await renew()
            await asyncio.sleep(every_s)

    def begin() -> None:
        renewals.append(loop.create_task(go_on(), name="kagura-renewal"))

    first = loop.call_later(every_s, begin)
    try:
        yield
    finally:
        first.cancel()
        for renewal in renewals:
            renewal.cancel()
