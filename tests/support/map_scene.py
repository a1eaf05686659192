"""Maps as a user starts them, with workers that all tests share and a provider that echoes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple
from uuid import uuid4

import redis

from kagura_tasks import LLMClient, Settings
from kagura_tasks.connections import sync_client
from kagura_tasks.groups import Answer, LLMGroupResult
from kagura_tasks.schemas import Completion
from tests.support.llm import StubServer
from tests.support.redis_keys import keys_without_ttl
from tests.support.wait import until
from tests.support.workers import Worker


class MapWorkers(NamedTuple):
    """A Redis, and who works on its maps."""

    redis_url: str
    stub: StubServer
    worker: Worker


class MapScene:
    """One test's tenant. The provider's answers are its prompts, unless a script says otherwise.

    A script's `when` finds the word in the whole request.
    """

    def __init__(self, workers: MapWorkers) -> None:
        """Begin with a provider that echoes, and no script."""
        self.stub = workers.stub
        self.worker = workers.worker
        self.settings = Settings(redis_url=workers.redis_url, tenant=f"test-{uuid4().hex[:8]}", wait_timeout_s=30)
        self.client = LLMClient(self.settings)
        self.redis: redis.Redis = sync_client(self.settings.broker, 2.0)
        self.stub.script(echoes=True)

    def prompts(self, count: int, **words: Iterable[int]) -> list[str]:
        """So many prompts, all different; a word stands in those whose numbers it is given."""
        of: dict[int, list[str]] = {}
        for word, numbers in words.items():
            for number in numbers:
                of.setdefault(number, []).append(word)
        return [" ".join(["item", str(number), *of.get(number, [])]) for number in range(count)]

    def calls(self) -> Counter[str]:
        """How often the provider was asked each prompt."""
        return Counter(one["body"]["messages"][-1]["content"] for one in self.stub.ledger()["requests"])

    def until_called(self, count: int) -> None:
        """Wait until the provider was asked so often."""
        until(lambda: self.stub.count() >= count, what=f"{count} calls")

    def until_nothing_flies(self, group: LLMGroupResult) -> None:
        """Wait until no item is in a queue or with a worker."""
        until(lambda: group.progress().in_flight == 0, what="nothing in flight")

    def queued(self) -> int:
        """Messages that wait in queues."""
        return sum(self.redis.llen(name) for name in self.redis.scan_iter("llm*", _type="list"))

    def keys(self) -> list[bytes]:
        """This tenant's maps in Redis."""
        return list(self.redis.scan_iter(f"kagura:map:{self.settings.tenant}:*", count=1000))

    def close(self) -> None:
        """Hold nothing back, leave nothing for ever, and nothing that another test would find in flight."""
        self.stub.reset()
        for name in self.keys():
            if name.count(b":") == 3:
                self.client.group(name.decode().rpartition(":")[2]).cancel()
        until(lambda: not self.redis.exists("unacked") and not self.queued(), what="workers with nothing to do")
        assert not keys_without_ttl(self.redis)


def texts(answers: Iterable[Answer]) -> list[str]:
    """The text of each completion, and the class of each error."""
    return [one.text if isinstance(one, Completion) else type(one).__name__ for one in answers]
