"""Summarise a list with one client: submit all, then wait for each. The second run needs no worker.

Start workers with `make up`, then run `python summarise_list.py` in a terminal with KAGURA_TASKS_REDIS_URL.
"""

from kagura_tasks import LLMClient

TEXTS = [
    "The night train from Oslo to Bergen was cancelled because snow had blocked the line.",
    "A new bridge over the river will open in spring. It saves cyclists a detour of three kilometres.",
    "The shop on the corner now sells bread on Sundays too. Many neighbours had asked for it.",
]


def main() -> None:
    client = LLMClient()  # KAGURA_TASKS_REDIS_URL says where
    results = [client.submit(f"Summarise in one short sentence: {text}", tags=["news"]) for text in TEXTS]
    for result in results:
        answer = result.get()
        print(f"{'remembered' if answer.cached else 'called'}: {answer.text}")


if __name__ == "__main__":
    main()
