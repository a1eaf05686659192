"""The steps that count by themselves; all others have add_up.lua in front of them."""

from __future__ import annotations

from typing import Final

from kagura_tasks.lua import LuaScript

_HERE: Final = __package__ or ""

#: Functions for scripts that count.
ADD_UP: Final = LuaScript.load(_HERE, "add_up.lua")

#: Counts what a delivery did that ends without a result.
COUNT_TASK: Final = LuaScript.load(_HERE, "add_up.lua", "count_task.lua")
