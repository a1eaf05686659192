"""What the doctor looks at, in the order in which one thing depends on another."""

from __future__ import annotations

from collections.abc import Iterator

from kagura_tasks.cli.checks import deliveries, environment, model, redis_server, workers
from kagura_tasks.cli.checks.check import Check
from kagura_tasks.cli.screen import Screen
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import load_settings


def all_checks(screen: Screen, *, with_model: bool) -> Iterator[Check]:
    """Look at one thing after the other. What depends on a thing that failed is not looked at."""
    yield from environment.versions()
    yield from environment.unknown_variables()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield Check("settings", "error", str(error), "correct the variable, or unset it")
        return
    yield Check("settings", "ok", "every KAGURA_TASKS_ variable has an allowed value")
    yield from environment.keys()
    if settings.execution == "queue":
        servers = list(redis_server.check(settings))
        yield from servers
        if any(check.level == "error" for check in servers):
            return
        yield from deliveries.check(settings)
        with screen.waiting("Asking for workers", in_a_log=False):
            found = list(workers.check(settings))
        yield from found
    if with_model:
        with screen.waiting("Asking LiteLLM about the default model, which takes seconds", in_a_log=False):
            found = list(model.check(settings.default_model))
        yield from found
