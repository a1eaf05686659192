"""All commands in one Typer app. Importing it must stay quick: completion in a shell does so at every Tab."""

from __future__ import annotations

from typing import Final

import typer

from kagura_tasks.cli.cache import cache
from kagura_tasks.cli.dead import dead
from kagura_tasks.cli.demo import demo
from kagura_tasks.cli.doctor import doctor
from kagura_tasks.cli.files import files
from kagura_tasks.cli.flower import flower
from kagura_tasks.cli.limits import limits
from kagura_tasks.cli.map import map_app
from kagura_tasks.cli.route import route
from kagura_tasks.cli.run import run
from kagura_tasks.cli.stats import stats
from kagura_tasks.cli.tail import tail
from kagura_tasks.cli.top import top
from kagura_tasks.cli.up import up
from kagura_tasks.cli.version import version
from kagura_tasks.cli.worker import worker

app: Final = typer.Typer(
    help="LLM work on Celery: queued calls through LiteLLM, answers remembered in Redis.",
    epilog="Settings are environment variables: KAGURA_TASKS_REDIS_URL, KAGURA_TASKS_DEFAULT_MODEL, ...",
    no_args_is_help=True,
    # A traceback with the values of variables would show prompts and keys.
    pretty_exceptions_enable=False,
)

app.command()(demo)
app.command()(up)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(worker)
app.command()(run)
app.command()(tail)
app.command()(route)
app.add_typer(map_app, name="map")
app.command()(files)
app.add_typer(cache, name="cache")
app.add_typer(dead, name="dead")
app.command()(top)
app.command()(stats)
app.command()(limits)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(flower)
app.command()(doctor)
app.command()(version)
