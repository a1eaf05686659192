"""What agents of a shop may have done. Workers run it with KAGURA_TASKS_TOOL_MODULES=shop_tools."""

from typing import Annotated

from pydantic import Field

from kagura_tasks import tool, tool_context
from kagura_tasks.errors import ToolError

ORDERS = {"A-17": {"state": "sent", "on": "Monday"}, "A-18": {"state": "waiting", "on": None}}


@tool
def find_order(number: Annotated[str, Field(description="As on the receipt: A-17")]) -> dict[str, str | None]:
    """Find an order, and say what became of it."""
    if number not in ORDERS:
        raise ToolError(f"there is no order {number}: ask for the number on the receipt")
    return ORDERS[number]


@tool(timeout_s=10)
async def call_back(number: str, phone: str) -> str:
    """Have a person call the customer about an order."""
    # The call has one id, also where it is made again: whoever keeps the list sees that it is on it already.
    return f"noted under {tool_context().call_id}: call {phone} about {number}"
