"""What a map and its items are called, in Redis and in messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kagura_tasks.errors import InvalidRequest

#: What a caller may choose as a map's id: it becomes part of keys and of its items' task ids.
_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class MapName:
    """A map's name: its tenant and its id. All that is known of it is on the broker's Redis, beside the queues."""

    tenant: str
    map_id: str

    def __post_init__(self) -> None:
        """Raises InvalidRequest where the id cannot be one."""
        if not _ID.fullmatch(self.map_id):
            raise InvalidRequest("a map's id has 1 to 64 letters, digits, _, . and -, and does not begin with a dot")

    @property
    def key(self) -> str:
        """The hash of what counts for the whole map; also the channel on which each end of an item is announced.

        Behind it, after a colon, are: `items` (hash: requests), `ids` (hash: the caller's names), `outcomes` (hash),
        `ended` (list: the items' numbers in order of completion), `failures` (hash: the numbers of those that failed,
        and their places there, from 1), `flying` (set: sent, and not ended), `ending` (set: those of them that flew
        when the map was cancelled), `again` (list: to be sent before all others), `reserved` (hash: USD set aside for
        calls) and `pace` (list: when the latest ones ended, Unix ms). Of a map over files also: `loaded` (set: the
        numbers of those whose file was loaded), `rows` (hash: what became of the file) and `left_out` (list: what was
        found and is no item).
        """
        return f"kagura:map:{self.tenant}:{self.map_id}"

    def task_id(self, index: int) -> str:
        """The id of the Celery task of an item."""
        return f"{self._tasks}.{index}"

    @property
    def reduce_id(self) -> str:
        """The id of the Celery task that reduces the map's answers to one."""
        return f"{self._tasks}.reduce"

    @property
    def _tasks(self) -> str:
        # Celery knows no tenants: the map of the same id of another one must not have the same tasks.
        return f"{self.tenant}:{self.map_id}"


def index_of(task_id: str) -> int:
    """The number of the item whose task this is. Raises ValueError for what is no item's task."""
    return int(task_id.rpartition(".")[2])
