"""The result backend's records: what Celery's own would write, in less time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from celery.app.task import Context
from celery.backends.redis import RedisBackend

from kagura_tasks import Settings
from kagura_tasks.app import create_app

PLAIN = Context({"id": "a-task", "task": "team.ask"})
OF_A_CHAIN = Context({"id": "a-task", "task": "team.ask", "group": "a-group", "parent_id": "its-parent"})


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("request_", [None, PLAIN, OF_A_CHAIN])
@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED", "RETRY", "STARTED"])
def test_a_record_says_what_celerys_own_says(
    settings: Settings, state: str, request_: Context | None, zone: str, extended: bool
):
    """Field by field; only the moment of its making is its own."""
    app: Any = create_app(settings)
    app.conf.update(result_extended=extended, timezone=zone)
    ours = app.backend._get_result_meta({"n": 1}, state, None, request_)
    stock = RedisBackend._get_result_meta(app.backend, {"n": 1}, state, None, request_)
    moments = [record.pop("date_done") for record in (ours, stock)]
    assert ours == stock
    if moments != [None, None]:
        first, second = map(datetime.fromisoformat, moments)
        assert abs((first - second).total_seconds()) < 5
        assert first.utcoffset() == second.utcoffset()
