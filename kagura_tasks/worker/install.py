"""Everything that a Celery app needs to answer prompts, added in one call."""

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from celery.signals import celeryd_after_setup, celeryd_init, worker_init, worker_shutting_down
from kombu.transport import TRANSPORT_ALIASES

from kagura_tasks.app import settings_of
from kagura_tasks.errors import ConfigurationError
from kagura_tasks.settings import Settings, load_settings
from kagura_tasks.worker import tasks
from kagura_tasks.worker.coroutine_tasks import refuse_coroutines
from kagura_tasks.worker.counting import count_what_ends
from kagura_tasks.worker.heartbeat_file import keep_heartbeat_file
from kagura_tasks.worker.runtime import Runtime
from kagura_tasks.worker.shutdown import hand_back_after
from kagura_tasks.worker.start_checks import log_broker_problems

#: kombu's word for our transport, and where it is.
_ALIAS: Final = "kagura"
_TRANSPORT: Final = "kagura_tasks.worker.transport:Transport"

_CONSUMER: Final = "kagura_tasks.worker.consumer:Consumer"
_STOCK_CONSUMER: Final = "celery.worker.consumer:Consumer"

_SCHEMES: Final = ("redis://", "rediss://", "redis+socket://")


def install(
    app: Celery, settings: Settings | None = None, *, preload: bool = True, keep_deliveries: bool = True
) -> None:
    """Add the tasks of this package to a Celery app. None of the app's settings is touched.

    Workers of the app then answer prompts from the queues they are told to serve (`-Q llm,llm.batch`).

    Args:
        app: Any Celery app with a Redis broker and a Redis result backend.
        settings: Default: the environment's (`KAGURA_TASKS_...`).
        preload: Import LiteLLM when a worker starts, before it forks, instead of at its first call.
        keep_deliveries: Let the app's workers use our transport for all their tasks: what a worker holds is kept for
            as long as it lives, and goes to another within `KAGURA_TASKS_VISIBILITY_TIMEOUT_S` when it dies. False:
            kombu's own, where a task that outlives the visibility timeout runs, and costs, twice.
    """
    settings = settings_of(app, settings or load_settings())
    runtime = Runtime(settings)
    workers: dict[str, Any] = {}
    tasks.register(app, runtime)

    def preload_provider(sender: Any = None, **_: object) -> None:
        if preload and getattr(sender, "app", None) is app:
            _preload(runtime)

    def warn_of_the_broker(instance: Any = None, **_: object) -> None:
        if getattr(instance, "app", None) is app:
            log_broker_problems(settings)

    def look_for_coroutines(instance: Any = None, **_: object) -> None:
        if getattr(instance, "app", None) is app and not hasattr(instance.pool_cls, "awaits_coroutines"):
            refuse_coroutines(app)

    def bound_the_shutdown(sender: Any = None, **_: object) -> None:
        if sender in workers:
            hand_back_after(settings.shutdown_timeout_s, workers[sender], runtime)

    def choose_transport(instance: Any = None, conf: Any = None, **_: object) -> None:
        if getattr(instance, "app", None) is not app:
            return
        workers[instance.hostname] = instance
        if keep_deliveries:
            _use_transport(conf, settings)

    TRANSPORT_ALIASES.setdefault(_ALIAS, _TRANSPORT)
    # Not weak: nobody else keeps these functions alive.
    worker_init.connect(preload_provider, weak=False)
    celeryd_init.connect(choose_transport, weak=False)
    # Not before: what is logged earlier goes nowhere.
    celeryd_after_setup.connect(warn_of_the_broker, weak=False)
    celeryd_after_setup.connect(look_for_coroutines, weak=False)
    worker_shutting_down.connect(bound_the_shutdown, weak=False)
    count_what_ends(app, settings)
    keep_heartbeat_file(app, settings.heartbeat_file)


def _preload(runtime: Runtime) -> None:
    """Celery would log what a signal's receiver raises, and go on."""
    try:
        runtime.preload()
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None


def _use_transport(conf: Any, settings: Settings) -> None:
    """Let this worker process use our transport, where its broker is a Redis."""
    if not str(conf.broker_url).startswith(_SCHEMES):
        return
    conf.broker_transport = _ALIAS
    # A socket's address names its transport, and kombu believes it before the setting.
    conf.broker_url = conf.broker_url.replace("redis+socket://", f"{_ALIAS}+socket://")
    conf.broker_transport_options = {**_terms(settings), **(conf.broker_transport_options or {})}
    if conf.worker_consumer == _STOCK_CONSUMER:
        conf.worker_consumer = _CONSUMER


def _terms(settings: Settings) -> dict[str, float]:
    terms = {
        "visibility_timeout": settings.visibility_timeout_s,
        "lease_renewal_s": settings.lease_renewal_s,
        "longest_hold_s": settings.longest_hold_s,
        "max_deaths": settings.max_deaths,
    }
    return {name: value for name, value in terms.items() if value is not None}
