"""A bound on how long a worker takes to stop."""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery.worker import state

from kagura_tasks.worker.runtime import Runtime

log = logging.getLogger(__name__)


def hand_back_after(timeout_s: float, worker: Any, runtime: Runtime) -> None:
    """Let calls that still run after so many seconds end, and other workers make them.

    Celery's own warm shutdown waits for the longest task, and on threads its soft shutdown does as well.

    Args:
        timeout_s: Seconds that running calls have.
        worker: Celery's WorkController, which is stopping.
        runtime: What runs the calls of this process. (A prefork child has one of its own.)
    """
    timer = threading.Timer(timeout_s, _hand_back, (worker, runtime))
    timer.daemon = True
    timer.start()


def _hand_back(worker: Any, runtime: Runtime) -> None:
    ended = runtime.hand_back() + _hand_back_jobs(worker.pool) + _terminate_children(worker)
    if ended:
        log.warning("%d running tasks go to other workers: this one stops", ended)


def _hand_back_jobs(pool: Any) -> int:
    """Only our own pool can: on Celery's threads, nobody can end what is not ours."""
    return pool.hand_back() if hasattr(pool, "hand_back") else 0


def _terminate_children(worker: Any) -> int:
    """End what a pool of processes runs; its messages were not acknowledged, and go back when the channel closes."""
    if type(worker.pool).__module__ != "celery.concurrency.prefork":
        return 0
    running = [request for request in list(state.active_requests) if not request.acknowledged]
    worker.consumer.cancel_active_requests()
    return len(running)
