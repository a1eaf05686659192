"""The guard against keys that nobody would ever remove."""

from __future__ import annotations

import re
from typing import cast

import redis

#: Keys that may live for ever, each with its reason. All of them are kombu's; none of ours may.
WITHOUT_TTL = {
    r"_kombu\.binding.*": "which queues an exchange has: as long as the queue itself",
    r"(llm|llm\.batch|routing|files|celery)(\x06\x16\d)?": "a queue's messages: they wait until a worker comes",
    r"unacked|unacked_index": "messages that a worker holds: removed when it acknowledges them",
    r".*\.(reply\.)?celery\.pidbox": "a mailbox of remote control: kombu removes it with its owner",
    r"celeryev\..*": "a mailbox of an event's receiver, such as Flower: removed with its owner",
}
_ALLOWED = re.compile("|".join(WITHOUT_TTL))


def keys_without_ttl(client: redis.Redis) -> list[str]:
    """The keys that have no TTL and are not in the list above."""
    names = [cast(bytes, name).decode("utf-8", "replace") for name in client.scan_iter(count=1000)]
    suspects = [name for name in names if not _ALLOWED.fullmatch(name)]
    with client.pipeline(transaction=False) as pipe:
        for name in suspects:
            pipe.ttl(name)
        ttls = cast("list[int]", pipe.execute())
    return sorted(name for name, ttl in zip(suspects, ttls, strict=True) if ttl == -1)
