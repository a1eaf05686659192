"""What a call may cost, before it is made."""

from __future__ import annotations

import asyncio

from kagura_tasks.schemas import CompletionRequest


async def dearest_usd(request: CompletionRequest) -> float | None:
    """The most that one call may cost (USD): its prompt, and the longest answer. None where that is not known.

    Tokens are counted as LiteLLM counts them, in a thread: a long prompt takes a while. How many rounds of tools there
    will be, and what stands before a prompt in its conversation, nobody knows yet.
    """
    if request.tools is not None or request.conversation is not None:
        return None
    # With LiteLLM, which is there where calls are made, and nowhere else.
    from kagura_tasks.providers.estimate import estimate

    (found,) = await asyncio.to_thread(estimate, [request])
    return found.high_usd
