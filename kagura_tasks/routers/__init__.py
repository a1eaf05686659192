"""Routers: agents, and a way to choose among them. A decision is a decision; one agent runs, once."""

from __future__ import annotations

from kagura_tasks.routers.agent_router import AgentRouter
from kagura_tasks.routers.memory_aware import LLMContextAnalyzer, MemoryAwareRouter
from kagura_tasks.routing.context import ContextAnalyzer

__all__ = ["AgentRouter", "ContextAnalyzer", "LLMContextAnalyzer", "MemoryAwareRouter"]
