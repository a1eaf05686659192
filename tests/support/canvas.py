"""Canvas for tests: signatures whose answers are scripted, on workers that have tasks of a team's own as well."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from celery import Celery
from celery.canvas import Signature

from kagura_tasks import Completion, LLMClient, Settings, signatures
from kagura_tasks.connections import sync_client
from kagura_tasks.schemas import Json
from kagura_tasks.settings import RedisUrl
from tests.support.llm import StubServer

#: Seconds after which a result is no longer waited for.
TIMEOUT_S: Final = 60

#: A template over all parts.
LIST: Final = "{{ parts | join('; ') }}"


class Canvas:
    """The signatures of one test: with a tenant of its own, and a word that no other test uses."""

    def __init__(self, app: Celery, url: RedisUrl, stub: StubServer) -> None:
        self.app = app
        self.stub = stub
        self.word = uuid4().hex
        self.tenant = f"test-{self.word[:8]}"
        self.client = LLMClient(Settings(redis_url=url, tenant=self.tenant), app=app)
        self.redis = sync_client(url, 2.0)

    def complete(self, text: str, **options: Any) -> Signature[Any]:
        """Answered with the text itself."""
        prompt = f"{text} {self.word}"
        self.stub.script(when=prompt, text=text)
        return signatures.complete(self.app, prompt, tenant=self.tenant, **options)

    def refused(self, text: str = "bad", status: int = 400, **options: Any) -> Signature[Any]:
        """Refused by the provider."""
        prompt = f"{text} {self.word}"
        self.stub.script(when=prompt, status=status)
        return signatures.complete(self.app, prompt, tenant=self.tenant, **options)

    def reduce(self, template: str = LIST, **options: Any) -> Signature[Any]:
        """Its prompt ends with the test's word."""
        return signatures.reduce(self.app, f"{template} {self.word}", tenant=self.tenant, **options)

    def team(self, name: str, *args: Any, **options: Any) -> Signature[Any]:
        """A task of the team's own."""
        return self.app.signature(f"tests.support.canvas_team.{name}", args=args, queue="llm", **options)

    def asked(self) -> list[str]:
        """The prompts that the provider was sent, without the word."""
        found = [one["body"]["messages"][-1]["content"] for one in self.stub.ledger()["requests"]]
        return [prompt.removesuffix(f" {self.word}") for prompt in found if self.word in prompt]


def texts(results: list[Json]) -> list[str]:
    """The texts of completions, as a canvas gives them."""
    return [Completion.model_validate(one).text for one in results]
