"""Is Redis there? Asked before a command does anything, so that the answer comes at once, and in one line."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError
from redis.retry import Retry

from kagura_tasks.connections import redis_errors
from kagura_tasks.errors import ConfigurationError, KaguraTasksError, RedisUnreachable
from kagura_tasks.settings import RedisUrl

ServerInfo = dict[str, Any]

#: Longest wait for one server (s), with the look-up of its name, which no timeout of a socket covers.
_PATIENCE_S: Final = 3.0


def require_redis(*urls: RedisUrl) -> None:
    """Raise RedisUnreachable or ConfigurationError unless each of these servers answers."""
    for answer in ask_servers(list(urls)).values():
        if isinstance(answer, KaguraTasksError):
            raise answer


def ask_servers(urls: list[RedisUrl]) -> dict[RedisUrl, ServerInfo | KaguraTasksError]:
    """What each server tells about itself (INFO), or why it does not: RedisUnreachable, or ConfigurationError.

    All are asked at once, so that several that hang take no longer than one.
    """
    answers: dict[RedisUrl, ServerInfo | KaguraTasksError] = {}

    def ask(url: RedisUrl) -> None:
        answers[url] = _ask(url)

    # In threads that may be left behind: nothing else ends a resolver that hangs.
    asking = [threading.Thread(target=ask, args=[url], daemon=True) for url in dict.fromkeys(urls)]
    for thread in asking:
        thread.start()
    deadline = time.monotonic() + _PATIENCE_S
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {url: answers.get(url, RedisUnreachable(url.masked(), "no answer in time")) for url in urls}


def _ask(url: RedisUrl) -> ServerInfo | KaguraTasksError:
    try:
        with redis_errors(url):
            return _info(url)
    except KaguraTasksError as error:
        return error
    except (OSError, ValueError) as error:  # such as a host's name that cannot be one
        return RedisUnreachable(url.masked(), type(error).__name__)


def _info(url: RedisUrl) -> ServerInfo:
    timeout_s = _PATIENCE_S - 0.5
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    try:
        with cast(Any, redis.Redis).from_url(url, **options, retry=Retry(NoBackoff(), 0)) as client:
            return client.info()
    except AuthenticationError:
        reason = "refuses the login: correct user and password in KAGURA_TASKS_REDIS_URL"
        raise ConfigurationError(f"Redis at {url.masked()} {reason}") from None
    except (ResponseError, InvalidResponse) as error:
        reason = "refuses us, or is no Redis: is KAGURA_TASKS_REDIS_URL right?"
        raise ConfigurationError(f"{url.masked()} {reason} ({type(error).__name__})") from None
