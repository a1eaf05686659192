"""What `celery -A workers.main worker` and `celery -A workers.main flower` load."""

from __future__ import annotations

from typing import Final

from celery import Celery

from kagura_tasks.app import create_app
from kagura_tasks.settings import load_settings
from kagura_tasks.worker import install

app: Final[Celery] = create_app(load_settings())
install(app)
