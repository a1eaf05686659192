"""`kagura-tasks map resume ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.cli.map.following import following_of
from kagura_tasks.cli.map.job import MapFiles
from kagura_tasks.cli.map.report import report
from kagura_tasks.cli.processes import ends_like_ctrl_c
from kagura_tasks.errors import MapExpired

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient


def resume(
    client: LLMClient, map_id: str, tenant: str | None, screen: Screen, *, retry_failed: bool, window: int | None
) -> int:
    """Go on with a map, and write what its output lacks. The exit code."""
    files = _files(client, map_id, tenant, screen)
    with ends_like_ctrl_c():
        output = OutputFile(files.output, "retry" if retry_failed else "resume")
        try:
            files.check_form(output)
            group = client.resume_map(map_id, tenant=tenant, retry_failed=retry_failed, max_in_flight=window)
            following = following_of(client, group, files, output, tenant, screen)
            following.run()
        finally:
            output.close()
    return report(following, None, output, screen)


def _files(client: LLMClient, map_id: str, tenant: str | None, screen: Screen) -> MapFiles:
    try:
        return MapFiles.found_in(client.group(map_id, tenant=tenant).about(), map_id)
    except MapExpired:
        screen.note("to send what its output lacks: kagura-tasks map IN.jsonl OUT.jsonl --resume, and the same options")
        raise
