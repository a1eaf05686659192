"""What another try may mend: the one table that decides it, in whichever way a failure is told."""

from __future__ import annotations

from typing import Final, NamedTuple

from kagura_tasks.errors import ProviderTimeout, ProviderUnavailable, RateLimited, TransientError

TOO_LATE: Final = "the provider did not answer in time"
TOO_MANY: Final = "the provider's rate limit is reached"
AWAY: Final = "the provider is not available"
NO_CONNECTION: Final = "the connection to the provider failed"


class Transient(NamedTuple):
    """A kind of failure after which another try may help.

    Attributes:
        error: What it is to our callers.
        text: What is said of it.
        statuses: The statuses of replies that mean it. Any other from 500 on means that the provider is away.
        litellm: LiteLLM's names of it, with a status beside them or none.
    """

    error: type[TransientError]
    text: str
    statuses: tuple[int, ...] = ()
    litellm: tuple[str, ...] = ()


#: First match first: some of LiteLLM's errors are subclasses of others.
TABLE: Final = (
    Transient(RateLimited, TOO_MANY, (429,), ("RateLimitError",)),
    Transient(ProviderTimeout, TOO_LATE, (408, 504), ("Timeout",)),
    Transient(ProviderUnavailable, NO_CONNECTION, (), ("APIConnectionError",)),
    Transient(ProviderUnavailable, "the provider failed, or the connection to it", (), ("InternalServerError",)),
    Transient(ProviderUnavailable, AWAY, (409, 425), ("ServiceUnavailableError", "BadGatewayError")),
)

_AWAY: Final = TABLE[-1]


def by_status(status: int) -> Transient | None:
    """The kind of failure that this status means; None where another try gives the same answer."""
    return next((one for one in TABLE if status in one.statuses), _AWAY if status >= 500 else None)


def by_litellm(error: Exception) -> Transient | None:
    """The kind of failure that this error of LiteLLM's is, by its name or that of a class that it is one of."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return next((one for one in TABLE if names.intersection(one.litellm)), None)
