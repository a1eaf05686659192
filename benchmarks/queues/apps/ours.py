"""A task of a team's own on our app and our worker, set up as workers/main.py does, but without LiteLLM."""

from benchmarks.queues.bodies import Bodies
from kagura_tasks.app import create_app
from kagura_tasks.settings import load_settings
from kagura_tasks.worker import install

app = create_app(load_settings())
install(app, preload=False)
bodies = Bodies.of_this_worker()


@app.task(name="noop")
def noop() -> None:
    bodies.note()
