"""docker-compose.yml as Docker reads it, and its services on this machine without Docker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from kagura_tasks.embedded_redis import find_server, tied_to_this_process
from tests.integration.test_cli import free_port
from tests.support.workers import NOT_INHERITED, ROOT

FILE: Final = ROOT / "docker-compose.yml"
ENTRYPOINT: Final = ROOT / "deploy" / "entrypoint.sh"
HEALTHCHECK: Final = ROOT / "deploy" / "healthcheck.sh"
SERVERS: Final = {"redis", "cache"}

_VARIABLE: Final = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")

Service = dict[str, Any]


class NotSet(Exception):
    """What `docker compose` says, and ends, where a variable is missing."""


def services(environment: Mapping[str, str]) -> dict[str, Service]:
    """The services, with the variables of `docker compose`'s environment filled in. Raises NotSet."""
    return _filled(yaml.safe_load(FILE.read_text("utf-8")), environment)["services"]


def environment_in(service: Service, environment: Mapping[str, str]) -> dict[str, str]:
    """What the service's processes find; a variable without a value is handed on where there is one."""
    named = service.get("environment", {})
    return {name: str(value) for name, value in named.items() if value is not None} | {
        name: environment[name] for name, value in named.items() if value is None and name in environment
    }


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, environment) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, environment) for one in value]
    return _VARIABLE.sub(lambda found: _value(found, environment), value) if isinstance(value, str) else value


def _value(found: re.Match[str], environment: Mapping[str, str]) -> str:
    if value := environment.get(found["name"]):
        return value
    if found["kind"] == "?":
        raise NotSet(f"{found['name']}: {found['text']}")
    return found["text"] or ""


class Stack:
    """All services as processes of this machine: other ports, the same commands."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        """Start them, with this environment of `docker compose`. Their logs are in the folder."""
        self._ports = {"redis:6379": free_port(), "cache:6379": free_port(), "5555": free_port()}
        self._folder = folder
        self._outer = environment
        self.services = services(environment)
        self.processes = {name: self._start(name) for name in self.services}

    def port(self, address: str) -> int:
        """Where it is, whatever the file calls it: "redis:6379", "cache:6379" or "5555"."""
        return self._ports[address]

    def here(self, text: str) -> str:
        """The text with this machine's addresses and folders."""
        for address, port in self._ports.items():
            text = text.replace(address, f"127.0.0.1:{port}" if ":" in address else str(port))
        return str(self._folder) if text == "/files" else text

    def environment(self, name: str) -> dict[str, str]:
        """A service's environment on this machine."""
        inherited = {key: value for key, value in os.environ.items() if not key.upper().startswith(NOT_INHERITED)}
        own = {key: self.here(value) for key, value in environment_in(self.services[name], self._outer).items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        heartbeat = {"KAGURA_TASKS_HEARTBEAT_FILE": str(self._folder / f"{name}.heartbeat")}
        return {**inherited, "PATH": path, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **heartbeat, **own}

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`docker compose exec <service> <command>`."""
        words = [self.here(word) for word in command]
        return subprocess.run(words, cwd=ROOT, env=self.environment(name), capture_output=True, text=True, timeout=100)

    def log(self, name: str) -> str:
        """All that a service wrote."""
        return (self._folder / f"{name}.log").read_text("utf-8", "replace")

    def stop(self) -> None:
        """End them all."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                tied_to_this_process(self._command(name)),
                cwd=ROOT,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(self, name: str) -> list[str]:
        command = [self.here(str(word)) for word in self.services[name]["command"]]
        if name not in SERVERS:
            return ["/bin/sh", str(ENTRYPOINT), *command]
        (data := self._folder / name).mkdir()
        where = ["--port", str(self.port(f"{name}:6379")), "--bind", "127.0.0.1", "--dir", str(data)]
        return [str(find_server()), *command[1:], *where]
