"""Files of maps' items: loaded by one task, and asked about by another."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NoReturn

from pydantic import ValidationError

from kagura_tasks.errors import TaskFailed
from kagura_tasks.files.asking import FileWork, look
from kagura_tasks.files.documents import FileRef
from kagura_tasks.files.loading import FileLoader, limits_of
from kagura_tasks.files.parse_cache import RedisParseCache
from kagura_tasks.files.pool import ParserPool
from kagura_tasks.files.uploads import Uploads
from kagura_tasks.maps.names import MapName
from kagura_tasks.maps.store import MapStore
from kagura_tasks.schemas import problems_of
from kagura_tasks.settings import Settings
from kagura_tasks.worker.job import Delivery, HandedOn
from kagura_tasks.worker.map_items import hand_on, patiently, take

#: Maps whose work is remembered: that of one never changes.
_MOST_WORKS: Final = 64


class FileItems:
    """Loads the files of items in this process's parsers. For the event loop of the answers."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings. Starts no parser yet."""
        self._settings = settings
        self._pool = ParserPool(settings.file_parsers, limits_of(settings))
        self._works: OrderedDict[str, FileWork] = OrderedDict()

    async def hand_on(self, name: MapName, token: str, delivery: Delivery) -> NoReturn:
        """Load the item's file, and send the message that asks about it.

        Raises:
            HandedOn: It was loaded.
            TakenAway: It need not be.
            FileError, InvalidRequest: Why it cannot be loaded, or not be asked about.
            HandedBack: Redis stays away, or full.
        """
        taken = await take(self._settings, name, token, delivery.task_id, loads=True)
        ref, work = _ref_in(taken.request), await self._work(name, token)
        looked = await patiently(lambda: look(self._loader(name.tenant), ref, work))
        await hand_on(self._settings, name, token, delivery, looked.row, looked.asked)
        raise looked.error or HandedOn

    async def _work(self, name: MapName, token: str) -> FileWork:
        work = self._works.get(token)
        if work is None:
            text = await patiently(MapStore(self._settings, name).work)
            work = self._works[token] = FileWork.model_validate_json(text)
            if len(self._works) > _MOST_WORKS:
                self._works.popitem(last=False)
        return work

    def _loader(self, tenant: str) -> FileLoader:
        cache, uploads = RedisParseCache(self._settings, tenant), Uploads(self._settings, tenant)
        return FileLoader(self._pool, cache, self._settings.allowed_file_roots, uploads)


def _ref_in(item: dict[str, object]) -> FileRef:
    try:
        return FileRef.model_validate(item)
    except ValidationError as error:
        raise TaskFailed("UnknownItem", problems_of(error)) from None
