"""A stock Celery app with a task that does nothing: the price of a round trip."""

import os

from celery import Celery

NOOP = "plain.noop"

app = Celery("plain", broker=os.environ.get("BENCHMARKS_CELERY_URL"), backend=os.environ.get("BENCHMARKS_CELERY_URL"))


@app.task(name=NOOP)
def noop() -> None:
    return None
