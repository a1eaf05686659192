"""Summarise a folder of text: one call for each file, and one that makes a summary of their summaries.

Start workers with `make up`, then run `python summarise_folder.py FOLDER` with KAGURA_TASKS_REDIS_URL. Where it was
interrupted, run it again with the id that it printed (`python summarise_folder.py FOLDER ID`): only what is missing is
paid for.
"""

import sys
from pathlib import Path

from kagura_tasks import LLMClient

EACH = """Summarise this text in at most three sentences.

{{ item }}"""

TOGETHER = """These are summaries of {{ count }} texts, {{ failed | length }} of which could not be read.
Summarise what they say together, in one paragraph.
{% for part in parts %}
- {{ part }}
{% endfor %}"""


def main(folder: str, map_id: str | None = None) -> None:
    texts = (path.read_text("utf-8", "replace") for path in sorted(Path(folder).rglob("*.txt")))
    client = LLMClient()  # KAGURA_TASKS_REDIS_URL says where
    result = client.map_reduce(texts, map=EACH, reduce=TOGETHER, id=map_id, max_in_flight=32)
    print(f"map {result.parts.id}", file=sys.stderr)
    for _ in result.parts:
        progress = result.parts.progress()
        print(f"{progress.settled} of {progress.total}, {progress.cost_usd:.4f} USD", file=sys.stderr)
    print(result.get().text)


if __name__ == "__main__":
    main(*sys.argv[1:])
