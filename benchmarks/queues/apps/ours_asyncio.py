"""The same as ours.py for the asyncio pool: there a job is a coroutine."""

from benchmarks.queues.bodies import Bodies
from kagura_tasks.app import create_app
from kagura_tasks.settings import load_settings
from kagura_tasks.worker import install

app = create_app(load_settings())
install(app, preload=False)
bodies = Bodies.of_this_worker()


@app.task(name="noop")
async def noop() -> None:
    bodies.note()
