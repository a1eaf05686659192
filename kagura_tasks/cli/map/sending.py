"""`kagura-tasks map IN OUT`: rows to a map, and its answers to a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kagura_tasks.batch_files.output import Existing, OutputFile
from kagura_tasks.batch_files.reader import RowReader
from kagura_tasks.batch_files.rows import RowOptions
from kagura_tasks.cli.following import Following, pause_if_started
from kagura_tasks.cli.inputs import STDIN, opened, text_of
from kagura_tasks.cli.map.following import following_of
from kagura_tasks.cli.map.job import MapFiles, absolute, resume_command
from kagura_tasks.cli.map.report import report, tell_invalid
from kagura_tasks.cli.processes import ends_like_ctrl_c
from kagura_tasks.errors import InvalidRequest, MapExpired
from kagura_tasks.prompts import PromptTemplate

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.groups import LLMGroupResult, MapOutcome
    from kagura_tasks.mapping import OnError
    from kagura_tasks.settings import Settings


@dataclass(frozen=True)
class Wish:
    """What was typed.

    Attributes:
        source: The rows' file, or "-".
        output: The answers' file.
        template: Jinja2, or @ and a file with it.
        existing: What to do with an output that exists.
        skip_invalid: Go on without rows that cannot be sent.
        map_id: The map's id.
        on_error: What a failed row does; see LLMClient.map.
        terms: How the map is worked on; see LLMClient.map, and resume_map.
        row_options: What counts for all rows; see RowOptions.
    """

    source: str
    output: str
    template: str | None
    existing: Existing
    skip_invalid: bool
    map_id: str
    on_error: OnError
    terms: dict[str, Any] = field(default_factory=dict[str, Any])
    row_options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def tenant(self) -> str | None:
        """Whose data it is, where that was typed."""
        return self.row_options.get("tenant")

    def options(self, settings: Settings) -> RowOptions:
        """What counts for all rows. Raises InvalidRequest where the template is wrong."""
        template = None if self.template is None else PromptTemplate.parse(text_of(self.template), None, "--template")
        return RowOptions(settings, template, **self.row_options)

    def check_files(self) -> None:
        """Raises InvalidRequest where the answers would go over the rows."""
        if self.source != STDIN and Path(self.output).exists() and Path(self.output).samefile(self.source):
            raise InvalidRequest("the rows and the answers cannot be in the same file")


def send(client: LLMClient, wish: Wish, screen: Screen) -> int:
    """Send the rows, and write the answers. The exit code."""
    options = wish.options(client.settings)
    with opened(wish.source) as file, ends_like_ctrl_c():
        wish.check_files()
        output = OutputFile(Path(absolute(wish.output)), wish.existing)
        try:
            reader_of = partial(RowReader, file, wish.source, options, skip_invalid=wish.skip_invalid)
            rows = reader_of(is_answered=output.__contains__)
            following = _start(client, wish, rows, output, screen)
            if following is not None:
                following.run()
        finally:
            output.close()
    tell_invalid(rows, screen)
    return report(following, rows, output, screen)


def _start(
    client: LLMClient, wish: Wish, rows: RowReader, output: OutputFile, screen: Screen
) -> Following[MapOutcome] | None:
    """The map, once all rows are sent; None where there is nothing to send. After Ctrl-C, nothing goes on."""
    try:
        with screen.waiting(f"Reading {wish.source}"):
            has_rows = rows.begin()
            files = MapFiles(absolute(wish.source), output.path, rows.format or output.format or "rows")
            files.check_form(output)
            group = _group(client, wish, files, rows) if has_rows else None
        if wish.existing == "overwrite":
            output.clear()
    except KeyboardInterrupt:
        pause_if_started(client, wish.map_id, wish.tenant, resume_command(wish.map_id, wish.tenant), screen)
        raise
    if group is None:
        return None
    screen.note(f"map {group.id}: {rows.given:,} rows sent" if rows.is_read else f"map {group.id} goes on")
    return following_of(client, group, files, output, wish.tenant, screen)


def _group(client: LLMClient, wish: Wish, files: MapFiles, rows: RowReader) -> LLMGroupResult:
    """A new map of all rows; or the one of this name, which has them."""
    if not _exists(client, wish, files):
        return client.map(rows, id=wish.map_id, about=files.about(), on_error=wish.on_error, **wish.terms)
    return client.resume_map(wish.map_id, retry_failed=wish.existing == "retry", **wish.terms)


def _exists(client: LLMClient, wish: Wish, files: MapFiles) -> bool:
    """There is a map of this name. Raises InvalidRequest where it is about other files."""
    try:
        group = client.group(wish.map_id, tenant=wish.tenant)
        if not group.progress().was_started:
            return False
        about = group.about()
    except MapExpired:
        return False
    if about != files.about():
        raise InvalidRequest(f"map {wish.map_id} is about other files: choose another --id, or `map resume` it")
    return True
