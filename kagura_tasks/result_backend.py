"""Celery's Redis result backend, without the subscription for each task that is sent."""

from __future__ import annotations

from celery.backends.redis import RedisBackend


class ResultBackend(RedisBackend):
    """Celery's own, but a result is subscribed to when somebody waits for it, not when the task is sent.

    `AsyncResult.get` subscribes and then looks whether the result is there already, so nothing is missed; a caller
    that never waits, or waits through `LLMResult`, pays no round trip for it.
    """

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Do nothing: Celery's own would send a SUBSCRIBE."""
