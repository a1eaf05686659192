"""Agents with tools and conversations in tests: a model that says its lines in order, and what it was told."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import sync_client
from tests.support.llm import StubServer
from tests.support.workers import WorkerOptions

#: The variable that lets a worker run the tools of the tests.
ALLOWED = {"KAGURA_TASKS_TOOL_MODULES": "tests.support.toolbox"}


def call(name: str, arguments: dict[str, Any] | str, call_id: str = "call_a") -> dict[str, Any]:
    """A call of a tool, in OpenAI's form."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}


class ToolScene:
    """One test: with a tenant of its own, and a word that no other test uses."""

    def __init__(self, settings: Settings, stub: StubServer) -> None:
        self.stub = stub
        self.word = uuid4().hex
        self.settings = settings.override(tenant=f"test-{self.word[:8]}")
        self.client = LLMClient(self.settings)

    def model_says(self, *rounds: str | list[dict[str, Any]], **how: Any) -> None:
        """The model's lines to prompts with the test's word, in order: a text, or calls of tools."""
        for line in reversed(rounds):
            says = {"text": line} if isinstance(line, str) else {"text": None, "calls": line}
            reason = "stop" if isinstance(line, str) else "tool_calls"
            self.stub.script(when=self.word, times=1, **{"finish_reason": reason, **says, **how})

    def bodies(self) -> list[dict[str, Any]]:
        """What the model was sent."""
        seen = [one["body"] for one in self.stub.ledger()["requests"]]
        return [body for body in seen if self.word in json.dumps(body)]

    def told(self) -> list[str]:
        """What the model was told of its calls of tools, in its last request."""
        return [turn["content"] for turn in self.bodies()[-1]["messages"] if turn["role"] == "tool"]

    def done(self, key: str = "") -> list[str]:
        """What tools have written down."""
        client: Any = sync_client(self.settings.results, 2.0)
        return [one.decode() for one in client.lrange(f"toolbox:{key or self.word}", 0, -1)]


def tool_worker(pool: str, **environment: str) -> WorkerOptions:
    """Options of a worker that runs the tests' tools."""
    return WorkerOptions(pool=pool, concurrency=32, environment={**ALLOWED, **environment})
