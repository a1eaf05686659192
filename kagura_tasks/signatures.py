"""The messages that ask workers for something. The only file of the application's side that writes a task's name."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.canvas import Signature
from pydantic import ValidationError

from kagura_tasks.app import REDACTED
from kagura_tasks.errors import InvalidRequest
from kagura_tasks.maps.names import MapName
from kagura_tasks.metrics import publishing as publishing  # it stamps what is sent
from kagura_tasks.plans import OnError, ReducePlan
from kagura_tasks.queues import FILES, ROUTING, TaskName, queue_of
from kagura_tasks.requests import Prompt, request_of
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import CompletionRequest, Priority, problems_of
from kagura_tasks.settings import load_settings

__all__ = ["complete", "reduce", "route"]


def complete(
    app: Celery,
    prompt: Prompt | CompletionRequest,
    *,
    looked_up: bool = False,
    stream: bool = False,
    on_error: OnError = "raise",
    **options: Any,
) -> Signature[dict[str, object]]:
    """The message that asks a worker for one completion. Sends nothing by itself.

    Its result is a Completion as JSON. The prompt is in the message, but not in what events and logs show of it. It is
    fixed: in a chain, what came before is not looked at.

    Args:
        app: The Celery app to send through.
        prompt: A text, chat turns, or a request (of `LLMClient.request`, say).
        looked_up: The cache was asked already, and the miss counted.
        stream: The text is wanted while it is written.
        on_error: "collect" makes `{"error": {"type": ..., "args": [...]}}` the result of a task that fails, so that a
            chord goes on with what succeeded. What another try may mend is tried again before.
        options: See `LLMClient.request`; what they do not say, the environment's settings do.

    Raises:
        InvalidRequest: The request cannot be right for any model.
    """
    request = prompt if isinstance(prompt, CompletionRequest) else request_of(load_settings(), prompt, options)
    # Workers of an older version do not know the later ones.
    kwargs = {"looked_up": looked_up, **({"stream": True} if stream else {}), **_if_collected(on_error)}
    document = request.model_dump(mode="json", exclude_defaults=True)
    return _signature(app, TaskName.COMPLETE, request.priority, args=[document], kwargs=kwargs, immutable=True)


def reduce(
    app: Celery,
    template: str,
    *,
    takes: str = "parts",
    on_error: OnError = "raise",
    context_tokens: int | None = None,
    **options: Any,
) -> Signature[dict[str, object]]:
    """The message that asks a worker for one completion of what came before. Sends nothing by itself.

    As the body of a chord it gets the results of the header, in a chain the one before it; completions, error
    envelopes, or what other tasks returned. Its result is a Completion as JSON. Where the prompt would be too long for
    the model, the parts are reduced in groups, and their answers with the same template, until one prompt is left.

    Args:
        app: The Celery app to send through.
        template: Jinja2, over the texts that came before (`parts`), the errors' types of what failed (`failed`, a list
            of `{"type": ...}`; only in the last prompt), and how many there were in all (`count`).
        takes: Another name for `parts`.
        on_error: See `complete`.
        context_tokens: How many tokens prompt and answer may have together; default: what LiteLLM knows of the model,
            and 8,192 where it does not know it.
        options: See `LLMClient.request`; what they do not say, the environment's settings do.

    Raises:
        PromptError: The template is none, or uses another name.
        InvalidRequest: The request cannot be right for any model.
    """
    settings = load_settings()
    request = request_of(settings, "?", options)
    limit = settings.max_prompt_bytes
    plan = plan_of(request, template=template, takes=takes, context_tokens=context_tokens, max_prompt_bytes=limit)
    return planned(app, plan, on_error)


def plan_of(request: CompletionRequest, **how: Any) -> ReducePlan:
    """The plan for this request, whose messages do not count. Takes ReducePlan's fields; raises as its check does."""
    try:
        fields = request.model_dump(mode="json", exclude_defaults=True, exclude={"messages"})
        plan = ReducePlan(request=fields, **how)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error)) from None
    plan.check()
    return plan


def planned(app: Celery, plan: ReducePlan, on_error: OnError = "raise") -> Signature[dict[str, object]]:
    """The message that asks a worker to go by this plan with what came before."""
    kwargs = {"plan": plan.model_dump(mode="json", exclude_defaults=True), **_if_collected(on_error)}
    return _signature(app, TaskName.REDUCE, plan.asks("?").priority, kwargs=kwargs)


def route(app: Celery, order: RouteOrder) -> Signature[dict[str, object]]:
    """The message that asks a worker to decide which agent a query is for, and to answer as that agent does.

    Its result is a Completion as JSON, with the `decision`. It is fixed: in a chain, what came before is not looked at.

    Args:
        app: The Celery app to send through.
        order: Of `AgentRouter.order`.
    """
    document = order.model_dump(mode="json", exclude_defaults=True)
    return _signature(app, TaskName.ROUTE, order.priority, ROUTING, args=[document], immutable=True)


def embed(app: Celery, request: CompletionRequest) -> Signature[dict[str, object]]:
    """The message that asks a worker for the vectors of a request's messages, by its model."""
    document = request.model_dump(mode="json", exclude_defaults=True)
    return _signature(app, TaskName.EMBED, request.priority, ROUTING, args=[document], immutable=True)


def map_item(app: Celery, name: MapName, token: str, priority: Priority) -> Signature[dict[str, object]]:
    """The message that asks a worker for one item of a map. Which one, its task's id says; its prompt is in the map."""
    return _signature(app, TaskName.MAP_ITEM, priority, args=[name.tenant, name.map_id, token])


def reduce_map(
    app: Celery, name: MapName, priority: Priority, plan: ReducePlan, *, labelled: bool = False
) -> Signature[dict[str, object]]:
    """The message that asks a worker for one completion of all that a map came to.

    `labelled`: each answer with its item's name above it.
    """
    kwargs = {"plan": plan.model_dump(mode="json", exclude_defaults=True), **({"labelled": True} if labelled else {})}
    return _signature(app, TaskName.REDUCE_MAP, priority, args=[name.tenant, name.map_id], kwargs=kwargs)


def load_file(app: Celery, name: MapName, token: str, priority: Priority) -> Signature[dict[str, object]]:
    """The message that asks a worker to load the file of an item of a map. What is asked of it is another message."""
    return _signature(app, TaskName.LOAD_FILE, priority, FILES, args=[name.tenant, name.map_id, token])


def answer_file(app: Celery, name: MapName, token: str, priority: Priority) -> Signature[dict[str, object]]:
    """The message that asks a worker for an answer about a file that was loaded."""
    return _signature(app, TaskName.ANSWER_FILE, priority, args=[name.tenant, name.map_id, token])


def _signature(
    app: Celery, task: str, priority: Priority, queue: str | None = None, **what: Any
) -> Signature[dict[str, object]]:
    """`queue`: default: the priority's. `what`: arguments, which neither events nor logs show, and other options."""
    how = {"queue": queue or queue_of(priority), "priority": int(priority)}
    return app.signature(task, **what, **how, argsrepr=REDACTED, kwargsrepr=REDACTED)


def _if_collected(on_error: OnError) -> dict[str, str]:
    if on_error not in ("raise", "collect"):
        raise InvalidRequest('on_error is "raise" or "collect"')
    return {"on_error": on_error} if on_error == "collect" else {}
