"""The demo, from beginning to end."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from kagura_tasks.app import create_app
from kagura_tasks.cli import fleet
from kagura_tasks.cli.demo import report
from kagura_tasks.cli.demo.model import Model, hosted_model, start_model
from kagura_tasks.cli.demo.prompts import FIRST, MANY
from kagura_tasks.cli.demo.rounds import Round, send
from kagura_tasks.cli.fleet import Ground
from kagura_tasks.cli.processes import Programs, ends_like_ctrl_c, patience_s
from kagura_tasks.cli.screen import Screen
from kagura_tasks.client import LLMClient
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import Settings, load_settings
from workers.profiles import PROFILES


@dataclass(frozen=True)
class Choice:
    """What was asked for on the command line.

    Attributes:
        model: A model by LiteLLM's name; None is the local one.
        scripted: Canned answers, even if there is a local model.
        workers: Worker processes.
        flower_port: Flower's port; None is any.
    """

    model: str | None = None
    scripted: bool = False
    workers: int = 2
    flower_port: int | None = None


def play(choice: Choice, keep: bool, as_json: bool) -> None:
    """Start everything, send the prompts, show what came back, stop everything."""
    fleet.require_worker()
    screen, settings = Screen(as_json), load_settings()
    patience = patience_s(settings.shutdown_timeout_s)
    with ends_like_ctrl_c(), fleet.running_redis(settings) as ground, Programs(patience) as programs:
        _refuse_company(ground)
        model, flower = _start(choice, ground, programs, screen)
        rounds = _rounds(_client(ground), model, screen)
        report.total(screen, rounds, model, flower)
        if keep:
            screen.note(f"Everything keeps running ({flower or 'no Flower'}): Ctrl-C stops it")
            with suppress(KeyboardInterrupt):
                programs.watch(screen.note)
        elif flower:
            screen.say("         (until the demo ends, which is now: `kagura-tasks demo --keep` waits for Ctrl-C)")


def _start(choice: Choice, ground: Ground, programs: Programs, screen: Screen) -> tuple[Model, str | None]:
    with screen.waiting("Starting a server, a model, workers and Flower"):
        model = hosted_model(choice.model) if choice.model else start_model(programs, choice.scripted, screen.note)
        environment = {**fleet.environment_of(ground.settings), **model.environment}
        workers = fleet.start_workers(programs, ground, PROFILES["all"], choice.workers, environment)
        flower = fleet.start_flower(programs, choice.flower_port, environment, screen.note)
        programs.wait_until_ready()
    report.parts(screen, ground, model, workers, flower)
    return model, flower


def _rounds(client: LLMClient, model: Model, screen: Screen) -> list[Round]:
    with screen.waiting("One prompt"):
        first = send(client, model, "one prompt", [FIRST], lambda: None)
    report.first(screen, first)
    again = send(client, model, "the same again", [FIRST], lambda: None)
    report.again(screen, again, first)
    with screen.counting(f"{len(MANY)} prompts", len(MANY)) as count:
        many = send(client, model, f"{len(MANY)} at once", MANY, count)
    report.many(screen, many)
    return [first, again, many, send(client, model, f"the same {len(MANY)} again", MANY, lambda: None)]


def _client(ground: Ground) -> LLMClient:
    """A client with a tenant of its own: what an earlier demo left is nobody's answer now."""
    own = {"tenant": f"demo-{os.getpid()}-{os.urandom(3).hex()}", "wait_timeout_s": 120.0}
    fixed = {"execution": "queue", "cache_enabled": True}
    return LLMClient(Settings(**{**ground.settings.model_dump(), **own, **fixed}))


def _refuse_company(ground: Ground) -> None:
    """Workers that are there already would take the demo's prompts to models of their own."""
    if ground.server is None and create_app(ground.settings).control.ping(timeout=1.0):
        raise ConfigurationError(
            f"workers are at work on {ground.settings.broker.masked()}: "
            "stop them, or run the demo without KAGURA_TASKS_REDIS_URL"
        )
