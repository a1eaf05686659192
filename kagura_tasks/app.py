"""The Celery application, as both sides configure it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from celery import Celery

from kagura_tasks.connections import celery_url
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.queues import LLM, PRIORITY_STEPS, all_queues
from kagura_tasks.settings import RedisUrl, Settings

#: What events, Flower and logs show in place of a task's arguments.
REDACTED: Final = "<redacted>"

_RESULT_BACKEND: Final = "kagura_tasks.result_backend:ResultBackend"


def create_app(settings: Settings, socket_timeout_s: float = 15.0) -> Celery:
    """A Celery app on these settings' Redis, with no task registered: `worker.install` adds them.

    JSON only; tasks are acknowledged after their answer is stored; events are on, for Flower.

    Args:
        settings: Where Redis is, and how long things last.
        socket_timeout_s: Seconds after which an answer of Redis is no longer waited for. A worker is patient: it
            gives its messages back when it believes the broker lost. A caller wants to know soon.
    """
    app = Celery("kagura_tasks", set_as_current=False)
    # No visibility timeout: `install` sets it for workers that renew what they hold. For all others, kombu's own hour.
    transport_options: dict[str, object] = {
        "priority_steps": PRIORITY_STEPS,
        "queue_order_strategy": "priority",
        "socket_connect_timeout": settings.redis_timeout_s,
        # Without it, a server that hangs would hold whoever sends for ever.
        "socket_timeout": socket_timeout_s,
        "health_check_interval": 25,
        "client_name": "kagura-tasks",
    }
    if _is_network(settings.broker):
        transport_options["socket_keepalive"] = True
    app.conf.update(
        broker_url=celery_url(settings.broker),
        broker_transport_options=transport_options,
        broker_connection_timeout=settings.redis_timeout_s,
        broker_connection_retry_on_startup=True,
        result_backend=_result_backend_url(settings.results),
        result_backend_always_retry=True,
        result_backend_max_retries=60,
        result_expires=settings.result_ttl_s,
        redis_socket_connect_timeout=settings.redis_timeout_s,
        redis_socket_timeout=socket_timeout_s,
        redis_socket_keepalive=_is_network(settings.results),
        redis_backend_health_check_interval=25,
        redis_client_name="kagura-tasks",
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_queues=all_queues(),
        task_default_queue=LLM,
        task_default_priority=3,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # A caller learns within seconds that the broker is away; what it could not send, it still holds.
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_step": 0, "interval_max": 0.1},
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=settings.concurrency,
        worker_hijack_root_logger=False,
        enable_utc=True,
    )
    return app


def settings_of(app: Celery, settings: Settings) -> Settings:
    """The settings, with the addresses at which a Celery app of a team's own keeps its messages and results.

    Raises ConfigurationError where the app has a prefix for its keys.
    """
    _refuse_prefixes(app)
    urls = {"broker_url": app.conf.broker_url, "result_url": app.conf.result_backend}
    found = {name: _plain_url(str(url)) for name, url in urls.items() if url}
    return settings.override(**{name: url for name, url in found.items() if url})


def result_url(app: Celery) -> str:
    """Where the app keeps results, as we spell it; "" where that is no Redis that a URL describes."""
    return _plain_url(str(app.conf.result_backend)) or ""


def _refuse_prefixes(app: Celery) -> None:
    """A message that was taken from a dead worker, and a result, would be looked up where none is."""
    for name in ("broker_transport_options", "result_backend_transport_options"):
        if dict(app.conf.get(name) or {}).get("global_keyprefix"):
            raise ConfigurationError(
                f"{name} of the Celery app has a global_keyprefix, which is not supported: take it out, and keep apps "
                "apart by the number of their Redis database (redis://host:6379/1)"
            )


def _plain_url(url: str) -> str | None:
    """The address as we spell it; None where it is no Redis that a URL describes (a sentinel, another broker)."""
    url = url.removeprefix(f"{_RESULT_BACKEND}+").removeprefix("redis+")
    if url.startswith("socket://"):
        path, _, query = url.removeprefix("socket://").partition("?")
        database = parse_qs(query).get("virtual_host", ["0"])[0]
        return f"unix://{path}?db={database}"
    return url if url.startswith(("redis://", "rediss://")) else None


def _is_network(url: RedisUrl) -> bool:
    """A socket of this machine knows no keepalive, and redis-py refuses to be asked for it."""
    return not url.startswith("unix:")


def _result_backend_url(url: RedisUrl) -> str:
    return f"{_RESULT_BACKEND}+{celery_url(url).removeprefix('redis+')}"
