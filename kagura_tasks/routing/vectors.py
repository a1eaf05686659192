"""Vectors of texts. Those of samples are kept under what they are of: each sample is embedded once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from kagura_tasks.connections import CANNOT_WRITE_NOW, REDIS_AWAY, async_client
from kagura_tasks.routing.local_model import local_vectors
from kagura_tasks.routing.semantic import Vector
from kagura_tasks.routing.table import LOCAL
from kagura_tasks.schemas import Completion, CompletionRequest, Message
from kagura_tasks.settings import Settings

log = logging.getLogger(__name__)

#: Answers a request for the vectors of its messages, with what `written` makes of them.
Ask = Callable[[CompletionRequest], Awaitable[Completion]]

#: Seconds for which a sample's vector is kept after it was made.
_TTL_S: Final = 7 * 86_400

#: Vectors that a process remembers: of 1,536 numbers, 25 MB.
_REMEMBERED: Final = 4_096

#: Texts in one call of an embedding model.
_AT_ONCE: Final = 64

_remembered: Final[dict[str, bytes]] = {}


class Vectors:
    """Embeds texts, and keeps the vectors of samples: in this process, and in Redis for the others."""

    def __init__(self, settings: Settings, tenant: str, ask: Ask) -> None:
        """Take where to keep them (with `execution="inline"`, here alone), whose they are, and who makes them."""
        self._settings = settings
        self._tenant = tenant
        self._ask = ask

    async def __call__(
        self, model: str, samples: Sequence[str], queries: Sequence[str]
    ) -> tuple[list[Vector], list[Vector]]:
        """The vectors of samples and queries, each in their order. Queries are not kept: they do not come again.

        Raises ConfigurationError where the local model is meant and not installed, and what asking raises.
        """
        keys = [self._key(model, text) for text in samples]
        known = await self._known(keys)
        missing = {key: text for key, text in zip(keys, samples, strict=True) if key not in known}
        made = await self._made(model, [*missing.values(), *queries])
        new = dict(zip(missing, made, strict=False))
        # What is kept may be of a model that had this name before, or no vector at all.
        size = len(made[-1])
        stale = {key: text for key, text in zip(keys, samples, strict=True) if len(known.get(key, made[-1])) != size}
        if stale:
            new |= zip(stale, await self._made(model, list(stale.values())), strict=True)
        await self._keep(new)
        known |= new
        return [unpacked(known[key]) for key in keys], [unpacked(one) for one in made[len(missing) :]]

    async def _made(self, model: str, texts: Sequence[str]) -> list[bytes]:
        if model == LOCAL:
            return [packed(vector) for vector in await asyncio.to_thread(local_vectors, texts)]
        found: list[bytes] = []
        for start in range(0, len(texts), _AT_ONCE):
            messages = tuple(Message(role="user", content=text) for text in texts[start : start + _AT_ONCE])
            completion = await self._ask(CompletionRequest(model=model, messages=messages, tenant=self._tenant))
            found += read(completion.text)
        return found

    def _key(self, model: str, text: str) -> str:
        digest = hashlib.sha256(f"{model}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
        return f"kagura:vector:{self._tenant}:{digest}"

    async def _known(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = {key: value for key in keys if (value := _remembered.get(key)) is not None}
        rest = [key for key in dict.fromkeys(keys) if key not in found]
        if not rest or self._settings.execution == "inline":
            return found
        try:
            values = await async_client(self._settings.cache, self._settings.redis_timeout_s).mget(rest)
        except REDIS_AWAY as error:
            log.warning("vectors of samples could not be read (%s): they are made again", type(error).__name__)
            return found
        read = {key: value for key, value in zip(rest, values, strict=True) if value and len(value) % 4 == 0}
        _remember(read)
        return found | read

    async def _keep(self, new: dict[str, bytes]) -> None:
        _remember(new)
        if not new or self._settings.execution == "inline":
            return
        client = async_client(self._settings.cache, self._settings.redis_timeout_s)
        try:
            async with client.pipeline(transaction=False) as pipe:
                for key, value in new.items():
                    _ = pipe.set(key, value, ex=_TTL_S)
                _ = await pipe.execute()
        except CANNOT_WRITE_NOW as error:
            log.warning("vectors of samples could not be kept (%s)", type(error).__name__)


def written(vectors: Iterable[bytes]) -> str:
    """Packed vectors as a text that travels in a completion."""
    return "\n".join(base64.b64encode(vector).decode() for vector in vectors)


def read(text: str) -> list[bytes]:
    """The packed vectors in such a text."""
    return [base64.b64decode(line) for line in text.split("\n")]


def packed(vector: Sequence[float]) -> bytes:
    """The vector as 32-bit numbers: exact enough, and a tenth of its JSON."""
    return array("f", vector).tobytes()


def unpacked(data: bytes) -> Vector:
    """The vector in these bytes."""
    numbers = array("f")
    numbers.frombytes(data)
    return numbers


def _remember(vectors: dict[str, bytes]) -> None:
    _remembered.update(vectors)
    for oldest in list(_remembered)[:-_REMEMBERED]:
        _ = _remembered.pop(oldest, None)
