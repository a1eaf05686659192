"""`kagura-tasks files`."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

import typer

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


def files(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder; or one file.")],
    prompt: Annotated[
        str,
        typer.Option(
            metavar="P",
            help="What is asked about each file: Jinja2 over its `text`, `path`, `title` and `media_type`. Where it "
            "does not use the text, that follows it. @FILE reads it from there.",
        ),
    ],
    reduce: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="What is asked about all answers, once: Jinja2 over `parts`, `failed` and `count`. @FILE reads it "
            "from there.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Where a line of JSON for each file goes: what became of it, and its answer."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(show_default="KAGURA_TASKS_DEFAULT_MODEL", help="LiteLLM's name, for all calls.")
    ] = None,
    param: Param = None,
    pattern: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only files that this matches: '*.md', 'docs/**/*.pdf'.")
    ] = None,
    upload: Annotated[
        bool | None,
        typer.Option(
            show_default="where KAGURA_TASKS_FILE_ROOTS names no folders",
            help="Send the files' content to Redis, for workers that do not see this disk.",
        ),
    ] = None,
    max_in_flight: MaxInFlight = None,
    budget: Budget = None,
    on_error: OnFailure = "collect",
    tenant: Tenant = None,
    no_cache: NoCache = False,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            metavar="MANIFEST",
            help="Only the files that failed in the --out of an earlier run. All its other lines go to the new --out.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --out that is there.")] = False,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", show_default="a new one", help="The run's id; a run that exists is continued."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model the same about each file of a folder.

    Workers of the profiles `files` and `batch` (or `all`) load the files and ask. With --out the answers go to a file,
    with --reduce the answer over all of them is printed, and with neither each is printed as it comes.

    A file that cannot be read costs nothing to the others: it has its line, with the reason. Ctrl-C pauses, and the
    command that goes on is printed. The exit code is 0 when no file has failed, 3 when all have ended and some failed,
    and 1 when it ended early. What is skipped (by .gitignore, or because nothing reads its type) has not failed.
    """
    if retry_failed and pattern:
        raise typer.BadParameter("a manifest says which files: without --pattern", param_hint="--retry-failed")
    terms = {"upload": upload, "max_in_flight": max_in_flight, "on_error": on_error_of(on_error), "budget_usd": budget}
    calls = {**parameters(param), "model": model, "use_cache": not no_cache}

    from kagura_tasks.cli.files.asking import ask
    from kagura_tasks.cli.files.wish import Wish
    from kagura_tasks.cli.following import open_client
    from kagura_tasks.cli.inputs import checked, text_of
    from kagura_tasks.cli.screen import Screen

    wish = Wish(
        folder=checked(folder),
        typed=(prompt, reduce),
        prompt=text_of(prompt),
        reduce=None if reduce is None else text_of(reduce),
        output=out,
        pattern=pattern,
        manifest=retry_failed,
        overwrite=overwrite,
        run_id=run_id or str(uuid4()),
        tenant=tenant,
        options={**terms, **calls},
    )
    raise typer.Exit(ask(open_client(), wish, Screen(as_json)))
