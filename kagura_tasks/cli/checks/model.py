"""Does LiteLLM know the default model, and is its key here? A child process asks: it costs seconds and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final, cast

from kagura_tasks.cli.checks.check import Check

_PATIENCE_S: Final = 60.0


def check(model: str) -> Iterator[Check]:
    """Ask, where LiteLLM is installed; an application's machine needs none."""
    if find_spec("litellm") is None:
        yield Check("model", "ok", f"{model} (not looked up: LiteLLM is not installed here, only workers need it)")
        return
    command = [sys.executable, "-m", f"{__package__}.ask_litellm", model]
    try:
        told = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=True).stdout
        answer = cast("dict[str, Any]", json.loads(told))
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        yield Check("model", "warning", f"LiteLLM could not be asked ({type(error).__name__})", "reinstall litellm")
        return
    yield judge(model, answer)


def judge(model: str, answer: dict[str, Any]) -> Check:
    """Is what LiteLLM knows about the model good enough? See ask_litellm.py."""
    if not answer["provider"]:
        cure = "set KAGURA_TASKS_DEFAULT_MODEL to one of LiteLLM's names, such as openai/gpt-4o-mini"
        return Check("model", "error", f"LiteLLM does not know the default model {model}", cure)
    if answer["missing_keys"]:
        names = " or ".join(answer["missing_keys"])
        cure = f"the workers' environment needs {names}; it is not set in this one"
        return Check("model", "warning", f"{model} (provider: {answer['provider']})", cure)
    return Check("model", "ok", f"{model} (provider: {answer['provider']}), and its key is in this environment")
