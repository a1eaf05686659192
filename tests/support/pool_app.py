"""Tasks of a team's own, for the asyncio pool: what each saw is its result, or a list in Redis."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from typing import Any

import redis
from celery import Task, current_task, signals
from celery.exceptions import SoftTimeLimitExceeded

from kagura_tasks.schemas import CompletionRequest
from tests.support.chaos_app import PlainProvider, app

app.conf.worker_soft_shutdown_timeout = float(os.environ.get("POOL_SOFT_SHUTDOWN_S", "0"))
_redis = redis.Redis.from_url(os.environ["KAGURA_TASKS_REDIS_URL"])
_provider = PlainProvider()
_here: contextvars.ContextVar[str] = contextvars.ContextVar("_here", default="nobody")


def note(where: str, what: object) -> None:
    """Leave word for the test, which reads it with `notes`."""
    with _redis.pipeline() as pipe:
        pipe.rpush(where, str(what))
        pipe.expire(where, 300)
        pipe.execute()


# Who am I?


@app.task(bind=True)
async def who(self: Any, pause_s: float = 0.05) -> list[str]:
    """This task by everybody's account, before a pause and after it."""
    _here.set(self.request.id)
    before = [current_task.request.id, self.request.id, _here.get()]
    await asyncio.sleep(pause_s)
    return [*before, current_task.request.id, self.request.id, _here.get()]


@app.task(bind=True)
def who_plain(self: Any, pause_s: float = 0.05) -> list[str]:
    """The same in a plain function, which blocks."""
    _here.set(self.request.id)
    before = [current_task.request.id, self.request.id, _here.get()]
    time.sleep(pause_s)
    return [*before, current_task.request.id, self.request.id, _here.get()]


# Retries.


@app.task(bind=True)
async def retried(self: Any, times: int) -> int:
    """Retries so often."""
    await asyncio.sleep(0)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True)
def retried_plain(self: Any, times: int) -> int:
    """The same in a plain function."""
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0, max_retries=2)
async def retried_by_celery(self: Any, fails: int) -> int:
    """Fails so often."""
    await asyncio.sleep(0)
    if self.request.retries < fails:
        raise ConnectionError(f"try {self.request.retries}")
    return self.request.retries


# Canvas.


@app.task
async def add(one: int, two: int) -> int:
    """A coroutine."""
    await asyncio.sleep(0.01)
    return one + two


@app.task
def add_plain(one: int, two: int) -> int:
    """A plain function."""
    return one + two


@app.task
async def total(numbers: list[int]) -> int:
    """The body of a chord."""
    await asyncio.sleep(0)
    return sum(numbers)


@app.task
async def tell(what: Any, where: str) -> None:
    """A link."""
    note(where, what)


@app.task
async def tell_of_error(request: Any, error: Any, traceback: Any, where: str) -> None:
    """An errback."""
    note(where, f"{request.id} {error!r}")


@app.task
async def fail(message: str = "on purpose") -> None:
    """Fails."""
    await asyncio.sleep(0)
    raise ValueError(message)


@app.task
async def calls_others() -> list[int]:
    """Calls tasks as functions."""
    return [await add(1, 2), add_plain(3, 4), await asyncio.to_thread(add_plain, 5, 6)]


# Signals and hooks.


class Hooked(Task[..., Any]):
    """A class of a team's own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(f"hooks {self.request.id}", "call")
        return super().__call__(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"hooks {task_id}", f"before_start {self.request.id == task_id}")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"hooks {task_id}", f"on_success {retval} {self.request.id == task_id}")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"hooks {task_id}", f"on_failure {type(exc).__name__}")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"hooks {task_id}", f"after_return {status}")


@app.task(base=Hooked, bind=True)
async def hooked(self: Any) -> bool:
    """A coroutine of such a class."""
    await asyncio.sleep(0.01)
    return current_task.request.id == self.request.id


@app.task(base=Hooked, time_limit=0.3)
async def hooked_and_late() -> None:
    """Its hard limit comes first."""
    await asyncio.sleep(30)


def _listen(name: str, signal: Any) -> None:
    def heard(sender: Any = None, **_: Any) -> None:
        if sender.name.endswith(("add", "fail")):
            note(f"signals {current_task.request.id}", name)

    signal.connect(heard, weak=False)


for name in ("task_prerun", "task_success", "task_failure", "task_postrun"):
    _listen(name, getattr(signals, name))


@app.task(ignore_result=True)
async def without_result(where: str) -> str:
    """Nobody wants its result."""
    note(where, "ran")
    return "not stored"


# What asyncio brings along.


@app.task
async def in_parallel() -> list[Any]:
    """asyncio's own means: gather, TaskGroup, timeout, wait_for, to_thread."""
    gathered = await asyncio.gather(*(add(number, 1) for number in range(3)))
    async with asyncio.TaskGroup() as group:
        grouped = [group.create_task(asyncio.sleep(0.01, number)) for number in range(3)]
    try:
        async with asyncio.timeout(0.02):
            await asyncio.sleep(30)
    except TimeoutError:
        gathered.append(-1)
    try:
        await asyncio.wait_for(asyncio.sleep(30), 0.02)
    except TimeoutError:
        gathered.append(-2)
    return [*gathered, *(one.result() for one in grouped), await asyncio.to_thread(lambda: _here.get())]


@app.task
async def cancels_itself() -> None:
    """A mistake of its own."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


@app.task
async def runs_a_loop() -> None:
    """A mistake that everybody makes once."""
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


@app.task
async def exits() -> None:
    """Some libraries do."""
    raise SystemExit(3)


@app.task
async def exhausts() -> None:
    """Asks for more memory than there is."""
    raise MemoryError("on purpose")


@app.task
async def blocks(seconds: float) -> None:
    """What must not be done."""
    time.sleep(seconds)  # noqa: ASYNC251


# Time.


@app.task
async def ask(prompt: str) -> str:
    """The scripted provider, over HTTP."""
    request = CompletionRequest.model_validate({"model": "team", "messages": [{"role": "user", "content": prompt}]})
    return (await _provider.complete(request, 60.0)).text


@app.task
async def ask_in_time(prompt: str) -> str:
    """The same, in what lets go of it when it is cancelled, and then only."""
    return await asyncio.wait_for(ask(prompt), 60)


@app.task
async def ask_with_care(prompt: str) -> str:
    """The same, with a clean-up."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(prompt))
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
        return "cleaned up"
    return "answered"


@app.task
async def swallows(seconds: float) -> str:
    """Will not be cancelled."""
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left_s)
        except asyncio.CancelledError:
            note("swallowed", "a cancellation")
    note("swallowed", "the end")
    return "late"


@app.task
async def sleep(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "slept"


_gate = asyncio.Event()
_at_gate: set[str] = set()


@app.task(bind=True)
async def waits_at_gate(self: Any) -> str:
    """With all others of its kind."""
    _at_gate.add(self.request.id)
    await _gate.wait()
    return "passed"


@app.task
async def opens_gate() -> int:
    """How many it lets go."""
    _gate.set()
    return len(_at_gate)


@app.task
def sleep_plain(seconds: float) -> str:
    """Takes its time, and a thread."""
    time.sleep(seconds)
    return "slept"


@app.task
def polls_plain(seconds: float, where: str) -> str:
    """Looks again and again, as a plain function does; leaves word of its end."""
    ends_at = time.monotonic() + seconds
    try:
        while time.monotonic() < ends_at:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    finally:
        note(where, "the end")
    return "nothing came"


@app.task(rate_limit="5/s")
async def rare() -> float:
    """When it ran."""
    return time.monotonic()
