"""`kagura-tasks map`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final
from uuid import uuid4

import typer

from kagura_tasks.cli.map.default_command import DEFAULT, DefaultCommand, GroupWithDefault
from kagura_tasks.cli.options import (
    AsJson,
    Budget,
    MaxInFlight,
    NoCache,
    OnFailure,
    Param,
    Tenant,
    on_error_of,
    parameters,
)
from kagura_tasks.errors import InvalidRequest

if TYPE_CHECKING:
    from kagura_tasks.batch_files.output import Existing
    from kagura_tasks.client import LLMClient

map_app: Final = typer.Typer(cls=GroupWithDefault, help="Answer the prompts of a file.")

MapId = Annotated[str, typer.Argument(metavar="ID", help="The map's id.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try rows that failed again.")]

_OTHERS: Final = "See also: kagura-tasks map resume ID, map status ID, map pause ID, map cancel ID."


@map_app.command(DEFAULT, cls=DefaultCommand, hidden=True, epilog=_OTHERS)
def send_file(
    source: Annotated[str, typer.Argument(metavar="IN.jsonl", help="The rows; - reads them from standard input.")],
    output: Annotated[str, typer.Argument(metavar="OUT.jsonl", help="Where the answers go.")],
    template: Annotated[
        str | None,
        typer.Option(metavar="T", help="Jinja2 that makes a prompt of a row's fields; @FILE reads it from there."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(show_default="each row's, or KAGURA_TASKS_DEFAULT_MODEL", help="LiteLLM's name, for all rows."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message, for rows that have none.")
    ] = None,
    param: Param = None,
    max_in_flight: MaxInFlight = None,
    budget: Budget = None,
    on_error: OnFailure = "collect",
    tenant: Tenant = None,
    no_cache: NoCache = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with OUT: only rows that are not in it are sent.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: rows that failed are sent again, too.")
    ] = False,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave rows out that cannot be sent.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all rows and estimate their price. Nothing is sent.")
    ] = False,
    map_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", show_default="a new one", help="The map's id; a map that exists is continued."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send each row of a JSONL file to the workers, and write each answer to another file as it comes.

    A row is an object with `prompt` or `messages`, and perhaps `model`, `params` and `custom_id`; or a request of
    OpenAI's Batch API, whose answers are then written in that form, too; or, with --template, any object. All rows are
    checked before any of them is paid for.

    Ctrl-C pauses: what was answered is kept, and the command that goes on is printed. The exit code is 0 when all rows
    have an answer, 3 when all have ended and some failed, and 1 when it ended early.
    """
    existing = _existing(resume, overwrite, retry_failed)
    params = parameters(param)

    from kagura_tasks.cli.map.sending import Wish, send
    from kagura_tasks.cli.screen import Screen

    terms = {"max_in_flight": max_in_flight, "budget_usd": budget, "tenant": tenant}
    rows = {"model": model, "system": system, "params": params, "tenant": tenant, "use_cache": not no_cache}
    name = map_id or str(uuid4())
    wish = Wish(source, output, template, existing, skip_invalid, name, on_error_of(on_error), terms, rows)
    screen = Screen(as_json)
    if dry_run:
        from kagura_tasks.cli.map.dry_run import dry_run as estimate
        from kagura_tasks.settings import load_settings

        estimate(load_settings(), wish, screen)
        return
    raise typer.Exit(send(_client(), wish, screen))


@map_app.command("resume")
def resume_map(
    map_id: MapId,
    tenant: Tenant = None,
    retry_failed: RetryFailed = False,
    max_in_flight: MaxInFlight = None,
    budget: Budget = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a map that was paused, cancelled, stopped or left, and write what its output lacks.

    Only what is missing is paid for. Exit codes are those of `kagura-tasks map`.
    """
    from kagura_tasks.cli.map.resuming import resume
    from kagura_tasks.cli.screen import Screen

    changes = {"retry_failed": retry_failed, "max_in_flight": max_in_flight, "budget_usd": budget}
    raise typer.Exit(resume(_client(by_id=True), map_id, tenant, Screen(as_json), changes))


@map_app.command()
def status(map_id: MapId, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Print how far a map is."""
    from kagura_tasks.cli.progress import in_words
    from kagura_tasks.cli.screen import Screen

    group = _client(by_id=True).group(map_id, tenant=tenant)
    progress = group.progress()
    about = group.about()
    screen = Screen(as_json)
    screen.document({"id": map_id, **vars(progress), "eta_s": progress.eta_s, "about": about})
    screen.say(f"{progress.state}: {in_words(progress)}")
    if "output" in about:
        screen.say(f"{about.get('input', '')} -> {about['output']}")


@map_app.command()
def pause(map_id: MapId, tenant: Tenant = None) -> None:
    """Start no further row of a map. Those in flight end, and are kept."""
    _stop(map_id, tenant, "pause")


@map_app.command()
def cancel(map_id: MapId, tenant: Tenant = None) -> None:
    """Start no further row of a map, and end the calls that run. What was answered is kept."""
    _stop(map_id, tenant, "cancel")


def _stop(map_id: str, tenant: str | None, how: str) -> None:
    from kagura_tasks.cli.map.job import resume_command
    from kagura_tasks.cli.screen import Screen

    group = _client(by_id=True).group(map_id, tenant=tenant)
    _ = group.progress()  # raises where there is no such map
    group.pause() if how == "pause" else group.cancel()
    if group.progress().was_started:
        Screen().note(f"to go on: {resume_command(map_id, tenant)}")
    else:
        Screen().note("nothing was sent")


def _client(*, by_id: bool = False) -> LLMClient:
    from kagura_tasks.cli.following import open_client

    client = open_client()
    if by_id and client.settings.execution == "inline":
        raise InvalidRequest(
            "an inline map (KAGURA_TASKS_EXECUTION) ends with its process: map IN OUT --resume goes on"
        )
    return client


def _existing(resume: bool, overwrite: bool, retry_failed: bool) -> Existing:
    if resume and overwrite:
        raise typer.BadParameter("either --resume or --overwrite", param_hint="--overwrite")
    if retry_failed and not resume:
        raise typer.BadParameter("only with --resume", param_hint="--retry-failed")
    if overwrite:
        return "overwrite"
    return ("retry" if retry_failed else "resume") if resume else "refuse"
