"""arq, by its own `run_worker`: its command line would log each job."""

import os

from arq.connections import ArqRedis
from arq.worker import run_worker

from benchmarks.queues.bodies import Bodies

bodies = Bodies.of_this_worker()


async def noop(_context: object) -> None:
    bodies.note()


class WorkerSettings:
    functions = (noop,)
    # redis-py refuses the 101st connection unless told otherwise.
    redis_pool = ArqRedis.from_url(os.environ["BENCHMARKS_REDIS_URL"], max_connections=2000, socket_timeout=None)
    max_jobs = int(os.environ["BENCHMARKS_CONCURRENCY"])


if __name__ == "__main__":
    run_worker(WorkerSettings)
