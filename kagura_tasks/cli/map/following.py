"""From a map to its file: each outcome as it comes, until the last one, Ctrl-C or a full disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kagura_tasks.batch_files.answers import answer_row
from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.cli.interrupts import ctrl_c_waits
from kagura_tasks.cli.map.job import MapFiles, resume_command
from kagura_tasks.cli.map.progress import shown
from kagura_tasks.errors import KaguraTasksError, MapExpired, OutputUnwritable, RedisUnreachable, ResultTimeout
from kagura_tasks.settings import load_settings

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.groups import LLMGroupResult, MapOutcome

#: Seconds of silence after which a reader of a map is asked to look up: it may have been paused by somebody.
LOOK_UP_S: Final = 5.0


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
        patience_s: Seconds of silence after which one is told of it.
        screen: Where that is told.
    """

    group: LLMGroupResult
    files: MapFiles
    output: OutputFile
    resume: str
    patience_s: float
    screen: Screen

    def run(self) -> None:
        """Write each outcome as it comes. Ctrl-C and a full disk pause the map; whatever ends it says how to go on."""
        try:
            with shown(self.group, self.screen):
                for outcome in self._outcomes():
                    self.output.write(outcome.custom_id, answer_row(outcome, self.group.id, self.files.form))
        except (OutputUnwritable, KeyboardInterrupt):
            self._pause()
            raise
        except KaguraTasksError as error:
            self._tell_how_to_go_on(self.files.anew() if isinstance(error, MapExpired) else self.resume)
            raise

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

    def _tell_how_to_go_on(self, command: str) -> None:
        self.screen.note(f"what was answered is kept. To go on: {command}")


def following_of(
    client: LLMClient, group: LLMGroupResult, files: MapFiles, output: OutputFile, tenant: str | None, screen: Screen
) -> Following:
    """The map as this client follows it. An inline map ends with its process: the file is what is left of it."""
    is_inline = client.settings.execution == "inline"
    resume = files.anew() if is_inline else resume_command(group.id, tenant)
    return Following(group, files, output, resume, load_settings().wait_timeout_s, screen)
