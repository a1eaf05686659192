"""arq, by its own `run_worker`: its command line would log each job."""

import os

from arq.connections import ArqRedis
from arq.worker import run_worker

from benchmarks.queues.apps.llm_call import ask


async def complete(_context: object, prompt: str) -> str:
    return await ask(prompt)


class WorkerSettings:
    functions = (complete,)
    # redis-py refuses the 101st connection unless told otherwise.
    redis_pool = ArqRedis.from_url(os.environ["BENCHMARKS_REDIS_URL"], max_connections=2000, socket_timeout=None)
    max_jobs = int(os.environ["BENCHMARKS_CONCURRENCY"])


if __name__ == "__main__":
    run_worker(WorkerSettings)
