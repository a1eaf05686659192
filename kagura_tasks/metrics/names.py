"""What the counters are called, in Redis.

Three kinds of hashes hold them, by the server's clock: one for each minute, one for each day, and `total`. Steps count
in the minute that is open, whose number is in `open`; the first one after it adds it to the other two (add_up.lua). A
field is `<tenant> <model> <task> <name>`; the first three are a series. There is a bound on how many series there are:
callers choose the names of models and tenants, and what is beyond it is counted under OTHER. The hashes are the
operator's, over all tenants, so no tenant is in their keys.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: Hash of all counters, since they began to be counted, without the minute that is open.
TOTAL: Final = "kagura:metrics:total"

#: The number of the minute that is open.
OPEN: Final = "kagura:metrics:open"

#: Prefixes of the hashes of one minute (Unix time / 60) and one day (Unix time / 86,400, so UTC), which has no
#: histograms.
MINUTE: Final = "kagura:metrics:minute:"
DAY: Final = "kagura:metrics:day:"
#: Prefix of a mark: what this delivery did is counted already.
COUNTED: Final = "kagura:metrics:counted:"

#: A name that is none: of a model, say, where the task asked for no call. No tenant or model can be called so.
NONE: Final = "(none)"
OTHER: Final = "(other)"

#: Upper ends of the histograms' buckets (s); one more bucket holds what is above.
BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: Prefix of the counters of calls that failed, by the name of their error.
ERROR: Final = "error:"


class Series(NamedTuple):
    """What a counter is about."""

    tenant: str
    model: str
    task: str

    def __str__(self) -> str:
        """As it stands in a field's name."""
        return f"{self.tenant} {self.model} {self.task}"


class Histogram:
    """The names of histograms, and of what they are made of."""

    CALL: Final = "call_s"
    FIRST_CHUNK: Final = "first_chunk_s"
    QUEUE_WAIT: Final = "queue_wait_s"

    ALL: Final = (CALL, FIRST_CHUNK, QUEUE_WAIT)

    @staticmethod
    def bucket(name: str, number: int) -> str:
        """The counter of a bucket: of what lies in it, not of all below."""
        return f"{name}.{number}"

    @staticmethod
    def sum(name: str) -> str:
        """The counter of the sum of all observations (µs)."""
        return f"{name}.sum_us"
