"""Asynchronous calls out of a synchronous test."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from kagura_tasks.connections import close_async_clients

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which leaves no connection open: another test would find it, and fail."""

    async def and_close() -> T:
        try:
            return await coroutine
        finally:
            await close_async_clients()

    return asyncio.run(and_close())
