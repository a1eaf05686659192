"""Lua scripts, sent by their hash: one round trip and one atomic step each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

from redis.exceptions import NoScriptError

from kagura_tasks.redis_types import Argument, AsyncRedis, SyncRedis


@dataclass(frozen=True)
class LuaScript:
    """A script's text and the hash under which Redis knows it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Redis's name for a script is its SHA-1; nothing secret hangs on it."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, *names: str) -> LuaScript:
        """The script in the package's file; several files are one script, top to bottom."""
        return cls("\n".join((files(package) / name).read_text("utf-8") for name in names))

    def behind(self, *functions: LuaScript) -> LuaScript:
        """The same script with these functions in front of it."""
        return LuaScript("\n".join(part.text for part in (*functions, self)))

    def run(self, client: SyncRedis, keys: list[str], args: list[Argument]) -> object:
        """What the script returns. A server that does not know it yet (a new one, a flushed one) is told."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(self.text, len(keys), *keys, *args)

    async def arun(self, client: AsyncRedis, keys: list[str], args: list[Argument]) -> object:
        """The same, without blocking the event loop."""
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)
