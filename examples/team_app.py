"""A team's own Celery app that gained LLM tasks with one call. See docs/tutorials/existing-celery-app.md.

Start a worker with `celery -A team_app worker -Q celery,llm,llm.batch -P threads -c 64`, then run `python team_app.py`.
"""

from celery import Celery

from kagura_tasks.worker import install

app = Celery("team_app", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")
install(app)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def report(answers: list[dict]) -> str:
    return "\n".join(answer["text"] for answer in answers)


def main() -> None:
    from celery import group

    from kagura_tasks import LLMClient, agent

    @agent(client=LLMClient(app=app))
    async def summarise(text: str) -> str:
        """Summarise in one sentence: {{ text }}"""
        raise NotImplementedError  # the body never runs

    texts = ["The new bridge opens in spring.", "The shop on the corner now sells bread on Sundays."]
    joined = group(summarise.s(text) for text in texts) | report.s()
    print(joined.apply_async().get(timeout=60))


if __name__ == "__main__":
    main()
