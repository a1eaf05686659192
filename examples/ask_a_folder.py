"""Ask a folder a question: each file tells what it knows, and one answer is made of that. Prints it, and its sources.

Start workers with `make up`, then run `python ask_a_folder.py FOLDER "When is the sea high?"` in a terminal with
KAGURA_TASKS_REDIS_URL. The next question parses no file again, and one that was asked before costs nothing.
"""

import sys

from kagura_tasks import LLMClient

NOTHING = "nothing"

EACH = """Copy from this file, word for word, what helps to answer the question. Where nothing does, say only: nothing.

Question: {% raw %}QUESTION{% endraw %}"""

TOGETHER = """Answer the question from these notes alone, in at most three sentences. Say so where they do not tell.

Question: {% raw %}QUESTION{% endraw %}
{% for part in parts %}
{{ part }}
{% endfor %}"""


def main(folder: str, question: str) -> None:
    client = LLMClient()  # KAGURA_TASKS_REDIS_URL says where
    each, together = (prompt.replace("QUESTION", question) for prompt in (EACH, TOGETHER))
    result = client.process_files(folder, each, reduce_prompt=together, max_in_flight=32)
    sources: list[str] = []
    for outcome in result:
        if outcome.row.status == "failed":
            print(f"left out: {outcome.path}: {outcome.row.reason}", file=sys.stderr)
        elif outcome.completion and outcome.completion.text.strip(" .\n").lower() != NOTHING:
            sources.append(outcome.path)
    print(result.reduced.get().text)
    print("from:", ", ".join(sorted(sources)) or NOTHING)


if __name__ == "__main__":
    main(*sys.argv[1:])
