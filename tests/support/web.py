"""Web applications under uvicorn: in the test's own loop, or in a process of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import uvicorn

from kagura_tasks.embedded_redis import tied_to_this_process
from tests.support.wait import auntil, until
from tests.support.workers import NOT_INHERITED

# Without a proxy: these servers are on loopback.
_opener = build_opener(ProxyHandler({}))


@asynccontextmanager
async def serving(app: Any, send_buffer_bytes: int | None = None) -> AsyncIterator[str]:
    """The address of the application, served by this loop. What is still being answered at the end is cut off."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if send_buffer_bytes is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)  # connections inherit it
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await auntil(partial(_is_listening, server), 10, "a server that listens")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.force_exit = server.should_exit = True
            await running


async def _is_listening(server: uvicorn.Server) -> bool:
    return server.started


class WebProcess:
    """`uvicorn app:app` in a folder, on a port of its own, as anybody would start it."""

    def __init__(self, folder: Path, environment: dict[str, str], log: Path) -> None:
        self._folder, self._environment, self._log = folder, environment, log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        """Start it; returns when it answers."""
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_this_process(command),
                cwd=self._folder,
                env={**inherited, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._answers, 30, "a web server that answers")

    def kill(self) -> None:
        """End it at once, and with it every connection."""
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"the web server ended:\n{self.log}"
        try:
            with _opener.open(self.url, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False
