"""So many parsers at a time, for a coroutine. They are started when they are needed, and end with the pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from kagura_tasks.errors import ParserDied
from kagura_tasks.files.limits import FileLimits
from kagura_tasks.files.process import ParserProcess

T = TypeVar("T")
P = ParamSpec("P")


class ParserPool:
    """Parsers in processes of their own. To be used on one event loop at a time; an `async with` block ends them.

    Threads wait for them, not the event loop's own means for processes: those want signals, which the loops of some
    workers (uvloop beside the main thread) do not get.
    """

    def __init__(self, size: int = 2, limits: FileLimits | None = None) -> None:
        """Take how many files may be parsed at a time, and what each may ask of us."""
        if size < 1:
            raise ValueError(f"{size} parsers parse nothing")
        self.limits = limits or FileLimits()
        self.size = size
        self._begin()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def places(self) -> asyncio.Semaphore:
        """So many files may be open at a time, however many are waited for: descriptors are few."""
        self._check_place()
        return self._places

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that there are."""
        return [process.pid for process in [*self._idle, *self._busy]]

    async def parse(self, file: int, path: str, media_type: str) -> dict[str, object]:
        """The fields of the document in an open file, whose descriptor stays the caller's. See ParserProcess.parse.

        When the caller is cancelled, the file's parser is ended.
        """
        self._check_place()
        async with self._free:
            process = await self._take(path)
            try:
                return await self._parse_in(process, file, path, media_type)
            except ParserDied:
                if not process.is_used:
                    raise
            # It may have died of the files before this one, whose memory it held.
            return await self._parse_in(await self._start(path), file, path, media_type)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that blocks on the disk, in a thread of the pool's own."""
        self._check_place()
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))

    async def aclose(self) -> None:
        """End all parsers. The pool can be used again: it then starts new ones."""
        processes, threads = [*self._idle, *self._busy], self._threads
        self._begin()
        await asyncio.to_thread(_close, processes, threads)

    def close(self) -> None:
        """The same, where no event loop runs any more."""
        processes, threads = [*self._idle, *self._busy], self._threads
        self._begin()
        _close(processes, threads)

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._idle: list[ParserProcess] = []
        self._busy: set[ParserProcess] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = self._places = asyncio.Semaphore(0)  # until there is a loop
        # One more for each parser: reading and hashing the next file need not wait for the last one's parser.
        self._threads = ThreadPoolExecutor(2 * self.size, "kagura-files")

    def _check_place(self) -> None:
        """After a fork, the parsers are the parent's, and so are the threads. Each event loop has its own queues."""
        if self._owner != os.getpid():
            for process in [*self._idle, *self._busy]:
                process.abandon()
            self._begin()
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._loop = loop
            self._free, self._places = asyncio.Semaphore(self.size), asyncio.Semaphore(4 * self.size)

    async def _take(self, path: str) -> ParserProcess:
        while self._idle:
            process = self._idle.pop()
            if process.is_usable:
                return process
            process.close()
        return await self._start(path)

    async def _start(self, path: str) -> ParserProcess:
        starting = asyncio.ensure_future(self.in_thread(ParserProcess, self.limits))
        try:
            return await asyncio.shield(starting)
        except OSError as error:
            raise ParserDied(path, f"it could not be started: {error.strerror}") from None
        except asyncio.CancelledError:
            starting.add_done_callback(_close_started)
            raise

    async def _parse_in(self, process: ParserProcess, file: int, path: str, media_type: str) -> dict[str, object]:
        self._busy.add(process)
        try:
            return await self._wait(process, partial(process.parse, file, path, media_type))
        finally:
            self._busy.discard(process)
            if process.is_usable:
                self._idle.append(process)
            else:
                process.close()

    async def _wait(self, process: ParserProcess, parse: Callable[[], dict[str, object]]) -> dict[str, object]:
        waiting = asyncio.ensure_future(self.in_thread(parse))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            # Its thread waits for it: it is dead when the thread is free again, and not before.
            process.end()
            await asyncio.wait([waiting])
            _ = waiting.cancelled() or waiting.exception()
            raise


def _close_started(starting: asyncio.Future[ParserProcess]) -> None:
    """Nobody waits for this process any more."""
    if not starting.cancelled() and starting.exception() is None:
        starting.result().close()


def _close(processes: list[ParserProcess], threads: ThreadPoolExecutor) -> None:
    for process in processes:
        process.end()
    threads.shutdown()
    for process in processes:
        process.close()
