"""A map whose steps a test takes by hand: it is the client, the queue and the workers in one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import redis
from celery.app.task import Context

from kagura_tasks import Settings
from kagura_tasks.app import create_app
from kagura_tasks.connections import sync_client
from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.errors import ProviderError, TaskCancelled
from kagura_tasks.maps.messages import ITEM, SENT, ListedMessage
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.store import MapChanges, MapStore, MapTerms, Page, StoredItem
from kagura_tasks.sources import WAITING
from kagura_tasks.worker.job import TakenAway
from kagura_tasks.worker.map_items import take
from kagura_tasks.worker.map_outcomes import MapOutcomes
from tests.support.samples import completion

#: The list that these maps send to.
LIST: Final = "llm.batch"

#: How a worker's work on an item may end, and what Celery tells the result backend then.
_ENDS: Final[dict[str, tuple[str, Any]]] = {
    "done": ("SUCCESS", completion().model_dump(mode="json")),
    "cached": ("SUCCESS", completion().as_cached().model_dump(mode="json")),
    "failed": ("FAILURE", ProviderError("no")),
    "cancelled": ("REVOKED", TaskCancelled("item")),
}


def terms(total: int, window: int = 1, max_failed: int = -1, then: ListedMessage | None = None) -> MapTerms:
    """How such a map is worked on. Its messages are all that a step looks at."""
    message = ListedMessage(LIST, json.dumps({"task_id": ITEM, "tag": f"{uuid4().hex}.{SENT}"}))
    return MapTerms(total, window, max_failed, None, message, then, 600, {})


@dataclass(frozen=True)
class Delivery:
    """A message that a worker was given."""

    task_id: str
    tag: str

    @property
    def index(self) -> int:
        """The number of its item."""
        return int(self.task_id.rpartition(".")[2])


class Steps:
    """One map."""

    def __init__(self, settings: Settings, map_id: str = "") -> None:
        """Name it. Nothing is in Redis yet."""
        self.settings = settings
        self.name = MapName(settings.tenant, map_id or uuid4().hex)
        self.redis: redis.Redis = sync_client(settings.broker, 2.0)
        self.store = MapStore(settings, self.name)
        self._outcomes = MapOutcomes(create_app(settings), settings)

    def start(self, total: int, *, window: int = 2, max_failed: int = -1, then: str = "") -> Steps:
        """Upload so many items, and send the first ones."""
        assert WAITING.run(self.store.begin()) == ""
        if total:
            items = [StoredItem(json.dumps({"number": number}), "") for number in range(total)]
            assert WAITING.run(self.store.add(0, items))
        after = ListedMessage(LIST, then) if then else None
        assert WAITING.run(self.store.start(terms(total, window, max_failed, after)))
        return self

    def deliver(self) -> Delivery | None:
        """The next message of the queue; None where there is none."""
        raw = self.redis.rpop(LIST)
        return None if raw is None else Delivery(**json.loads(raw))

    def deliver_all(self) -> list[Delivery]:
        """All that are in the queue."""
        return list(iter(self.deliver, None))

    def take(self, delivery: Delivery) -> Any:
        """The item's request, as the worker gets it; None where nobody wants it answered."""
        try:
            return WAITING.run(take(self.settings, self.name, self.store.token, delivery.task_id)).request
        except TakenAway:
            return None

    def settle(self, delivery: Delivery, how: str = "done") -> None:
        """The worker's work on the item ended: done, cached, failed or cancelled."""
        state, result = _ENDS[how]
        args = [self.name.tenant, self.name.map_id, self.store.token]
        request = Context({"args": args, "properties": {"delivery_tag": delivery.tag}})
        self._outcomes.store_result(delivery.task_id, result, state, request=request)

    def redeliver(self, delivery: Delivery) -> Delivery:
        """Its worker let the message go: another gets it, under another tag."""
        self.redis.set(taken_key(delivery.tag), 1, ex=60)
        return Delivery(delivery.task_id, uuid4().hex)

    def stop(self, state: Any) -> None:
        """Pause or cancel it."""
        WAITING.run(self.store.stop(state))

    def resume(self, *, retry_failed: bool = False, window: int | None = None, lost: tuple[int, ...] = ()) -> str:
        """Go on; the state then."""
        return WAITING.run(self.store.resume(MapChanges(retry_failed, window), lost))

    def page(self, cursor: int = 0) -> Page:
        """Outcomes in order of completion."""
        return WAITING.run(self.store.page(cursor))

    def ordered_page(self, first: int = 0) -> Page:
        """Outcomes in order of the items."""
        return WAITING.run(self.store.ordered_page(first))

    @property
    def flying(self) -> set[int]:
        """The items that were sent, and have not ended."""
        return WAITING.run(self.store.in_flight())

    @property
    def fields(self) -> dict[str, str]:
        """What counts for the whole map."""
        return {name.decode(): value.decode() for name, value in self.redis.hgetall(self.name.key).items()}

    def counts(self, *names: str) -> tuple[int, ...]:
        """These counters."""
        fields = self.fields
        return tuple(int(fields.get(name, 0)) for name in names)

    def ended(self) -> list[bytes]:
        """The items in order of completion; an entry is empty where its item was tried once more."""
        return self.redis.lrange(f"{self.name.key}:ended", 0, -1)

    def all_keys(self) -> list[bytes]:
        """All keys of the map that there are."""
        return sorted(self.redis.scan_iter(f"{self.name.key}*", count=1000))
