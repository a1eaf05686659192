"""When to try again: a decision about numbers. Clocks and dice are arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kagura_tasks.errors import TransientError
from kagura_tasks.settings import Settings


@dataclass(frozen=True)
class Tries:
    """What was tried for a task so far, over all its deliveries.

    Attributes:
        attempts: Provider calls that were started.
        started_at: When the first one was (Unix s).
    """

    attempts: int
    started_at: float


class Tried:
    """Counts what is tried now, on top of what was tried before."""

    def __init__(self, before: Tries | None) -> None:
        """Take what earlier deliveries tried; None: nothing."""
        self.so_far = before

    def begin(self, now: float) -> int:
        """A provider call is started now (Unix s): the how manieth, from 1."""
        before = self.so_far or Tries(attempts=0, started_at=now)
        self.so_far = replace(before, attempts=before.attempts + 1)
        return self.so_far.attempts


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter; never sooner than the provider asks, never after the deadline.

    Attributes:
        max_retries: Further tries after the first.
        base_s: Longest wait before the first further try; it doubles with each one.
        cap_s: Longest wait that the provider did not ask for.
        deadline_s: Seconds after the first try beyond which no try is started.
    """

    max_retries: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    deadline_s: float = 300.0

    @classmethod
    def from_settings(cls, settings: Settings) -> RetryPolicy:
        """The policy that the settings describe."""
        return cls(settings.max_retries, settings.retry_base_s, settings.retry_cap_s, settings.retry_deadline_s)

    def wait_s(self, tries: Tries, error: TransientError, now: float, jitter: float) -> float | None:
        """Seconds to wait before the next try, or None where there is none; `jitter` is from 0 to 1, `now` Unix s."""
        if tries.attempts > self.max_retries:
            return None
        ceiling_s = min(self.cap_s, self.base_s * 2 ** min(tries.attempts - 1, 32))
        wait_s = max(jitter * ceiling_s, error.retry_after_s)
        return wait_s if now + wait_s <= tries.started_at + self.deadline_s else None
