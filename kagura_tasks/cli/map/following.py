"""A map of the command line, followed to its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kagura_tasks.batch_files.answers import answer_row
from kagura_tasks.cli.following import Following
from kagura_tasks.cli.map.job import MapFiles, resume_command
from kagura_tasks.settings import load_settings

if TYPE_CHECKING:
    from kagura_tasks.batch_files.output import OutputFile
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.groups import LLMGroupResult, MapOutcome


def following_of(
    client: LLMClient, group: LLMGroupResult, files: MapFiles, output: OutputFile, tenant: str | None, screen: Screen
) -> Following[MapOutcome]:
    """The map as this client follows it. An inline map ends with its process: the file is what is left of it."""

    def write(outcome: MapOutcome) -> None:
        _ = output.write(outcome.custom_id, answer_row(outcome, group.id, files.form))

    ends_with_us = client.settings.execution == "inline"
    resume = files.anew() if ends_with_us else resume_command(group.id, tenant)
    patience_s = load_settings().wait_timeout_s
    return Following(group, group.stream, write, resume, files.anew(), ends_with_us, patience_s, screen)
