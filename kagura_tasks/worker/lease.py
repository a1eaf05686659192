"""Keeps what this process holds, and takes over what a dead one held.

A thread of its own, with a connection of its own: it goes on while the consumer reconnects, while all threads of the
pool are busy, and while the main loop is blocked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from celery.worker import state

from kagura_tasks.connections import REDIS_AWAY
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.forks import watch_forks
from kagura_tasks.worker.deliveries import Claimed, Deliveries, Message, Missing, deaths_of, headers_of, is_waiting
from kagura_tasks.worker.holdings import Held, Holdings

log = logging.getLogger(__name__)

#: Longest wait between two looks (s): for leases that ended, and for a Redis that was away.
_LONGEST_WAIT_S: Final = 1.0


@dataclass(frozen=True)
class Terms:
    """For how long messages are held.

    Attributes:
        visibility_timeout_s: A message whose worker died goes to another after this time.
        renewal_s: Time between two renewals.
        longest_hold_s: What runs longer than this is hung: it is renewed no more.
        max_deaths: A message that this many workers died of is tried no more.
    """

    visibility_timeout_s: float = 30.0
    renewal_s: float = 7.5
    longest_hold_s: float = 3600.0
    max_deaths: int = 3

    def __post_init__(self) -> None:
        """One late renewal must not cost a worker what it holds. Raises ConfigurationError."""
        if self.renewal_s * 3 > self.visibility_timeout_s:
            raise ConfigurationError(
                f"broker_transport_options: lease_renewal_s ({self.renewal_s:g}) must be at most a third of "
                f"visibility_timeout ({self.visibility_timeout_s:g})"
            )

    @property
    def look_s(self) -> float:
        """Time between two looks for leases that ended."""
        return min(_LONGEST_WAIT_S, self.visibility_timeout_s / 10)

    @property
    def gap_ms(self) -> int:
        """Where nobody looked for longer than this, living workers may have missed renewals."""
        return int(self.visibility_timeout_s * 500)

    @property
    def grace_ms(self) -> int:
        """After it, a worker that lives has renewed what it holds."""
        return int((self.renewal_s + _LONGEST_WAIT_S) * 1000)


#: Told of a message before it is buried, and of how many workers died of it.
Obituary = Callable[[Message, int], None]

#: Told of a delivery tag before its message is given to another worker.
Notice = Callable[[str], None]


class LeaseKeeper:
    """Renews, takes over, gives back. One for each process and broker."""

    def __init__(self, deliveries: Deliveries, terms: Terms) -> None:
        """Take the broker's deliveries, and for how long they are held. Starts no thread yet."""
        self.deliveries = deliveries
        self.terms = terms
        self.holdings = Holdings()
        self.obituary: Obituary | None = None
        self.before_taking: Notice | None = None
        self._renewed_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._telling = threading.Lock()
        self._is_needed: Callable[[], bool] = lambda: True
        watch_forks(self)

    def start(self, is_needed: Callable[[], bool]) -> None:
        """Start the thread, unless it runs. It ends when it is not needed any more, and nothing is held."""
        self._is_needed = is_needed
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="kagura-lease", daemon=True)
            self._thread.start()

    def take_over(self, claimed: Claimed, *, died: bool, front: bool = True) -> None:
        """Hand a message out once more, or bury it where too many workers died of it."""
        deaths = deaths_of(claimed.message) + 1
        if self.before_taking is not None:
            self.before_taking(claimed.lease.tag)
        if not died or deaths < self.terms.max_deaths:
            if self.deliveries.restore(claimed, died=died, front=front) and died:
                log.warning("task %s goes to another worker: its own died", _name_of(claimed.message))
            return
        if self.obituary is not None:
            self.obituary(claimed.message, deaths)
        if self.deliveries.bury(claimed, f"its worker died {deaths} times while it held it", deaths):
            log.error("task %s killed its worker %d times: it is a dead letter now", _name_of(claimed.message), deaths)

    def reject(self, tag: str, *, requeue: bool, reason: str = "it was rejected") -> bool:
        """Put a message that is not done back into its list, or among the dead letters; whether it was held."""
        died = self.holdings.is_blamed(tag)
        held = self.holdings.drop(tag)
        if held is None:
            return False
        claimed = Claimed(held.lease, held.message)
        if requeue:
            self.take_over(claimed, died=died, front=is_stopping())
        else:
            self.deliveries.bury(claimed, reason, deaths_of(held.message))
        return True

    def give_back(self, tags: list[str]) -> None:
        """Let others have these: at once, or as soon as the server can be reached."""
        self.holdings.give_back(tags)
        try:
            self._settle()
            self._return()
        except REDIS_AWAY:
            self._wake.set()

    def on_fork(self) -> None:
        """See Inherited: a forked child holds nothing, its parent does."""
        self.holdings = Holdings()
        self._telling = threading.Lock()
        self._thread = None

    def _run(self) -> None:
        was_away = False
        while self._is_needed() or len(self.holdings) or self.holdings.has_settled or self.holdings.returning():
            try:
                self._look()
                was_away = False
            except REDIS_AWAY as error:
                if not was_away:
                    log.warning("leases cannot be renewed: the broker is away (%s)", type(error).__name__)
                was_away = True
            except Exception:
                # Without this thread, everything that the process holds would run twice.
                log.exception("the lease keeper failed: it goes on")
            self._wake.wait(self.terms.look_s)
            self._wake.clear()

    def _look(self) -> None:
        self._return()
        if time.monotonic() - self._renewed_at >= self.terms.renewal_s:
            self._renew()
            self._renewed_at = time.monotonic()
        self._settle()
        for claimed in self.deliveries.expired(self.terms.gap_ms, self.terms.grace_ms):
            self.take_over(claimed, died=_was_started(claimed.message))

    def _renew(self) -> None:
        hung = _tags_running_since(time.time() - self.terms.longest_hold_s)
        held = [one for one in self.holdings.all() if one.lease.tag not in hung]
        by_lease = {one.lease: one for one in held}
        for missing in self.deliveries.renew(list(by_lease)):
            # What was settled since the look is rightly gone.
            if missing.lease.tag in self.holdings:
                self._face(missing, by_lease[missing.lease])

    def _face(self, missing: Missing, held: Held) -> None:
        """A lease is gone. Either another worker has the message, or the server lost its memory."""
        if not missing.taken:
            self.deliveries.adopt(held.lease, held.message)
            return
        self.holdings.drop(missing.lease.tag)
        self.deliveries.count("leases_lost")
        log.error("task %s was given to another worker: its result here will be refused", _name_of(held.message))

    def _settle(self) -> None:
        """Tell the server what is done. Usually the fetch does; this is for the time without a consumer.

        One thread at a time: a process that ends must not overtake its keeper, which took what it did not tell yet.
        """
        with self._telling:
            settled = self.holdings.take_settled()
            try:
                self.deliveries.settle(settled)
            except REDIS_AWAY:
                self.holdings.bring_back_settled(settled)
                raise

    def _return(self) -> None:
        leases = self.holdings.returning()
        found = {one.lease: one for one in self.deliveries.messages(leases)} if leases else {}
        # The first of them shall be the next to be taken, so it is put in front last.
        for lease in reversed(leases):
            if lease in found:
                self.deliveries.restore(found[lease], died=False, was_begun=self.holdings.is_begun(lease.tag))
            self.holdings.returned(lease)


def is_stopping() -> bool:
    """This worker was told to stop."""
    return _is_set(state.should_stop) or _is_set(state.should_terminate)


def tags_with_the_pool() -> set[str]:
    """The delivery tags of what the pool runs, or is about to run."""
    requests = {*_snapshot(state.reserved_requests), *_snapshot(state.active_requests)}
    return {one.message.delivery_tag for one in requests if not one.acknowledged and _is_with_the_pool(one)}


def was_sent(job: Any) -> bool:
    """A child of the pool has this job, or is being sent it. (Pools of threads keep all that they are given.)"""
    return getattr(job, "_accepted", True) or getattr(job, "_writer", None) is not None


def _is_with_the_pool(request: Any) -> bool:
    """It runs, or will. A pool of processes forgets what it has sent to no child when the connection is lost."""
    given = request._apply_result
    return request in state.active_requests or (given is not None and was_sent(given()))


def _tags_running_since(started_before: float) -> set[str]:
    """The delivery tags of what runs since then (Unix s), or longer."""
    running = _snapshot(state.active_requests)
    return {one.message.delivery_tag for one in running if one.time_start and one.time_start < started_before}


def _snapshot(requests: Any) -> list[Any]:
    """Celery's set of requests, which its main thread may be changing."""
    for _ in range(10):
        try:
            return list(requests)
        except RuntimeError:
            time.sleep(0)
    return []


def _is_set(flag: object) -> bool:
    """Celery's flags are None or False, or an exit code, which may be 0."""
    return flag is not None and flag is not False


def _was_started(message: Message) -> bool:
    """Its worker may have died of it: it waited neither for its time nor for its turn."""
    if is_waiting(message):
        return False
    eta = headers_of(message).get("eta")
    if not isinstance(eta, str):
        return True
    try:
        when = datetime.fromisoformat(eta)
    except ValueError:
        return True
    return (when if when.tzinfo else when.replace(tzinfo=UTC)) <= datetime.now(UTC)


def _name_of(message: Message) -> str:
    """The task, for a log: never its arguments."""
    headers = headers_of(message)
    return f"{headers.get('task', '(no name)')}[{headers.get('id', '(no id)')}]"
