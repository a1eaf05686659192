"""`kagura-tasks files`: a folder's files to workers, and what becomes of them to a file, or the screen."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.cli.files.manifest import Lines, failed_file, lines_in
from kagura_tasks.cli.files.report import report
from kagura_tasks.cli.following import KEPT, Following, pause_if_started, tell_of_silence
from kagura_tasks.cli.processes import ends_like_ctrl_c
from kagura_tasks.errors import InvalidRequest, MapExpired, ResultTimeout
from kagura_tasks.files.documents import FileRef
from kagura_tasks.settings import load_settings

if TYPE_CHECKING:
    from kagura_tasks.cli.files.wish import Wish
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.file_results import FileOutcome, FilesResult
    from kagura_tasks.schemas import Completion


def ask(client: LLMClient, wish: Wish, screen: Screen) -> int:
    """Ask about the files, and tell what becomes of each. The exit code."""
    again = _failed_files(wish)
    if again == []:
        screen.note(f"no line of {wish.manifest} says that a file failed: nothing to do")
        return 0
    with (
        ends_like_ctrl_c(),
        _output(client, wish) as output,
        closing(Lines(output, screen, prints=wish.reduce is None)) as lines,
    ):
        result = _started(client, wish, again, screen)
        if output is not None:
            output.clear()
        if wish.manifest is not None:
            lines.keep(line for line in lines_in(wish.manifest) if failed_file(line, wish.folder) is None)
        following = _following(client, wish, result, lines, screen)
        following.run()
        return report(wish, result, lines, partial(_reduced, result, following), screen)


def _failed_files(wish: Wish) -> list[FileRef] | None:
    """The files that failed before; None where it is about all. Raises InvalidRequest."""
    if wish.manifest is None:
        return None
    if wish.output is not None and Path(wish.output).exists() and Path(wish.output).samefile(wish.manifest):
        raise InvalidRequest("--out cannot be the manifest that is read: choose another file")
    return [file for line in lines_in(wish.manifest) if (file := failed_file(line, wish.folder)) is not None]


@contextmanager
def _output(client: LLMClient, wish: Wish) -> Generator[OutputFile | None]:
    """Where the lines go. Raises InvalidRequest where it exists, unless it is this run's, or shall be replaced."""
    if wish.output is None:
        yield None
        return
    path = Path(wish.output)
    if path.is_file() and path.stat().st_size and not (wish.overwrite or _is_of(client, wish)):
        raise InvalidRequest(f"{path} exists: --overwrite replaces it")
    output = OutputFile(path, "overwrite")
    try:
        yield output
    finally:
        output.close()


def _is_of(client: LLMClient, wish: Wish) -> bool:
    """The output is that of a run of this id: all that is in it is in Redis, too."""
    about = _about(client, wish)
    return about is not None and about.get("output") == wish.about()["output"]


def _about(client: LLMClient, wish: Wish) -> dict[str, str] | None:
    """What is kept with the run of this id; None where there is none, or not all of it was sent."""
    try:
        run = client.files(wish.run_id, tenant=wish.tenant)
        return run.about() if run.progress().was_started else None
    except MapExpired:
        return None


def _started(client: LLMClient, wish: Wish, again: list[FileRef] | None, screen: Screen) -> FilesResult:
    """The run, once all files are sent. After Ctrl-C, nothing goes on."""
    about = wish.about()
    try:
        with screen.waiting(f"Reading {wish.folder}"):
            before = _about(client, wish)
            if before is not None and before.get("work") != about["work"]:
                raise InvalidRequest(f"run {wish.run_id} is about other files, or asks something else: choose an --id")
            result = client.process_files(
                again if again is not None else wish.folder,
                wish.prompt,
                reduce_prompt=wish.reduce,
                pattern=wish.pattern,
                id=wish.run_id,
                tenant=wish.tenant,
                about=about,
                **wish.options,
            )
    except KeyboardInterrupt:
        pause_if_started(client, wish.run_id, wish.tenant, wish.resume(), screen)
        raise
    screen.note(f"run {result.id}: {result.progress().total:,} files" if before is None else f"run {result.id} goes on")
    return result


def _following(
    client: LLMClient, wish: Wish, result: FilesResult, lines: Lines, screen: Screen
) -> Following[FileOutcome]:
    """The run as this client follows it. An inline run ends with its process, and cannot be continued."""
    ends_with_us = client.settings.execution == "inline"
    return Following(
        group=result,
        read=result.stream,
        write=lines.write,
        resume=wish.anew() if ends_with_us else wish.resume(),
        anew=wish.anew(),
        ends_with_us=ends_with_us,
        patience_s=load_settings().wait_timeout_s,
        screen=screen,
        kept="this process's run ends with it. To ask again" if ends_with_us else KEPT,
    )


def _reduced(result: FilesResult, following: Following[FileOutcome]) -> Completion:
    """The answer over all files. Silence alone ends nothing. Raises as its task did."""
    heard_at = time.monotonic()
    try:
        with following.screen.waiting("Waiting for the answer over all files", in_a_log=False):
            while True:
                try:
                    return result.reduced.get()
                except ResultTimeout:
                    if time.monotonic() - heard_at > following.patience_s:
                        heard_at = time.monotonic()
                        tell_of_silence(following.patience_s, following.screen)
    except KeyboardInterrupt:
        following.tell_how_to_go_on(following.resume)
        raise
