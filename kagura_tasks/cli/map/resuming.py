"""`kagura-tasks map resume ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kagura_tasks.batch_files.output import OutputFile
from kagura_tasks.cli.following import pause_if_started
from kagura_tasks.cli.map.following import following_of
from kagura_tasks.cli.map.job import MapFiles, resume_command
from kagura_tasks.cli.map.report import report
from kagura_tasks.cli.processes import ends_like_ctrl_c
from kagura_tasks.errors import MapExpired

if TYPE_CHECKING:
    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.client import LLMClient
    from kagura_tasks.groups import LLMGroupResult


def resume(client: LLMClient, map_id: str, tenant: str | None, screen: Screen, changes: dict[str, Any]) -> int:
    """Go on with a map, and write what its output lacks. The exit code.

    `changes` are those of LLMClient.resume_map.
    """
    files = _files(client, map_id, tenant, screen)
    with ends_like_ctrl_c():
        output = OutputFile(files.output, "retry" if changes["retry_failed"] else "resume")
        try:
            files.check_form(output)
            group = _resumed(client, map_id, tenant, screen, changes)
            following = following_of(client, group, files, output, tenant, screen)
            following.run()
        finally:
            output.close()
    return report(following, None, output, screen)


def _resumed(
    client: LLMClient, map_id: str, tenant: str | None, screen: Screen, changes: dict[str, Any]
) -> LLMGroupResult:
    try:
        return client.resume_map(map_id, tenant=tenant, **changes)
    except KeyboardInterrupt:
        pause_if_started(client, map_id, tenant, resume_command(map_id, tenant), screen)
        raise


def _files(client: LLMClient, map_id: str, tenant: str | None, screen: Screen) -> MapFiles:
    try:
        return MapFiles.found_in(client.group(map_id, tenant=tenant).about(), map_id)
    except MapExpired:
        screen.note("to send what its output lacks: kagura-tasks map IN.jsonl OUT.jsonl --resume, and the same options")
        raise
