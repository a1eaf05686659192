"""What a team writes that has Celery and LiteLLM and nothing else: a stock app, and a task that calls the model."""

import os

import litellm
from celery import Celery
from litellm.caching.caching import Cache

app = Celery("plain", broker=os.environ["BENCHMARKS_CELERY_URL"], backend=os.environ["BENCHMARKS_CELERY_URL"])
if os.environ.get("BENCHMARKS_LITELLM_CACHE"):
    litellm.cache = Cache(type="redis", url=os.environ["BENCHMARKS_REDIS_URL"])


@app.task(name="plain.complete")
def complete(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    response = litellm.completion(
        model="openai/gpt-4o-mini", messages=messages, timeout=60, caching=litellm.cache is not None
    )
    return response.choices[0].message.content or ""
