"""The app of workers that tests kill: what `workers.main` loads, with tasks of a team's own, and quick to start.

Its provider talks plain HTTP to the scripted one, and streams over the direct lane: LiteLLM would cost each of dozens
of workers five seconds of CPU.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import aiohttp
from celery.signals import task_success

from kagura_tasks.app import create_app
from kagura_tasks.errors import ProviderUnavailable, RequestRefused
from kagura_tasks.providers.direct import DirectLane
from kagura_tasks.providers.plain import PARAMS, Route
from kagura_tasks.providers.prices import PriceList
from kagura_tasks.providers.provider import HandOver
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
from kagura_tasks.settings import load_settings
from kagura_tasks.worker import install, runtime

_CALLS = f"{os.environ['OPENAI_API_BASE']}/chat/completions"
_ROUTE = Route("openai", "gpt-4o-mini", _CALLS, {}, False, frozenset(PARAMS), frozenset(), tells_usage=True)


class PlainProvider:
    """Asks and reads the answer, no more. A prompt that says so kills the worker."""

    def __init__(self) -> None:
        """What is streamed goes over the direct lane, which asks nobody else about an answer."""
        self._direct = DirectLane(PriceList(lambda billed, used: None), self)

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """See kagura_tasks.providers.Provider."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                if "kills its worker" in str(request.messages[-1].content):
                    os.kill(os.getpid(), signal.SIGKILL)
                messages = [message.model_dump(mode="json", exclude_none=True) for message in request.messages]
                body = {"model": request.model, "messages": messages, **request.params}
                async with session.post(_CALLS, json=body) as response:
                    if response.status == 400:
                        raise RequestRefused("scripted", request.model, 400)
                    answer = await response.json()
        except aiohttp.ClientError as error:
            raise ProviderUnavailable(request.model) from error
        choice = answer["choices"][0]
        text, calls = choice["message"]["content"] or "", tuple(choice["message"].get("tool_calls", ()))
        return Completion(text=text, model=request.model, finish_reason=choice["finish_reason"], tool_calls=calls)

    async def stream(self, request: CompletionRequest, timeout_s: float, hand_over: HandOver) -> Completion:
        """Piece by piece."""
        return await self._direct.stream(request, _ROUTE, timeout_s, hand_over)

    async def count(self, request: CompletionRequest, text: str) -> Usage:
        """Words are near enough."""
        return Usage(completion_tokens=len(text.split()))

    def context_window(self, model: str) -> int | None:
        """Nobody knows this model."""
        return None

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """Words are near enough."""
        return [len(text.split()) for text in texts]

    def read(self, answer: dict[str, Any], route: Route, request: CompletionRequest) -> Completion:
        """The scripted provider gives no unusual answer."""
        raise ProviderUnavailable("an answer that the chaos app cannot read", request.model)


runtime.open_providers = lambda settings: PlainProvider()  # pyright: ignore[reportAttributeAccessIssue]
app = create_app(load_settings())
install(app, preload=False, keep_deliveries=not os.environ.get("CHAOS_STOCK"))


@app.task(name="team.ask")
def ask(prompt: str) -> str:
    """A task that knows nothing of ours, and asks the same provider, so that the ledger tells how often it ran."""
    body = json.dumps({"model": "team", "messages": [{"role": "user", "content": prompt}]}).encode()
    request = Request(_CALLS, body, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


@app.task(name="team.poison")
def poison(prompt: str) -> None:
    """Ends its process: all of a worker on threads, a child on prefork."""
    ask(prompt)
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("CHAOS_STOP_ONCE_STORED"):

    @task_success.connect(weak=False)
    def stop_once_stored(**_: Any) -> None:
        """Freeze in the moment between a result's storage and its message's acknowledgement."""
        os.kill(os.getpid(), signal.SIGSTOP)
