"""The pages that are added to Flower. A browser asks, Redis is read, nothing is changed."""

# Flower has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import prometheus_client
from flower.views import BaseHandler
from tornado.web import authenticated

from kagura_tasks.cli.dashboard.charts import short
from kagura_tasks.cli.dashboard.view import COLUMNS, view_of
from kagura_tasks.connections import async_client, redis_errors
from kagura_tasks.errors import RedisUnreachable
from kagura_tasks.limits.store import LimitStore, Standing
from kagura_tasks.metrics.prometheus import DOWN, exposition
from kagura_tasks.metrics.snapshot import read_snapshot
from kagura_tasks.settings import Settings, load_settings

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class LlmPage(BaseHandler):
    """What the fleet asks of models. `?part=numbers`: only what changes."""

    @authenticated
    async def get(self) -> None:
        """Answer with the page; where Redis is away, with a page that says so."""
        view, problem = None, ""
        try:
            settings = load_settings()
            standings = await _standings(settings)
            view = view_of(await asyncio.to_thread(read_snapshot, settings), standings)
        except RedisUnreachable as error:
            problem = str(error)
        page = "llm_numbers.html" if self.get_argument("part") == "numbers" else "llm.html"
        self.set_header("Cache-Control", "no-store")
        self.render(page, view=view, problem=problem, columns=COLUMNS, short=short)


async def _standings(settings: Settings) -> list[Standing]:
    with redis_errors(settings.broker):
        return await LimitStore(async_client(settings.broker, settings.redis_timeout_s)).standings()


class Metrics(BaseHandler):
    """Flower's own metrics and ours. Ours name tenants: where there is a login, this page wants it, unlike Flower's."""

    @authenticated
    async def get(self) -> None:
        """Answer with both; where Redis is away, `kagura_up` says so."""
        cast(Any, self.application).purge_offline_worker_metrics()
        try:
            ours = exposition(await asyncio.to_thread(read_snapshot, load_settings()))
        except RedisUnreachable:
            ours = DOWN
        self.set_header("Content-Type", _TEXT)
        self.write(prometheus_client.generate_latest() + ours.encode())
