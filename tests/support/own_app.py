"""A team's own Celery app that gained LLM tasks with one call. pytest-celery fills the three placeholders in."""

from celery import Celery

from kagura_tasks.worker import install

imports = None

app = Celery("celery_test_app")
config = None

if config:
    app.config_from_object(config)

# LiteLLM is imported when the first prompt comes: this app's workers do other things, too.
install(app, preload=False)
