"""The kinds of workers, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kagura_tasks import queues
from kagura_tasks.worker.coroutine_tasks import POOL

#: What Celery's command line calls a pool that is not one of its own, and the variable that says which.
CUSTOM: Final = "custom"
ENVIRONMENT: Final = {"CELERY_CUSTOM_WORKER_POOL": POOL}


@dataclass(frozen=True)
class Profile:
    """A kind of worker.

    Attributes:
        queues: What it serves, the most urgent first.
        pool: By Celery's name; "custom" is our asyncio pool, where `ENVIRONMENT` is in the worker's environment.
        concurrency: Tasks at a time in one process; None is `KAGURA_TASKS_CONCURRENCY`.
        prefetch: Messages fetched ahead for each of them.
    """

    queues: tuple[str, ...]
    pool: str = CUSTOM
    concurrency: int | None = None
    prefetch: int = 1

    def celery_arguments(self, concurrency: int) -> list[str]:
        """The arguments of `celery worker` for this kind; `concurrency` where the profile has none."""
        return [
            f"--queues={','.join(self.queues)}",
            f"--pool={self.pool}",
            f"--concurrency={self.concurrency or concurrency}",
            f"--prefetch-multiplier={self.prefetch}",
        ]


PROFILES: Final[dict[str, Profile]] = {
    "interactive": Profile(queues=(queues.LLM, queues.ROUTING)),
    "batch": Profile(queues=(queues.LLM_BATCH,)),
    "routing": Profile(queues=(queues.ROUTING,)),
    # Each holds a document, of many megabytes perhaps, and few can be parsed at a time.
    "files": Profile(queues=(queues.FILES,), concurrency=32),
    "all": Profile(queues=(queues.LLM, queues.ROUTING, queues.LLM_BATCH, queues.FILES)),
}
