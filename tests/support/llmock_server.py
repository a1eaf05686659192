"""llmock in a process of its own: prints its address, and ends when its standard input does."""

import sys

from llmock.testing import LLMockServer

if __name__ == "__main__":
    with LLMockServer() as server:
        print(server.url, flush=True)
        sys.stdin.buffer.read()
