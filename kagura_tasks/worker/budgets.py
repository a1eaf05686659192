"""What a call may cost, before it is made."""

from __future__ import annotations

import asyncio

from kagura_tasks.errors import PriceUnknown
from kagura_tasks.schemas import CompletionRequest


async def dearest_usd(request: CompletionRequest) -> float:
    """The most that one call may cost (USD): its prompt, and the longest answer. Raises PriceUnknown.

    Tokens are counted as LiteLLM counts them, in a thread: a long prompt takes a while.
    """
    if request.tools is not None or request.conversation is not None:
        problem = "how many rounds of tools there will be, and what was said before, nobody knows before the call"
        raise PriceUnknown(problem, request.model)
    # With LiteLLM, which is there where calls are made, and nowhere else.
    from kagura_tasks.providers.estimate import estimate

    (found,) = await asyncio.to_thread(estimate, [request])
    if found.high_usd is None:
        raise PriceUnknown("LiteLLM's price map does not say what a call may cost", request.model)
    return found.high_usd
