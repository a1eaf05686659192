"""LiteLLM with its own Redis cache, as a program: a line in says "sync" or "async" and how many hits to time.

Before them come the address of Redis, the prompt and the answer, each a JSON text in a line of its own. A line out is a
JSON object: `times_us`, a time for each hit, and `cpu_us`, the CPU of one.
"""

import asyncio
import json
import sys
import time
from typing import Any

import litellm
from litellm.caching.caching import Cache

MODEL = "openai/gpt-4o-mini"


def ask(prompt: str, **how: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "caching": True, **how}


def checked(response: Any) -> None:
    if not response._hidden_params.get("cache_hit"):
        raise SystemExit("LiteLLM's cache did not have the answer")


def timed_sync(prompt: str, count: int) -> list[float]:
    times_us: list[float] = []
    for _ in range(count):
        started_at = time.perf_counter_ns()
        response = litellm.completion(**ask(prompt))
        times_us.append((time.perf_counter_ns() - started_at) / 1000)
        checked(response)
    return times_us


async def timed_async(prompt: str, count: int) -> list[float]:
    times_us: list[float] = []
    for _ in range(count):
        started_at = time.perf_counter_ns()
        response = await litellm.acompletion(**ask(prompt))
        times_us.append((time.perf_counter_ns() - started_at) / 1000)
        checked(response)
    return times_us


def main() -> None:
    url, prompt, answer = (json.loads(sys.stdin.readline()) for _ in range(3))
    litellm.suppress_debug_info = True
    litellm.cache = Cache(type="redis", url=url)
    litellm.completion(**ask(prompt), mock_response=answer)
    with asyncio.Runner() as loop:
        while line := sys.stdin.readline():
            kind, count = line.split()[0], int(line.split()[1])
            cpu_s = time.process_time()
            times_us = timed_sync(prompt, count) if kind == "sync" else loop.run(timed_async(prompt, count))
            cpu_us = (time.process_time() - cpu_s) * 1e6 / count
            print(json.dumps({"times_us": times_us, "cpu_us": cpu_us}), flush=True)


if __name__ == "__main__":
    main()
