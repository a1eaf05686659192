"""Messages in kombu's form, and burying them as the workers do."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any, Final
from uuid import uuid4

from kagura_tasks import delivery_keys
from kagura_tasks.dead_letters import DEAD_TTL_S
from kagura_tasks.lua import LuaScript
from kagura_tasks.redis_types import SyncRedis

#: What a worker's scripts do at their end.
_CALL: Final = """
local fields = {}
for i = 3, #ARGV do fields[i - 2] = ARGV[i] end
bury(KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2], now_ms(), fields)
"""
_BURY: Final = LuaScript(f"{LuaScript.load('kagura_tasks', 'bury.lua').text}\n{_CALL}")


def kombu_message(prompt: str = "hello", task_id: str = "", **headers: Any) -> bytes:
    """A task as it stands in a queue."""
    body = json.dumps([[{"messages": [{"role": "user", "content": prompt}]}], {}, {}]).encode()
    message = {
        "body": b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "kagura.complete", "id": task_id or str(uuid4()), "argsrepr": repr(prompt), **headers},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "llm"},
        },
    }
    return json.dumps(message).encode()


def bury(client: SyncRedis, raw: bytes, *, queue: str = "llm", letter_id: str = "", ttl_s: int = DEAD_TTL_S) -> str:
    """Bury what is in these bytes; its id."""
    letter_id = letter_id or uuid4().hex
    try:
        headers = json.loads(raw)["headers"]
        known = ["task", headers["task"], "task_id", headers["id"], "deaths", 3, "reason", "its worker died 3 times"]
    except (ValueError, TypeError, KeyError):
        known = ["reason", "it is no message"]
    keys = [delivery_keys.DEAD, delivery_keys.COUNTS]
    _BURY.run(client, keys, [ttl_s, letter_id, "message", raw, "queue", queue, *known])
    return letter_id
