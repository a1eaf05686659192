"""From a map to its file: each outcome as it comes, until the last one, Ctrl-C or a full disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from kagura_tasks.batch_files.answers import answer_row
from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.cli.interrupts import ctrl_c_waits
from kagura_tasks.cli.map.job import MapFiles, resume_command
from kagura_tasks.cli.map.progress import shown
from kagura_tasks.errors import (
    BudgetExceeded,
    InvalidRequest,
    KaguraTasksError,
    MapExpired,
    OutputUnwritable,
    RedisUnreachable,
    ResultTimeout,
)
from kagura_tasks.settings import load_settings

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.groups import LLMGroupResult, MapOutcome

#: Seconds of silence after which a reader of a map is asked to look up: it may have been paused by somebody.
LOOK_UP_S: Final = 5.0

_KEPT: Final = "what was answered is kept. To go on"

#: Seconds between two looks at calls that end soon.
_POLL_S: Final = 0.1


class MapPaused(KaguraTasksError):
    """Somebody else has paused the map."""


@dataclass(frozen=True)
class Following:
    """A map, the file that its answers go to, and what is said meanwhile.

    Attributes:
        group: The map.
        files: Its files.
        output: The one that its answers go to, opened.
        resume: The command that goes on with it.
        ends_with_us: The map is this process's own: what is in flight is kept nowhere else.
        patience_s: Seconds of silence after which one is told of it.
        screen: Where that is told.
    """

    group: LLMGroupResult
    files: MapFiles
    output: OutputFile
    resume: str
    ends_with_us: bool
    patience_s: float
    screen: Screen

    def run(self) -> None:
        """Write each outcome as it comes. Ctrl-C and a full disk pause the map; whatever ends it says how to go on."""
        try:
            with shown(self.group, self.screen):
                for outcome in self._outcomes():
                    self._write(outcome)
        except KeyboardInterrupt:
            self._pause()
            if self.ends_with_us:
                self._finish()
            raise
        except OutputUnwritable:
            self._pause()
            raise
        except MapExpired:
            self._tell_how_to_go_on(self.files.anew())
            raise
        except BudgetExceeded:
            self._tell_how_to_go_on(f"{self.resume} --budget USD")
            raise
        except KaguraTasksError:
            self._tell_how_to_go_on(self.resume)
            raise

    def _write(self, outcome: MapOutcome) -> None:
        _ = self.output.write(outcome.custom_id, answer_row(outcome, self.group.id, self.files.form))

    def _outcomes(self) -> Iterator[MapOutcome]:
        """All outcomes. Silence alone ends nothing: a batch may wait for its workers over night."""
        reading, heard_at = self.group.stream(), time.monotonic()
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
        self.screen.note(f"no answer for {self.patience_s:g} s: is a worker running? `kagura-tasks doctor` tells")

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
            self._tell_how_to_go_on(self.resume)

    def _finish(self) -> None:
        """Write what is in flight, once it has ended. Another Ctrl-C ends the wait."""
        with self.screen.waiting("Waiting for the calls in flight (Ctrl-C drops them)"):
            while self.group.progress().in_flight:
                time.sleep(_POLL_S)
            for outcome in islice(self.group.stream(), self.group.progress().settled):
                self._write(outcome)

    def _tell_how_to_go_on(self, command: str) -> None:
        self.screen.note(f"{_KEPT}: {command}")


def pause_if_started(client: LLMClient, map_id: str, tenant: str | None, screen: Screen) -> None:
    """Ctrl-C may come when a map has just been started: it would go on, and nobody would know of it."""
    with ctrl_c_waits(), suppress(RedisUnreachable):
        try:
            group = client.group(map_id, tenant=tenant)
            _ = group.status()
            group.pause()
        except (MapExpired, InvalidRequest):  # it could not be paused: not all rows were there
            screen.note("no row was sent")
        else:
            screen.note(f"{_KEPT}: {resume_command(map_id, tenant)}")


def following_of(
    client: LLMClient, group: LLMGroupResult, files: MapFiles, output: OutputFile, tenant: str | None, screen: Screen
) -> Following:
    """The map as this client follows it. An inline map ends with its process: the file is what is left of it."""
    ends_with_us = client.settings.execution == "inline"
    resume = files.anew() if ends_with_us else resume_command(group.id, tenant)
    return Following(group, files, output, resume, ends_with_us, load_settings().wait_timeout_s, screen)
