"""How a task waits without a slot: its message goes back to its queue, with the time at which it comes back."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

from kagura_tasks.metrics import tallies
from kagura_tasks.worker.job import RetryLater


def come_back(task: Any, args: tuple[object, ...], kwargs: dict[str, Any], later: RetryLater) -> Exception:
    """Send the task back with these arguments; what to raise then.

    After a failure that is Celery's retry. A task that only waits for its turn is no retry: it is neither counted nor
    told of as one, and its state stays as it was.
    """
    if later.cause is None and (tally := tallies.tally_of(task.request)):
        tally.outcome, tally.is_counted = "retried", not tally.calls
    tries = {"tries": vars(later.tries)} if later.tries else {}
    again = {**kwargs, **tries}
    if later.cause is not None:
        return task.retry(args=args, kwargs=again, exc=later.cause, countdown=later.wait_s)
    options = {"countdown": later.wait_s, "retries": task.request.retries}
    try:
        task.signature_from_request(args=args, kwargs=again, **options).apply_async()
    except OperationalError:
        return Reject(requeue=True)
    return Ignore()
