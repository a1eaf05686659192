"""Maps that workers work on: their items are in Redis, which sends the next one when one has ended."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from celery import Celery, states
from redis.exceptions import OutOfMemoryError, RedisError

from kagura_tasks import signatures, task_store
from kagura_tasks.connections import redis_errors
from kagura_tasks.errors import InvalidRequest, KaguraTasksError, MapExpired, RedisUnreachable, TaskCancelled
from kagura_tasks.groups import LLMGroupResult
from kagura_tasks.loops import outcome
from kagura_tasks.mapping import LeftOut, MapOrder, Planned
from kagura_tasks.maps.messages import ListedMessage, item_message, message_for
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.store import MapChanges, MapStore, MapTerms, StoredItem
from kagura_tasks.memory_loss import ids_of_all_tasks
from kagura_tasks.queued_answers import QueuedAnswer
from kagura_tasks.queued_files import uploaded
from kagura_tasks.recorded_maps import RecordedMap, ReducedAnswer
from kagura_tasks.results import LLMResult
from kagura_tasks.settings import Settings
from kagura_tasks.sources import WAITING
from kagura_tasks.streaming.log import StreamName

#: Items, and characters of their requests, that are added in one step.
_MOST_AT_ONCE: Final = 500
_MOST_CHARS: Final = 1_000_000


class QueueMaps:
    """Starts maps, and finds them again."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Take the settings, and the Celery app whose workers work on maps."""
        self._settings = settings
        self._app = app

    def start(self, order: MapOrder, items: Iterable[Planned]) -> LLMGroupResult:
        """See Maps."""
        name = MapName(order.tenant, order.map_id)
        store = MapStore(self._settings, name)
        with self._errors():
            if WAITING.run(store.begin()):
                changes = MapChanges(window=order.window, budget_usd=order.budget_usd)
                return self.resume(order.map_id, order.tenant, changes)
            try:
                if order.reduce is not None:
                    # That of an older map of this id would be taken for the new one's.
                    WAITING.run(task_store.forget(self._settings, name.reduce_id))
                total = _upload(store, uploaded(self._settings, order.tenant, items) if order.upload else items)
                if not WAITING.run(store.start(self._terms(store, order, total))):
                    raise _shut_out(store)
            except BaseException:
                with suppress(RedisError):
                    WAITING.run(store.drop())
                raise
        return self._handle(name)

    def group(self, map_id: str, tenant: str) -> LLMGroupResult:
        """See Maps."""
        return self._handle(MapName(tenant, map_id))

    def reduction(self, map_id: str, tenant: str) -> LLMResult:
        """See Maps."""
        name = MapName(tenant, map_id)
        reduced = QueuedAnswer(StreamName(tenant, name.reduce_id), self._settings, self._app)
        return LLMResult(name.reduce_id, ReducedAnswer(name.reduce_id, RecordedMap(self._settings, name), reduced))

    def resume(self, map_id: str, tenant: str, changes: MapChanges) -> LLMGroupResult:
        """See Maps."""
        name = MapName(tenant, map_id)
        with self._errors():
            state = WAITING.run(self._resume(MapStore(self._settings, name), changes))
        if not state:
            raise MapExpired(map_id)
        if state == "uploading":
            raise InvalidRequest(f"map {map_id} was never started, because its items were not all added: send it again")
        return self._handle(name)

    async def _resume(self, store: MapStore, changes: MapChanges) -> str:
        """Items whose messages are gone (a queue was purged, say) are sent again."""
        flying = await store.in_flight()
        is_reduced = await store.has_sent_reduction()
        if not is_reduced:
            await self._want_reduction(store.name)
        known = await ids_of_all_tasks(self._settings) if flying or is_reduced else frozenset[str]()
        lost = [index for index in flying if store.name.task_id(index) not in known]
        is_gone = is_reduced and store.name.reduce_id not in known and not await self._is_reduced(store.name)
        return await store.resume(changes, lost, reduction_lost=is_gone)

    async def _want_reduction(self, name: MapName) -> None:
        """Whoever cancelled the map has cancelled what was to become of it: that is wanted again."""
        if (await task_store.find(self._settings, name.reduce_id)).state == states.REVOKED:
            await task_store.forget(self._settings, name.reduce_id)

    async def _is_reduced(self, name: MapName) -> bool:
        return (await task_store.find(self._settings, name.reduce_id)).is_finished

    def _terms(self, store: MapStore, order: MapOrder, total: int) -> MapTerms:
        asked = (self._app, store.name, store.token, order.priority)
        item = signatures.load_file(*asked) if order.files else signatures.map_item(*asked)
        loaded = item_message(self._app, signatures.answer_file(*asked), store.token) if order.files else None
        return MapTerms(
            total=total,
            window=order.window or self._settings.map_max_in_flight,
            max_failed=order.max_failed(total),
            budget_usd=order.budget_usd,
            item=item_message(self._app, item, store.token),
            then=self._then(store.name, order),
            ttl_s=self._settings.map_ttl_s,
            about=order.about,
            loaded=loaded,
            work=order.files.to_json_text() if order.files else "",
        )

    def _then(self, name: MapName, order: MapOrder) -> ListedMessage | None:
        if order.reduce is None:
            return None
        is_labelled = order.files is not None
        signature = signatures.reduce_map(self._app, name, order.priority, order.reduce, labelled=is_labelled)
        return message_for(self._app, signature, name.reduce_id)

    def _handle(self, name: MapName) -> LLMGroupResult:
        return LLMGroupResult(name.map_id, RecordedMap(self._settings, name))

    @contextmanager
    def _errors(self) -> Generator[None]:
        with redis_errors(self._settings.broker):
            try:
                yield
            except OutOfMemoryError:
                raise RedisUnreachable(self._settings.broker.masked(), "its memory is full") from None


class _Portion(NamedTuple):
    """What is added in one step: items, and what was found beside them, as it is kept."""

    items: list[StoredItem]
    left_out: list[str]


def _upload(store: MapStore, planned: Iterable[Planned]) -> int:
    """Add all items; how many there are. The next ones are made while the last ones are on their way."""
    total = 0
    sending: Future[bool] | None = None
    for portion in _portions(planned):
        if sending is not None and not outcome(sending):
            raise _shut_out(store)
        sending = WAITING.submit(_add(store, total, portion))
        total += len(portion.items)
    if sending is not None and not outcome(sending):
        raise _shut_out(store)
    return total


async def _add(store: MapStore, first_index: int, portion: _Portion) -> bool:
    if portion.left_out and not await store.leave_out(portion.left_out):
        return False
    return not portion.items or await store.add(first_index, portion.items)


def _portions(planned: Iterable[Planned]) -> Iterator[_Portion]:
    portion = _Portion([], [])
    chars = before = 0
    for one in planned:
        if isinstance(one, LeftOut):
            portion.left_out.append(json.dumps({"before": before, "row": one.row.model_dump(exclude_defaults=True)}))
        else:
            item = StoredItem(one.request.to_json_text(), one.custom_id)
            portion.items.append(item)
            chars, before = chars + len(item.request), before + 1
        if len(portion.items) + len(portion.left_out) == _MOST_AT_ONCE or chars > _MOST_CHARS:
            yield portion
            portion, chars = _Portion([], []), 0
    if portion.items or portion.left_out:
        yield portion


def _shut_out(store: MapStore) -> KaguraTasksError:
    """Why no further item is taken."""
    map_id = store.name.map_id
    with suppress(MapExpired):
        fields, _, _ = WAITING.run(store.fields())
        if fields["state"] == "cancelled":
            return TaskCancelled(map_id)
    return InvalidRequest(f"map {map_id} was begun anew by somebody else while its items were added")
