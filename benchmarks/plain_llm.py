"""What a team writes that has Celery and LiteLLM and nothing else: a stock app, and a task that calls the model.

With BENCHMARKS_LITELLM_CACHE (an address) LiteLLM's own Redis cache is on, as its documentation shows it.
"""

import os

import litellm
from celery import Celery

app = Celery("plain", broker=os.environ["BENCHMARKS_CELERY_URL"], backend=os.environ["BENCHMARKS_CELERY_URL"])

if cache_url := os.environ.get("BENCHMARKS_LITELLM_CACHE"):
    litellm.cache = litellm.Cache(type="redis", url=cache_url)


@app.task(name="plain.complete")
def complete(prompt: str, use_cache: bool = True) -> str:
    controls = {} if use_cache else {"cache": {"no-cache": True, "no-store": True}}
    response = litellm.completion(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": prompt}], timeout=60, **controls
    )
    return response.choices[0].message.content or ""
