"""Keeps a lease on something for as long as it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Renewed:
    """`renew` is awaited every so many seconds while the block runs, until it returns False: there is nothing to keep.

    A block that ends sooner costs nothing but a timer.
    """

    def __init__(self, renew: Callable[[], Awaitable[bool]], every_s: float) -> None:
        """Take what renews the lease, and how often (s) that has to be."""
        self._renew = renew
        self._every_s = every_s
        self._first: asyncio.TimerHandle | None = None
        self._renewals: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        """Begin."""
        self._first = asyncio.get_running_loop().call_later(self._every_s, self._begin)

    def __exit__(self, *_: object) -> None:
        """End."""
        for pending in (self._first, self._renewals):
            if pending is not None:
                pending.cancel()

    def _begin(self) -> None:
        self._renewals = asyncio.create_task(self._go_on(), name="kagura-renewal")

    async def _go_on(self) -> None:
        is_kept = True
        while is_kept:
            is_kept = await self._renew()
            await asyncio.sleep(self._every_s)
