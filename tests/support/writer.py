"""A program that appends turns to a conversation: `writer.py <redis url> <conversation> <writer> <turns>`.

It says each turn's number as soon as it knows it, so that a test sees how far it is.
"""

from __future__ import annotations

import sys

from kagura_tasks import ConversationMemory

if __name__ == "__main__":
    url, conversation, writer, turns = sys.argv[1:]
    memory = ConversationMemory(redis_url=url, max_turns=2_000, max_tokens=10**6)
    for number in range(int(turns)):
        text = f"{writer}.{number}"
        print(memory.append(conversation, "user", text, turn_id=text), flush=True)
