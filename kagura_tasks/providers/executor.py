"""Where LiteLLM builds its requests: on the event loop, for providers whose requests need no network to be built."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Providers whose requests are built without network access. (Others fetch tokens or tokenizers while they build.)
_BUILT_OFFLINE: Final = ("openai/", "hosted_vllm/", "gpt-")


class RequestsInline(ThreadPoolExecutor):
    """An event loop's executor that makes LiteLLM's requests on the spot, and all else in threads.

    `acompletion` builds each request in the loop's executor. That is a millisecond of pure Python, so a thread wins
    nothing; with hundreds of Celery's threads in the process, the way there and back costs more than the work.
    Only for providers whose requests are built without network access. No longer needed where tasks are coroutines.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See Executor."""
        if not _builds_request(fn):
            return super().submit(fn, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (an executor hands over whatever its function raises)
            done.set_exception(error)
        return done


def _builds_request(function: Callable[..., object]) -> bool:
    """This is `acompletion`'s `partial(context.run, partial(completion, model=..., ...))`."""
    inner: object = function.args[0] if isinstance(function, functools.partial) and function.args else None
    if not isinstance(inner, functools.partial) or not inner.func.__module__.startswith("litellm"):
        return False
    return str(inner.keywords.get("model", "")).startswith(_BUILT_OFFLINE)
