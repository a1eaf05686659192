"""What the jobs of the other queues do: the one call that plain Celery's task makes, awaited."""

import litellm


async def ask(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    response = await litellm.acompletion(model="openai/gpt-4o-mini", messages=messages, timeout=60)
    return response.choices[0].message.content or ""
