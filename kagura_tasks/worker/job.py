"""A request on its way through a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from kagura_tasks.errors import TaskCancelled, TransientError
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.schemas import CompletionRequest
from kagura_tasks.worker.retries import Tries

#: Awaited before each call of the provider. What it raises ends the job.
BeforeCall = Callable[[], Awaitable[None]]


class RetryLater(Exception):
    """The next try comes after a wait that is too long to hold a worker's slot for."""

    def __init__(self, wait_s: float, tries: Tries | None, cause: TransientError | None) -> None:
        """Take the seconds to wait, what was tried so far, and why another try is needed; None: it is not its turn."""
        super().__init__(wait_s, tries, cause)
        self.wait_s = wait_s
        self.tries = tries
        self.cause = cause


class HandedBack(Exception):
    """The worker stops before the answer is there: the task goes to another."""


class TakenAway(Exception):
    """The task was given to another worker meanwhile: this one's answer is not wanted."""


class HandedOn(Exception):
    """The task's part is done, and another task goes on: this one has no result."""


class OverBudget(TaskCancelled):
    """There is no money for the call. Whoever shares it may have some: to them, it is as if this task was cancelled."""


@dataclass(frozen=True)
class Delivery:
    """A task's message, as this worker was given it. See Job for its fields."""

    task_id: str
    delivery_tag: str = ""
    attempt: int = 1
    tries: Tries | None = None
    may_leave: bool = True
    tally: Tally = field(default_factory=Tally)

    def job(self, request: CompletionRequest, looked_up: bool = False, is_streamed: bool = False) -> Job:
        """A job that is all that this task does."""
        self.tally.about(request)
        return Job(request, looked_up=looked_up, is_streamed=is_streamed, **vars(self))

    def part(self, request: CompletionRequest, name: str) -> Job:
        """One of several jobs of this task: with a flight of its own, and a name that it has again in a redelivery."""
        return replace(self.job(request), task_id=f"{self.task_id}.{name}", tries=None, may_leave=False)


@dataclass(frozen=True)
class Job:
    """A request on its way through a worker.

    Attributes:
        request: What is asked for.
        task_id: The task that asks; it keeps its flight through retries and redeliveries.
        delivery_tag: The message that brought it; whoever is given the task next gets it under another tag.
        attempt: How often the message was handed out and begun, this time included.
        looked_up: Somebody has looked into the cache, and counted the miss.
        is_streamed: The text is published while it is written.
        tries: What earlier deliveries tried; None on the first.
        may_leave: A long wait before the next try may be spent in the queue; False: it is sat out here.
        before_call: Awaited before each call of the provider. What it raises ends the job.
        tally: What the task does is noted there.
    """

    request: CompletionRequest
    task_id: str
    delivery_tag: str = ""
    attempt: int = 1
    looked_up: bool = False
    is_streamed: bool = False
    tries: Tries | None = None
    may_leave: bool = True
    before_call: BeforeCall | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def least_attempt(self) -> int:
        """The number of this delivery's first attempt, as far as one can tell from here: it may be a later one."""
        return (self.tries.attempts if self.tries else 0) + self.attempt
