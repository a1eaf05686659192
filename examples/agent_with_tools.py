"""An agent that has tools and remembers the conversation.

Start a worker in this folder with `KAGURA_TASKS_TOOL_MODULES=shop_tools PYTHONPATH=. kagura-tasks worker`, then run
`python agent_with_tools.py` in a terminal with KAGURA_TASKS_REDIS_URL.
"""

import asyncio
from uuid import uuid4

from shop_tools import call_back, find_order

from kagura_tasks import agent


@agent(tools=[find_order, call_back], max_rounds=5, memory=True, temperature=0)
async def help_desk(question: str) -> str:
    """You answer customers of a shop, in one sentence. What you do not know, look up.

    {{ question }}
    """
    raise NotImplementedError  # the body never runs: the docstring is the prompt


async def main() -> None:
    conversation = uuid4().hex
    for question in ("Where is my order A-17?", "And how long does it take from there?"):
        print(await help_desk(question, conversation_id=conversation))


if __name__ == "__main__":
    asyncio.run(main())
