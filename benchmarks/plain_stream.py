"""What a team writes that has Celery, LiteLLM and Redis: a task that publishes each chunk as it comes."""

import os

import litellm
import redis
from celery import Celery

app = Celery("plain", broker=os.environ["BENCHMARKS_CELERY_URL"], backend=os.environ["BENCHMARKS_CELERY_URL"])
channel = redis.Redis.from_url(os.environ["BENCHMARKS_REDIS_URL"])


@app.task(name="plain.stream")
def stream(prompt: str, name: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    for chunk in litellm.completion(model="openai/gpt-4o-mini", messages=messages, timeout=60, stream=True):
        if text := chunk.choices[0].delta.content:
            channel.publish(name, text)
    channel.publish(name, "")
