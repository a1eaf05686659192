"""The streams of a fleet's workers, in Redis."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from kagura_tasks.delivery_keys import taken_key
from kagura_tasks.settings import Settings
from kagura_tasks.streaming.events import Event
from kagura_tasks.streaming.log import StreamName
from kagura_tasks.streaming.publisher import publisher
from kagura_tasks.streaming.subscriber import Subscriber
from kagura_tasks.streaming.writer import StreamWriter
from kagura_tasks.worker.job import Job


class RedisStreams:
    """See telling.Streams."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings: where streams are, and their terms."""
        self._settings = settings

    def open(self, job: Job) -> StreamWriter:
        """See Streams. A task that was given to another worker has no say any more."""
        name = StreamName(job.request.tenant, job.task_id)
        mark = taken_key(job.delivery_tag or job.task_id)
        return publisher(self._settings).open(name, mark, job.least_attempt)

    def batches(self, name: StreamName, after: int = 0) -> AsyncGenerator[list[Event]]:
        """See Streams."""
        return Subscriber(self._settings, name, after, is_ours=True).batches()
