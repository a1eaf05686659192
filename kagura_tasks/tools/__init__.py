"""Functions that workers run for a model: marked in the code, found by name, called with arguments that fit."""

from __future__ import annotations

from kagura_tasks.tools.call import ToolContext, tool_context
from kagura_tasks.tools.marking import Tool, tool

__all__ = ["Tool", "ToolContext", "tool", "tool_context"]
