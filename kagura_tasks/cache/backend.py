"""What a place for entries must do, and the forms that all of them share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal, Protocol, cast

from pydantic import BaseModel, ValidationError

from kagura_tasks.schemas import Completion, Json


@dataclass(frozen=True)
class CacheEntry:
    """One remembered answer.

    Attributes:
        key: Its name, as `cache.key.cache_key` makes it or as its owner chose it.
        response: A Completion, or any JSON value that its owner stored.
        created_at: When it was stored, in UTC.
        ttl: Seconds for which it is valid from then on.
        model: The model that answered.
        tenant: Whose it is.
        tags: Names under which it can be invalidated.
    """

    key: str
    response: object
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ttl: int = 3600
    model: str = "unknown"
    tenant: str = "default"
    tags: tuple[str, ...] = ()

    @property
    def is_expired(self) -> bool:
        """The entry is older than its TTL."""
        now = datetime.now(self.created_at.tzinfo)
        return now > self.created_at + timedelta(seconds=self.ttl)

    def encode(self) -> bytes:
        """The entry's response, date and tags as JSON. Raises TypeError where the response has no JSON form."""
        if isinstance(self.response, Completion):
            kind, response = "completion", self.response.model_dump_json()
        else:
            kind, response = "json", json.dumps(self.response, ensure_ascii=False, separators=(",", ":"))
        about = json.dumps({"kind": kind, "created_at": self.created_at.isoformat(), "tags": self.tags})
        return f'{about[:-1]}, "response": {response}}}'.encode()


class _Remembered(BaseModel):
    """An entry that holds a completion, parsed in one step: each hit waits for it."""

    kind: Literal["completion"]
    response: Completion


def decode_response(value: bytes) -> object:
    """What was stored: a Completion comes back as one. Raises ValueError for bytes that are no entry."""
    fields = _fields_in(value)
    response = fields["response"]
    return Completion.model_validate(response) if fields.get("kind") == "completion" else response


def tags_of(value: bytes) -> list[object] | None:
    """The tags that the entry was stored with; None for bytes that are no entry."""
    try:
        tags = _fields_in(value).get("tags")
    except ValueError:
        return None
    return cast("list[object]", tags) if isinstance(tags, list) else None


def _fields_in(value: bytes) -> Json:
    try:
        document = cast(object, json.loads(value))
    except RecursionError:  # brackets in brackets in brackets
        raise ValueError("no entry of this cache") from None
    if not isinstance(document, dict) or "response" not in document:
        raise ValueError("no entry of this cache")
    return cast(Json, document)


def decode_completion(value: bytes, model: str) -> Completion | None:
    """The remembered answer, marked as cached; None for bytes that hold none. A text that was set by hand is one."""
    try:
        return _Remembered.model_validate_json(value).response.as_cached()
    except ValidationError:
        pass  # an entry that somebody set by hand, or none at all
    try:
        response = decode_response(value)
    except ValueError:
        return None
    if isinstance(response, str):
        return Completion(text=response, model=model, finish_reason="stop").as_cached()
    return response.as_cached() if isinstance(response, Completion) else None


def usage_of(value: bytes) -> tuple[int, float]:
    """Tokens and USD that the stored answer once cost; nothing for an entry that holds no completion."""
    try:
        response = decode_response(value)
    except ValueError:
        return 0, 0.0
    if not isinstance(response, Completion):
        return 0, 0.0
    return response.usage.total_tokens, response.usage.cost_usd or 0.0


@dataclass(frozen=True)
class Selection:
    """Which entries an invalidation means; what is None does not narrow it down.

    Attributes:
        tenant: Of this tenant.
        tag: With this tag.
        model: Of this model.
        pattern: Whose key matches this glob, or contains this text where it has no wildcard.
    """

    tenant: str | None = None
    tag: str | None = None
    model: str | None = None
    pattern: str | None = None

    def covers_key(self, key: str) -> bool:
        """The key fits model and pattern. (Tenant and tag are not in the key: the backend looks them up.)"""
        if self.model is not None and f":{self.model}:" not in key:
            return False
        if self.pattern is None:
            return True
        wild = self.pattern if any(sign in self.pattern for sign in "*?[") else f"*{self.pattern}*"
        return fnmatchcase(key, wild)


@dataclass(frozen=True)
class CacheStats:
    """What a cache did, for all processes that share it.

    Attributes:
        hits: Look-ups that found an answer.
        misses: Look-ups that found none.
        shared: Misses that were answered by a call which was running already.
        corrupt: Entries that were no JSON of ours; each counted as a miss, too.
        size: Entries that are valid now.
        tokens_saved: Tokens of all calls that were not made.
        usd_saved: Their price, where it is known.
    """

    hits: int = 0
    misses: int = 0
    shared: int = 0
    corrupt: int = 0
    size: int = 0
    tokens_saved: int = 0
    usd_saved: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Hits among all look-ups, from 0 to 1."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0

    def plus(self, other: CacheStats) -> CacheStats:
        """Both together."""
        return CacheStats(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


class CacheBackend(Protocol):
    """Where entries live. Values are opaque bytes here, except that a hit's usage is added to what was saved.

    Look-ups come in both worlds, since they stand in front of every call; all else is rare enough to be awaited.
    """

    name: str

    def lookup(self, tenant: str, key: str) -> bytes | None:
        """The value, or None where it is absent or expired. Counts a hit or a miss."""
        ...

    async def alookup(self, tenant: str, key: str) -> bytes | None:
        """The same, without blocking the event loop."""
        ...

    async def store(self, entry: CacheEntry) -> None:
        """Keep the entry for its TTL, in place of what was there."""
        ...

    async def discard(self, tenant: str, key: str) -> None:
        """Drop an entry that turned out to be corrupt, and count it."""
        ...

    async def invalidate(self, selection: Selection) -> int:
        """Drop what the selection covers; how many entries went."""
        ...

    async def stats(self, tenant: str | None = None) -> CacheStats:
        """The counters of one tenant, or of all."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
