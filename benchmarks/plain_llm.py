"""What a team writes that has Celery and LiteLLM and nothing else: a stock app, and a task that calls the model."""

import os

import litellm
from celery import Celery

app = Celery("plain", broker=os.environ["BENCHMARKS_CELERY_URL"], backend=os.environ["BENCHMARKS_CELERY_URL"])


@app.task(name="plain.complete")
def complete(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    response = litellm.completion(model="openai/gpt-4o-mini", messages=messages, timeout=60)
    return response.choices[0].message.content or ""
