"""`kagura-tasks map IN OUT`: rows to a map, and its answers to a file."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from kagura_tasks.batch_files.output import Existing, OutputFile
from kagura_tasks.batch_files.reader import RowReader
from kagura_tasks.batch_files.rows import RowOptions
from kagura_tasks.cli.map.following import Following, following_of, pause_if_started
from kagura_tasks.cli.map.job import STDIN, MapFiles, absolute
from kagura_tasks.cli.map.report import report, tell_invalid
from kagura_tasks.cli.processes import ends_like_ctrl_c
from kagura_tasks.errors import InvalidRequest
from kagura_tasks.prompts import PromptTemplate

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
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
        map_id: The map's id; None: a new one.
        terms: How the map is worked on; see LLMClient.map.
        row_options: What counts for all rows; see RowOptions.
    """

    source: str
    output: str
    template: str | None
    existing: Existing
    skip_invalid: bool
    map_id: str | None
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


def _start(client: LLMClient, wish: Wish, rows: RowReader, output: OutputFile, screen: Screen) -> Following | None:
    """See `_started`. Where Ctrl-C comes first, nothing that was started goes on."""
    map_id = wish.map_id or str(uuid4())
    try:
        return _started(client, replace(wish, map_id=map_id), rows, output, screen)
    except KeyboardInterrupt:
        pause_if_started(client, map_id, wish.tenant, screen)
        raise


def _started(client: LLMClient, wish: Wish, rows: RowReader, output: OutputFile, screen: Screen) -> Following | None:
    """The map, once all rows are sent; None where there is nothing to send."""
    with screen.waiting(f"Reading {wish.source}"):
        has_rows = rows.begin()
        files = MapFiles(absolute(wish.source), output.path, rows.format or output.format or "rows")
        files.check_form(output)
        group = client.map(rows, id=wish.map_id, about=files.about(), **wish.terms) if has_rows else None
    if wish.existing == "overwrite":
        output.clear()
    if group is None:
        return None
    screen.note(f"map {group.id}: {rows.given:,} rows sent")
    return following_of(client, group, files, output, wish.tenant, screen)


@contextmanager
def opened(source: str) -> Generator[BinaryIO]:
    """The rows' file. Raises InvalidRequest where it cannot be read."""
    if source == STDIN:
        yield sys.stdin.buffer
        return
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"cannot read {source}: {error.strerror}") from None


def text_of(template: str) -> str:
    """The template itself, or what is in the file behind an @. Raises InvalidRequest."""
    if not template.startswith("@"):
        return template
    with opened(template[1:]) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{template[1:]} is not UTF-8") from None
