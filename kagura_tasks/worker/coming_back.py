"""How a task waits without a slot: its message goes back to its queue, with the time at which it comes back."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, cast
from uuid import uuid4

from celery import Celery
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

from kagura_tasks import parking
from kagura_tasks.app import settings_of
from kagura_tasks.connections import CANNOT_WRITE_NOW, async_client, sync_client
from kagura_tasks.metrics import tallies
from kagura_tasks.settings import Settings, load_settings
from kagura_tasks.worker.deliveries import Deliveries, Message, script
from kagura_tasks.worker.holdings import Held
from kagura_tasks.worker.job import RetryLater
from kagura_tasks.worker.keepers import holder_of

_SEND_BACK: Final = script("send_back.lua")


def come_back(task: Any, args: tuple[object, ...], kwargs: dict[str, Any], later: RetryLater) -> Exception:
    """Send the task back with these arguments; what to raise then.

    After a failure that is Celery's retry. A task that only waits for its turn is no retry: it is neither counted nor
    told of as one, and its state stays as it was.
    """
    again = {**kwargs, **({"tries": vars(later.tries)} if later.tries else {})}
    if later.cause is not None:
        return task.retry(args=args, kwargs=again, exc=later.cause, countdown=later.wait_s)
    if tally := tallies.tally_of(task.request):
        tally.outcome, tally.is_counted = "retried", not tally.calls
    try:
        _send_back(task, args, again, later.wait_s)
    except (*CANNOT_WRITE_NOW, OperationalError):
        return Reject(requeue=True)
    # Its acknowledgement finds nothing: the message has another tag by now.
    return Ignore()


def _send_back(task: Any, args: tuple[object, ...], kwargs: dict[str, Any], wait_s: float) -> None:
    """One short step, for there may be thousands: Celery's own way takes several round trips, and an event."""
    tag = cast("dict[str, Any]", task.request.properties or {}).get("delivery_tag", "")
    held = holder_of(tag)
    if held is None or held[1].message["properties"].get("body_encoding") != "base64":
        # A child of a pool of processes does not have the message, and a stock worker has no record of it.
        options = {"countdown": wait_s, "retries": task.request.retries}
        task.signature_from_request(args=args, kwargs=kwargs, **options).apply_async()
        return
    deliveries, message = held
    back = _later(message.message, args, kwargs, wait_s, task.request)
    _push(task.app, deliveries, message, back)


def _later(message: Message, args: tuple[object, ...], kwargs: dict[str, Any], wait_s: float, context: Any) -> Message:
    """The message, as it is to come back."""
    names = {"callbacks": "callbacks", "errbacks": "errbacks", "chain": "chain", "chord": "chord"}
    embedded = {name: getattr(context, attribute, None) for name, attribute in names.items()}
    body = json.dumps([list(args), kwargs, embedded]).encode()
    due = datetime.now(UTC) + timedelta(seconds=wait_s)
    headers = {**message["headers"], "eta": due.isoformat()}
    properties = {**message["properties"], "delivery_tag": str(uuid4())}
    return {**message, "body": b64encode(body).decode(), "headers": headers, "properties": properties}


def _push(app: Celery, deliveries: Deliveries, held: Held, back: Message) -> None:
    keys, args = deliveries.send_back_command(held.lease, back)
    settings, wait = _settings(app), parking.awaiter()
    if wait is None:
        # Not the keeper's own client: hundreds of threads may ask at once, and there they would be refused.
        _ = _SEND_BACK.run(sync_client(settings.broker, settings.redis_timeout_s), keys, args)
    else:
        wait(_SEND_BACK.arun(async_client(settings.broker, settings.redis_timeout_s), keys, args))


@lru_cache(maxsize=8)
def _settings(app: Celery) -> Settings:
    return settings_of(app, load_settings())
