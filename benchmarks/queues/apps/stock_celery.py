"""Celery as it comes: kombu's own Redis transport, Celery's own result backend."""

import os

from celery import Celery

from benchmarks.queues.bodies import Bodies

app = Celery("noop", broker=os.environ["BENCHMARKS_CELERY_URL"], backend=os.environ["BENCHMARKS_CELERY_URL"])
bodies = Bodies.of_this_worker()


@app.task(name="noop")
def noop() -> None:
    bodies.note()
