"""Conversations that are remembered: turns and what fell out of them, bounded, for each tenant apart."""

from __future__ import annotations

from kagura_tasks.conversations.memory import ConversationMemory
from kagura_tasks.conversations.turns import Turn

__all__ = ["ConversationMemory", "Turn"]
