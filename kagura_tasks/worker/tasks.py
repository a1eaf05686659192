"""The workers' doors: JSON in, JSON out. No thinking here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from pydantic import ValidationError

from kagura_tasks.app import REDACTED
from kagura_tasks.dead_letters import ATTEMPT_HEADER
from kagura_tasks.errors import InvalidRequest, KaguraTasksError, TaskCancelled
from kagura_tasks.queues import TaskName
from kagura_tasks.schemas import CompletionRequest, problems_of
from kagura_tasks.worker.job import HandedBack, Job, RetryLater, TakenAway
from kagura_tasks.worker.retries import Tries
from kagura_tasks.worker.runtime import Runtime

Payload = dict[str, Any]


class PrivateTask(Task[..., Payload]):
    """A task whose arguments and results appear in no event, no log and not in Flower."""

    #: It waits through `parking`: on the asyncio pool it needs no thread.
    runs_on_loop = True

    #: Celery shows this many characters of a result: none.
    resultrepr_maxsize: int = 0

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Celery's own; a retry comes through here too, and would show the arguments otherwise."""
        return super().apply_async(*args, **{"argsrepr": REDACTED, "kwargsrepr": REDACTED, **options})


def register(app: Celery, runtime: Runtime) -> None:
    """Add the tasks to the app. What they need of Celery's settings they bring along, so the app's own may differ."""

    @app.task(
        name=TaskName.COMPLETE,
        bind=True,
        base=PrivateTask,
        serializer="json",
        acks_late=True,
        reject_on_worker_lost=True,
        max_retries=None,
        throws=(KaguraTasksError,),
    )
    def complete(
        task: Task[..., Payload],
        payload: Payload,
        looked_up: bool = False,
        stream: bool = False,
        tries: Payload | None = None,
    ) -> Payload:
        """One completion. A transient failure with a long wait goes to Celery's retry."""
        job = replace(_job(task.request, payload, tries), looked_up=looked_up, is_streamed=stream)
        try:
            return runtime.run(job).model_dump(mode="json")
        except TaskCancelled:
            task.send_event("task-revoked", terminated=False, signum=None, expired=False)
            raise Ignore from None
        except TakenAway:
            raise Ignore from None
        except HandedBack:
            raise Reject(requeue=True) from None
        except RetryLater as later:
            again = {"looked_up": True, "tries": vars(later.tries), **({"stream": True} if stream else {})}
            raise task.retry(args=(payload,), kwargs=again, exc=later.cause, countdown=later.wait_s) from None

    del complete


def _job(context: Any, payload: Payload, tries: Payload | None) -> Job:
    properties = cast("dict[str, object]", context.properties or {})
    return Job(
        request=_request(payload),
        task_id=str(context.id),
        delivery_tag=str(properties.get("delivery_tag", "")),
        attempt=int(getattr(context, ATTEMPT_HEADER, None) or 1),
        tries=Tries(**tries) if tries else None,
    )


def _request(payload: Payload) -> CompletionRequest:
    try:
        return CompletionRequest.model_validate(payload)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error)) from None
