"""Who keeps what a process holds: one lease keeper for each broker that it consumes from."""

from __future__ import annotations

import os
from typing import Any, Final, cast

import redis

from kagura_tasks.redis_types import SyncRedis
from kagura_tasks.worker.deliveries import Deliveries
from kagura_tasks.worker.holdings import Held
from kagura_tasks.worker.lease import LeaseKeeper, Terms

#: Longest wait for an answer (s). A renewal that is late is tried again; one that hangs is none.
_LONGEST_WAIT_S: Final = 5.0

_keepers: dict[tuple[object, ...], LeaseKeeper] = {}
os.register_at_fork(after_in_child=_keepers.clear)


def keeper_for(channel: Any) -> LeaseKeeper:
    """The keeper for the broker of this channel, with the channel's terms where it is the first there."""
    params = cast("dict[str, Any]", channel._connparams())
    where = (params.get("host"), params.get("port"), params.get("path"), params["db"], channel.global_keyprefix)
    if where not in _keepers:
        terms = _terms_of(channel)
        _keepers[where] = LeaseKeeper(_deliveries_of(channel, params, terms), terms)
    return _keepers[where]


def holder_of(tag: str) -> tuple[Deliveries, Held] | None:
    """The message with this delivery tag, and the deliveries it is of; None where this process does not hold it."""
    for keeper in list(_keepers.values()):
        if (held := keeper.holdings.get(tag)) is not None:
            return keeper.deliveries, held
    return None


def _deliveries_of(channel: Any, params: dict[str, Any], terms: Terms) -> Deliveries:
    wait_s = min(channel.socket_timeout or _LONGEST_WAIT_S, _LONGEST_WAIT_S, max(1.0, terms.renewal_s))
    settings: dict[str, Any] = {**params, "socket_timeout": wait_s, "max_connections": 8}
    return Deliveries(
        client=cast(SyncRedis, redis.Redis(connection_pool=redis.ConnectionPool(**settings))),
        lease_ms=int(terms.visibility_timeout_s * 1000),
        prefix=channel.global_keyprefix,
        unacked=channel.unacked_key,
        unacked_index=channel.unacked_index_key,
    )


def _terms_of(channel: Any) -> Terms:
    timeout_s = float(channel.visibility_timeout)
    return Terms(
        visibility_timeout_s=timeout_s,
        renewal_s=timeout_s / 4 if channel.lease_renewal_s is None else channel.lease_renewal_s,
        longest_hold_s=channel.longest_hold_s,
        max_deaths=channel.max_deaths,
    )
