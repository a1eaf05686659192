"""A support desk: which of three agents a query is for, and what "and in Kyoto?" means.

Run it: `python examples/router.py`, with Redis and a worker (`kagura-tasks up` is both, with a model to try).
See how it decides: `kagura-tasks route "この靴を返品したい" --router examples.router:router --explain`.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

from kagura_tasks import LLMClient, MemoryAwareRouter, agent

client = LLMClient()


@agent(client=client)
async def weather(query: str) -> str:
    """You tell how the weather will be, in one sentence. {{ query }}"""
    raise NotImplementedError


@agent(client=client)
async def refunds(query: str) -> str:
    """You explain how things are sent back, in one sentence. {{ query }}"""
    raise NotImplementedError


@agent(client=client)
async def anything_else(query: str) -> str:
    """You are a support desk for shoes. Say in one sentence what you can help with. {{ query }}"""
    raise NotImplementedError


router = MemoryAwareRouter(client=client, fallback_agent=anything_else)
router.register(weather, intents=["weather", "forecast", "天気"], samples=["Will it rain tomorrow?"])
router.register(refunds, intents=["refund", "send back", "返品"], samples=["These shoes are too small"])


async def main() -> None:
    """One conversation: each query is decided and answered by a worker, in one task."""
    conversation = uuid4().hex
    for query in ("What is the weather in Tokyo?", "And in Kyoto?", "この靴を返品したい", "Who won the match?"):
        result = await client.aroute(query, router, conversation_id=conversation)
        completion = await result
        decision = result.decision
        print(f"{query}\n  {decision.agent if decision else '?'}: {completion.text}")


if __name__ == "__main__":
    asyncio.run(main())
