"""Which model the demo asks, and what workers must know to reach it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kagura_tasks.cli.demo import local_model, scripted_model
from kagura_tasks.cli.demo.prompts import LOCAL_PARAMS
from kagura_tasks.cli.fleet import LOOPBACK
from kagura_tasks.cli.processes import Program, Programs, StartFailed
from kagura_tasks.settings import ENV_PREFIX

_ADDRESS = "http://"


@dataclass(frozen=True)
class Model:
    """A model that the workers can reach.

    Attributes:
        name: LiteLLM's name.
        label: What people are told.
        params: Parameters of the calls.
        environment: What the workers' environment has beside ours.
    """

    name: str
    label: str
    params: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def hosted_model(name: str) -> Model:
    """A provider's model. Its key is in our environment, or the worker says which one it lacks."""
    # No parameters: there is none that all models take.
    return Model(name, name)


def start_model(programs: Programs, scripted: bool, say: Callable[[str], None]) -> Model:
    """Start the local model, or canned answers where it is not installed or does not run; wait until it answers."""
    key = secrets.token_urlsafe(16)
    if not scripted and local_model.weights() is not None:
        try:
            url = _start(programs, "the local model", local_model.__name__, key)
            return _on_loopback(local_model.NAME, f"{local_model.NAME}, on this machine", url, key)
        except StartFailed as error:  # such as a processor that lacks what the engine was built for
            say(f"{error}: going on without a model")
            programs.stop()
    url = _start(programs, "the scripted model", scripted_model.__name__, key)
    label = f"none: canned answers, each marked {scripted_model.MARK}"
    return _on_loopback(scripted_model.NAME, label, url, key)


def _start(programs: Programs, name: str, module: str, key: str) -> str:
    environment = {**os.environ, local_model.KEY_VARIABLE: key}
    command = [sys.executable, "-m", module]
    running = programs.start(Program(name, command, environment, is_ready=lambda output: _ADDRESS in output))
    programs.wait_until_ready()
    return next(line for line in running.output.splitlines() if line.startswith(_ADDRESS))


def _on_loopback(name: str, label: str, url: str, key: str) -> Model:
    """As a hosted provider that speaks OpenAI's HTTP; neither a proxy nor an address of the user's is in the way."""
    bypass = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), LOOPBACK]))
    address = {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key}
    # The demo shows the way that every provider's calls can take.
    lane = {f"{ENV_PREFIX}PROVIDER_LANE": "litellm"}
    return Model(f"openai/{name}", label, LOCAL_PARAMS, {**address, **lane, "NO_PROXY": bypass, "no_proxy": bypass})
