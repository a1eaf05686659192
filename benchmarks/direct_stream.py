"""LiteLLM called directly, as a program: a prompt a line in, the milliseconds to its first chunk a line out."""

import asyncio
import sys
import time

import litellm


async def first_chunk_ms(prompt: str) -> float:
    started, first = time.perf_counter(), 0.0
    messages = [{"role": "user", "content": prompt}]
    async for chunk in await litellm.acompletion(model="openai/gpt-4o-mini", messages=messages, stream=True):
        if chunk.choices[0].delta.content and not first:
            first = (time.perf_counter() - started) * 1000
    return first


async def main() -> None:
    while prompt := await asyncio.to_thread(sys.stdin.readline):
        print(await first_chunk_ms(prompt.strip()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
