"""The keys of what is known about deliveries, beside kombu's own `unacked` and `unacked_index`.

All are on the broker's Redis. Each has a TTL.
"""

from __future__ import annotations

from typing import Final

#: Sorted set: which messages a worker holds (delivery tag and list), by when that ends unless renewed (Unix ms).
LEASES: Final = "kagura:leases"

#: Hash: when somebody last looked for leases that ended, and until when nobody takes any (Unix ms).
SWEEP: Final = "kagura:sweep"

#: Prefix of a mark: the message with this delivery tag was taken from its worker, which may write nothing for it.
TAKEN: Final = "kagura:taken:"

#: Sorted set: ids of the dead letters, by when they were buried (Unix ms). Each is a hash under this name and its id.
DEAD: Final = "kagura:dead"

#: Hash of counters: what happened to deliveries that did not go the usual way.
COUNTS: Final = "kagura:deliveries"

#: A random text that only a server which lost its memory lacks.
EPOCH: Final = "kagura:epoch"

#: Seconds for which the mark of a taken message, and the counters after their last change, are kept.
TAKEN_TTL_S: Final = 86_400
COUNTS_TTL_S: Final = 30 * 86_400


def taken_key(delivery_tag: str) -> str:
    """The mark that a message was taken from its worker."""
    return TAKEN + delivery_tag
