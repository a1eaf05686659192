"""Flower as `kagura-tasks flower` runs it, in a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from base64 import b64encode
from html import unescape
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from kagura_tasks.embedded_redis import tied_to_this_process
from tests.support.wait import until
from tests.support.workers import NOT_INHERITED

LOGIN = "somebody:secret"

# Without a proxy: it is on loopback.
_opener = build_opener(ProxyHandler({}))


class FlowerProcess:
    """Flower on this Redis, on a port of its own, with a login."""

    def __init__(self, redis_url: str, log: Path) -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
        ours = {"KAGURA_TASKS_REDIS_URL": redis_url, "FLOWER_BASIC_AUTH": LOGIN, "KAGURA_TASKS_REDIS_TIMEOUT_S": "1"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tied_to_this_process([sys.executable, "-m", "kagura_tasks.cli", "flower", f"--port={port}"]),
                env={**inherited, **ours},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> FlowerProcess:
        """Return when it answers."""
        until(self._answers, 60, "Flower")
        return self

    def get(self, path: str, *, login: str | None = LOGIN) -> str:
        """The page. Raises HTTPError where it is refused."""
        request = Request(f"{self.url}{path}")
        if login is not None:
            request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
        with _opener.open(request, timeout=30) as response:
            return response.read().decode()

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text("utf-8", errors="replace")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"Flower ended:\n{self.log}"
        try:
            return self.get("/healthcheck") == "OK"
        except (URLError, OSError):
            return False


def row_of(page: str, section: str, label: str) -> dict[str, float | None]:
    """The exact values of a row of one of the LLM page's tables."""
    (_, rest) = page.split(f'id="kg-by-{section}"')
    (row,) = re.findall(rf'<tr data-label="{re.escape(label)}">(.*?)</tr>', rest.split("</section>")[0], re.DOTALL)
    cells = re.findall(r'data-name="(\w+)" data-value="([^"]*)"', row)
    return {name: None if value == "None" else float(unescape(value)) for name, value in cells}


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for series, value in found if wanted <= set(series.split(",")))
