"""The scripted models that tests talk to, and their ledgers. Real HTTP; see provider.py and llmock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.request import ProxyHandler, Request, build_opener

Json = dict[str, Any]

# Without a proxy: these servers are on loopback.
_opener = build_opener(ProxyHandler({}))


@contextmanager
def server_process(script: str) -> Iterator[str]:
    """A server of this folder in a process of its own; its address. It also ends when this process dies."""
    command = [sys.executable, str(Path(__file__).parent / script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().decode().strip()
            assert address.startswith("http://"), f"{script} did not start"
            yield address
        finally:
            process.kill()


@dataclass(frozen=True)
class Seen:
    """One request as the provider saw it. Times are time.monotonic(), one clock for all processes of a machine."""

    body: Json
    status: int
    started_at: float
    ended_at: float

    @property
    def prompt(self) -> str:
        """The last message's content."""
        return str(self.body["messages"][-1]["content"])


class LlmServer:
    """llmock: what it answers next, and what it was asked. LiteLLM reaches it as `openai/...` at `base_url`.

    Each script counts for `times` requests (None: until `reset`), and only for `model` where one is given, by the
    name that the provider sees ("gpt-x" for "openai/gpt-x"; * is a wildcard).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.base_url = f"{url}/v1"

    def reply(self, text: str, *, finish_reason: str = "stop", times: int | None = None, model: str = "*") -> None:
        """Answer this; "" is an empty answer. finish_reason: stop, length, content_filter, tool_calls."""
        self._script({"type": "reply", "text": text, "finish_reason": finish_reason}, times, model)

    def call_tool(self, name: str, arguments: Json, *, times: int | None = None, model: str = "*") -> None:
        """Answer with a tool call."""
        call = {"name": name, "arguments": arguments}
        self._script({"type": "reply", "tool_calls": [call], "finish_reason": "tool_calls"}, times, model)

    def fail(self, status: int, *, retry_after_s: float | None = None, times: int | None = 1, model: str = "*") -> None:
        """Answer with an error; 429 may say how long to wait."""
        self._script({"type": "fail", "status": status, "retry_after": retry_after_s}, times, model)

    def delay(self, seconds: float, *, times: int | None = None, model: str = "*") -> None:
        """Hold the whole answer back."""
        self._script({"type": "delay", "seconds": seconds}, times, model)

    def stall(self, seconds: float, *, after_chunks: int = 1, times: int | None = 1) -> None:
        """Stop in the middle of a stream, then go on."""
        fault = {"type": "stream_fault", "kind": "stall", "after_chunks": after_chunks, "stall_seconds": seconds}
        self._script(fault, times, None)

    def disconnect(self, *, after_chunks: int = 1, times: int | None = 1) -> None:
        """Drop the connection in the middle of a stream."""
        self._script({"type": "stream_fault", "kind": "disconnect", "after_chunks": after_chunks}, times, None)

    def truncate(self, *, after_chunks: int = 1, times: int | None = 1) -> None:
        """End a stream early and cleanly, without a finish reason: it looks complete."""
        self._script({"type": "stream_fault", "kind": "truncate", "after_chunks": after_chunks}, times, None)

    def malformed(self, *, after_chunks: int = 1, times: int | None = 1) -> None:
        """Send a chunk of a stream that is no JSON."""
        self._script({"type": "stream_fault", "kind": "malformed", "after_chunks": after_chunks}, times, None)

    def reset(self) -> None:
        """Forget all scripts and all requests."""
        _call("POST", f"{self.url}/_llmock/reset")

    def requests(self, prompt: str = "") -> list[Seen]:
        """The finished requests, oldest first; only those whose last message contains `prompt`."""
        found = _call("GET", f"{self.url}/_llmock/requests")["requests"]
        names = Seen.__dataclass_fields__
        seen = [Seen(**{name: value for name, value in one.items() if name in names}) for one in found]
        return [one for one in seen if prompt in one.prompt]

    def count(self, prompt: str = "") -> int:
        """How many of them there were."""
        return len(self.requests(prompt))

    def peak(self, prompt: str = "") -> int:
        """How many of them were in flight at once, at most."""
        return peak_in_flight(self.requests(prompt))

    def _script(self, behaviour: Json, times: int | None, model: str | None) -> None:
        match = {} if model is None else {"match": {"model": model}}
        _call("POST", f"{self.url}/_llmock/scenario", {"behaviors": [{**behaviour, "times": times, **match}]})


class StubServer:
    """provider.py: answers that llmock cannot give, chosen by the prompt, and an exact peak. `base_url` as above."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.base_url = f"{url}/v1"

    def script(self, **behaviour: object) -> None:
        """Answer so from now on; the fields are those of `provider.Behaviour`. The newest that fits counts."""
        _call("POST", f"{self.url}/script", [behaviour])

    def release(self) -> None:
        """Answer the requests that `script(held=True)` holds, and hold none from now on."""
        _call("POST", f"{self.url}/release")

    def reset(self) -> None:
        """Forget all scripts and all requests."""
        _call("POST", f"{self.url}/reset")

    def ledger(self) -> Json:
        """Everything: see provider.py."""
        return _call("GET", f"{self.url}/ledger")

    def count(self) -> int:
        """Requests so far, also unfinished ones."""
        return int(_call("GET", f"{self.url}/ledger?brief")["count"])

    def peak(self) -> int:
        """How many were in flight at once, at most."""
        return int(_call("GET", f"{self.url}/ledger?brief")["peak"])


def peak_in_flight(requests: list[Seen]) -> int:
    """The largest number of requests that had started and not ended."""
    moments = sorted([(one.started_at, 1) for one in requests] + [(one.ended_at, -1) for one in requests])
    level = peak = 0
    for _, step in moments:
        level += step
        peak = max(peak, level)
    return peak


def _call(method: str, url: str, body: object = None) -> Json:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    with _opener.open(request, timeout=30) as response:
        return cast(Json, json.loads(response.read()))
