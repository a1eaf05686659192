"""Sums up what falls out of a conversation: once, by whoever claims it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import Conversations
from kagura_tasks.conversations.turns import Claim
from kagura_tasks.schemas import Completion, CompletionRequest, Message

#: Answers a request.
Ask = Callable[[CompletionRequest], Awaitable[Completion]]

#: For so long nobody else sums up the same turns (ms). Whoever dies meanwhile keeps nobody from it for longer.
_HOLD_MS: Final = 120_000

#: A longer summary is cut: it stands before each further prompt.
_MOST_CHARACTERS: Final = 8_000

_ORDER: Final = (
    "Sum up the beginning of a conversation, so that it can go on without it. Keep names, numbers, decisions, and what "
    "is still open. Write in the conversation's language, in at most 200 words, and nothing but the summary."
)


async def sum_up(store: Conversations, name: ConversationName, model: str, ask: Ask) -> bool:
    """Sum up what waits for it; whether anything was.

    Raises:
        RedisUnreachable: Redis did not answer.
        KaguraTasksError: What `ask` raises. What waited still waits.
    """
    claim = await store.claim(name, uuid4().hex, _HOLD_MS)
    if claim is None:
        return False
    summary: str | None = None
    try:
        completion = await ask(_request(claim, model, name.tenant))
        summary = completion.text.strip()[:_MOST_CHARACTERS] or None
    finally:
        is_folded = await store.fold(name, claim, summary)
    return is_folded and summary is not None


def _request(claim: Claim, model: str, tenant: str) -> CompletionRequest:
    earlier = [f"summary of what was before: {claim.summary}"] if claim.summary else []
    turns = [f"{turn.role}: {turn.content}" for turn in claim.turns]
    messages = (Message(role="system", content=_ORDER), Message(role="user", content="\n\n".join([*earlier, *turns])))
    return CompletionRequest(model=model, messages=messages, tenant=tenant)
