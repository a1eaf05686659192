"""The root of all errors, and what is wrong around a call."""

from __future__ import annotations

from typing import Final

PUBLIC_PLACE: Final = "kagura_tasks.errors"


class KaguraTasksError(Exception):
    """The root: catch it to catch everything that this package raises on purpose."""

    __module__ = PUBLIC_PLACE

    def __init_subclass__(cls) -> None:
        """An error is named, in a traceback and on the wire, after the place where it is public."""
        cls.__module__ = PUBLIC_PLACE


class ConfigurationError(KaguraTasksError):
    """A setting is wrong; nothing was sent. The message names the setting and what is allowed."""


class RedisUnreachable(KaguraTasksError):
    """Redis did not answer in time. The message names the address without its password."""

    def __init__(self, address: str, reason: str = "no answer") -> None:
        """Take the masked address and the reason in a few words."""
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        """Name the address and the setting behind it."""
        return f"cannot reach Redis at {self.address} ({self.reason}): is it running, is KAGURA_TASKS_REDIS_URL right?"
