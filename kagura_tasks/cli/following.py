"""What comes of a map, or of a run over files: each outcome, until the last one, Ctrl-C or a full disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from kagura_tasks.cli.interrupts import ctrl_c_waits
from kagura_tasks.cli.preflight import require_redis
from kagura_tasks.cli.progress import shown
from kagura_tasks.client import LLMClient
from kagura_tasks.errors import (
    BudgetExceeded,
    InvalidRequest,
    KaguraTasksError,
    MapExpired,
    OutputUnwritable,
    RedisUnreachable,
    ResultTimeout,
)
from kagura_tasks.groups import GroupHandle, Outcomes, Read
from kagura_tasks.settings import load_settings

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen

#: Seconds of silence after which a reader of a map is asked to look up: it may have been paused by somebody.
LOOK_UP_S: Final = 5.0

#: What is said before the command that goes on.
KEPT: Final = "what was answered is kept. To go on"

#: Seconds between two looks at calls that end soon.
_POLL_S: Final = 0.1


class MapPaused(KaguraTasksError):
    """Somebody else has paused the map."""


@dataclass(frozen=True)
class Following(Generic[Read]):
    """A map, what becomes of its outcomes, and what is said meanwhile.

    Attributes:
        group: The map.
        read: Opens its outcomes, from the first one on.
        write: What becomes of each. One that was not read to its end is read once more.
        resume: The command that goes on with it.
        anew: The command that begins it anew, where it is gone.
        ends_with_us: The map is this process's own: what is in flight is kept nowhere else.
        patience_s: Seconds of silence after which one is told of it.
        screen: Where that is told.
        kept: What is said before a command that goes on.
    """

    group: GroupHandle
    read: Callable[[], Outcomes[Read]]
    write: Callable[[Read], object]
    resume: str
    anew: str
    ends_with_us: bool
    patience_s: float
    screen: Screen
    kept: str = KEPT

    def run(self) -> None:
        """Write each outcome as it comes. Ctrl-C and a full disk pause the map; whatever ends it says how to go on."""
        try:
            with shown(self.group, self.screen):
                for outcome in self._outcomes():
                    self.write(outcome)
        except KeyboardInterrupt:
            self._pause()
            if self.ends_with_us:
                self._finish()
            raise
        except OutputUnwritable:
            self._pause()
            raise
        except MapExpired:
            self.tell_how_to_go_on(self.anew)
            raise
        except BudgetExceeded:
            self.tell_how_to_go_on(f"{self.resume} --budget USD")
            raise
        except KaguraTasksError:
            self.tell_how_to_go_on(self.resume)
            raise

    def _outcomes(self) -> Iterator[Read]:
        """All outcomes. Silence alone ends nothing: a batch may wait for its workers over night."""
        reading, heard_at = self.read(), time.monotonic()
        while True:
            try:
                for outcome in reading:
                    yield outcome
                    heard_at = time.monotonic()
                return
            except (ResultTimeout, RedisUnreachable) as silence:
                if time.monotonic() - heard_at > self.patience_s:
                    heard_at = time.monotonic()
                    self._tell(silence)
                self._raise_if_paused()

    def _tell(self, silence: ResultTimeout | RedisUnreachable) -> None:
        if isinstance(silence, RedisUnreachable):
            raise silence
        tell_of_silence(self.patience_s, self.screen)

    def _raise_if_paused(self) -> None:
        """Nothing more comes of a map that somebody else has paused, once what was in flight has ended."""
        with suppress(RedisUnreachable):
            progress = self.group.progress()
            if progress.state == "paused" and not progress.in_flight:
                raise MapPaused(f"map {self.group.id} was paused")

    def _pause(self) -> None:
        """Pay for nothing more that nobody waits for. What is in flight ends, and is kept."""
        with ctrl_c_waits():
            try:
                self.group.pause()
            except KaguraTasksError as error:
                self.screen.note(f"the map could not be paused ({type(error).__name__}): it may go on without us")
            self.tell_how_to_go_on(self.resume)

    def _finish(self) -> None:
        """Write what is in flight, once it has ended. Another Ctrl-C ends the wait."""
        with self.screen.waiting("Waiting for the calls in flight (Ctrl-C drops them)"):
            while self.group.progress().in_flight:
                time.sleep(_POLL_S)
            left, outcomes = self.group.progress().settled, iter(self.read())
            while left:
                outcome = next(outcomes)
                self.write(outcome)
                # What was left out of a run over files is no item of it, and has no place of its own.
                left -= outcome.cursor > 0

    def tell_how_to_go_on(self, command: str) -> None:
        """Say what is kept, and which command goes on with it."""
        self.screen.note(f"{self.kept}: {command}")


def open_client() -> LLMClient:
    """A client that looks up now and then while nothing comes, once Redis answers."""
    settings = load_settings()
    if settings.execution == "queue":
        require_redis(settings.broker, settings.results, settings.cache)
    return LLMClient(settings.override(wait_timeout_s=min(LOOK_UP_S, settings.wait_timeout_s)))


def tell_of_silence(patience_s: float, screen: Screen) -> None:
    """Nothing ended for so long: somebody may want to look why."""
    screen.note(f"no answer for {patience_s:g} s: is a worker running? `kagura-tasks doctor` tells")


def pause_if_started(client: LLMClient, map_id: str, tenant: str | None, resume: str, screen: Screen) -> None:
    """Ctrl-C may come when a map has just been started: it would go on, and nobody would know of it."""
    with ctrl_c_waits(), suppress(RedisUnreachable):
        try:
            group = client.group(map_id, tenant=tenant)
            _ = group.status()
            group.pause()
        except (MapExpired, InvalidRequest):  # it could not be paused: not all items were there
            screen.note("nothing was sent")
        else:
            screen.note(f"{KEPT}: {resume}")
