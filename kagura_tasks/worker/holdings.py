"""The messages that this process holds: fetched, and not settled yet."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from kagura_tasks.worker.deliveries import Lease, Message


class Held(NamedTuple):
    """A message that this process holds."""

    lease: Lease
    message: Message


class Holdings:
    """What this process holds, what it is done with, and what it gives back. Safe to use from any thread."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._guard = threading.Lock()
        self._held: dict[str, Held] = {}
        self._settled: list[Lease] = []
        self._returning: dict[str, Lease] = {}
        self._begun: set[str] = set()
        self._killers: set[str] = set()

    def __contains__(self, tag: str) -> bool:
        return tag in self._held

    def __len__(self) -> int:
        return len(self._held)

    def get(self, tag: str) -> Held | None:
        """The message with this tag, if it is held."""
        return self._held.get(tag)

    def hold(self, held: Held) -> None:
        """Hold a message that was fetched."""
        with self._guard:
            self._held[held.lease.tag] = held

    def all(self) -> list[Held]:
        """What is held now."""
        with self._guard:
            return list(self._held.values())

    def drop(self, tag: str) -> Held | None:
        """Hold it no longer, whatever becomes of it; what it was, if it was held."""
        with self._guard:
            self._begun.discard(tag)
            self._killers.discard(tag)
            return self._held.pop(tag, None)

    def settle(self, tag: str) -> bool:
        """It is done: the server is told soon. Whether it was held."""
        with self._guard:
            self._begun.discard(tag)
            held = self._held.pop(tag, None)
            if held is not None:
                self._settled.append(held.lease)
            return held is not None

    def take_settled(self) -> list[Lease]:
        """What the server has to be told of; whoever takes it tells, or brings it back."""
        with self._guard:
            settled, self._settled = self._settled, []
            return settled

    def bring_back_settled(self, leases: Iterable[Lease]) -> None:
        """The server could not be told."""
        with self._guard:
            self._settled[:0] = leases

    @property
    def has_settled(self) -> bool:
        """The server has to be told of something."""
        return bool(self._settled)

    def give_back(self, tags: Iterable[str]) -> None:
        """Somebody else shall have these: the server is told soon."""
        with self._guard:
            for tag in tags:
                if (held := self._held.pop(tag, None)) is not None:
                    self._returning[tag] = held.lease

    def returning(self) -> list[Lease]:
        """What has to be given back."""
        with self._guard:
            return list(self._returning.values())

    def returned(self, lease: Lease) -> None:
        """This one was given back."""
        with self._guard:
            self._begun.discard(lease.tag)
            self._returning.pop(lease.tag, None)

    def begin(self, tag: str) -> None:
        """The pool began to run this one."""
        with self._guard:
            if tag in self._held:
                self._begun.add(tag)

    def is_begun(self, tag: str) -> bool:
        """The pool began to run this one."""
        return tag in self._begun

    def blame(self, tag: str) -> None:
        """A child of this process died while it ran this one."""
        with self._guard:
            if tag in self._held:
                self._killers.add(tag)

    def is_blamed(self, tag: str) -> bool:
        """A child of this process died while it ran this one."""
        return tag in self._killers
