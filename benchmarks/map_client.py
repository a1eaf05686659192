"""A program that maps rows of a file, and says how much memory it took: `python -m benchmarks.map_client`.

Reads the Redis address and the number of rows, a line each. Nobody has to work on the map.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from kagura_tasks import LLMClient, Settings


def prompts(number: int) -> Iterator[str]:
    """So many prompts, no two alike."""
    run = uuid4().hex
    return (f"Say something about {at} in {run}." for at in range(number))


def main() -> None:
    """Write the file, map it, and print the peak RSS (MB)."""
    url, rows = sys.stdin.readline().strip(), int(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": f"{prompt} {'x' * 450}"}) + "\n" for prompt in prompts(rows))
        client = LLMClient(Settings(redis_url=url))
        with path.open(encoding="utf-8") as file:
            result = client.map(template="Summarise: {{ text }}", rows=(json.loads(line) for line in file))
        if result.progress().total != rows:
            raise SystemExit("not all rows are in the map")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


if __name__ == "__main__":
    main()
