"""`kagura-tasks run`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from kagura_tasks.cli.interrupts import ctrl_c_waits
from kagura_tasks.cli.options import AsJson, parameters
from kagura_tasks.errors import InvalidRequest, KaguraTasksError

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.schemas import Completion, CompletionRequest


def run(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    model: Annotated[
        str | None, typer.Option(show_default="KAGURA_TASKS_DEFAULT_MODEL", help="LiteLLM's name of the model.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message before the prompt.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="A parameter of the call, such as temperature=0.2. Repeatable."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Call the model, whatever is remembered.")] = False,
    tenant: Annotated[str | None, typer.Option(show_default="KAGURA_TASKS_TENANT", help="Whose data this is.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            show_default="KAGURA_TASKS_WAIT_TIMEOUT_S",
            help="Seconds to wait for the answer; with --stream, of silence.",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the text while it is written; with --json, one event a line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a prompt to the workers and print the answer."""
    params = parameters(param)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _text_of(prompt)})

    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.requests import build_request
    from kagura_tasks.settings import load_settings

    # Whoever watches a text grow waits while it does: then it is silence that is bounded.
    settings = load_settings().override(wait_timeout_s=timeout if stream else None)
    client = LLMClient(settings)
    request = build_request(settings, messages, model=model, tenant=tenant, use_cache=not no_cache, params=params)
    if settings.execution == "queue":
        require_redis(settings.broker, settings.results, settings.cache)
    screen = Screen(as_json)
    if stream:
        _stream(client, request, screen)
        return
    started = time.monotonic()
    with screen.waiting("Waiting for the answer", in_a_log=False):
        task_id, completion = _ask(client, request, timeout)
    _show(screen, task_id, completion, time.monotonic() - started)


def _ask(client: LLMClient, request: CompletionRequest, timeout_s: float | None) -> tuple[str, Completion]:
    """The task's id and its answer. Ctrl-C cancels the task: nobody else knows of it."""
    from kagura_tasks.loops import outcome
    from kagura_tasks.sources import WAITING

    result = answer = None
    try:
        # A message that was sent is found again by the id that `submit` returns, and by nothing else.
        with ctrl_c_waits():
            result = client.submit(request)
            answer = WAITING.submit(result.aget(timeout_s))
        return result.id, outcome(answer)
    except KeyboardInterrupt:
        with ctrl_c_waits(), suppress(KaguraTasksError):
            if answer is not None:
                answer.cancel()
            if result is not None:
                result.cancel()
        raise


def _stream(client: LLMClient, request: CompletionRequest, screen: Screen) -> None:
    """Show the text while it is written. Ctrl-C cancels the task."""
    from kagura_tasks.cli.streamed import show

    result = None
    try:
        with ctrl_c_waits():
            result = client.submit(request, stream=True)
        show(result.stream(), screen)
    except KeyboardInterrupt:
        with ctrl_c_waits(), suppress(KaguraTasksError):
            if result is not None:
                result.cancel()
        raise


def _show(screen: Screen, task_id: str, completion: Completion, seconds: float) -> None:
    from kagura_tasks.cli.screen import printable

    screen.document({"id": task_id, **completion.model_dump(mode="json"), "seconds": round(seconds, 4)})
    if not screen.as_json:
        print(printable(completion.text) if sys.stdout.isatty() else completion.text)
    if not completion.is_complete:
        screen.note(f"warning: the answer is not complete (finish_reason: {completion.finish_reason or 'none'})")


def _text_of(prompt: str) -> str:
    """The prompt itself, or standard input for a dash."""
    try:
        text = sys.stdin.buffer.read().decode() if prompt == "-" else prompt
        text.encode()  # an argument may hold bytes that are no text
    except UnicodeError:
        raise InvalidRequest("the prompt is not UTF-8") from None
    return text
