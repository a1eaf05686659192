"""What one writes by hand: read each file of a folder, and ask the model about it. `python -m benchmarks.serial_files`.

Reads a folder a line, and prints the seconds that it took and how many files were answered.
"""

from __future__ import annotations

import asyncio
import sys
import time

import litellm

from kagura_tasks import document_content, load_directory

MODEL = "openai/gpt-4o-mini"


def main() -> None:
    for line in sys.stdin:
        started_at = time.monotonic()
        documents = asyncio.run(load_directory(line.strip(), max_concurrent=1))
        for document in documents:
            content = [{"type": "text", "text": "Sum up."}, {"type": "text", "text": document_content(document, MODEL)}]
            litellm.completion(model=MODEL, messages=[{"role": "user", "content": content}], timeout=60)
        print(time.monotonic() - started_at, len(documents), flush=True)


if __name__ == "__main__":
    main()
