"""The worker's wing: what runs where the models are called."""

from kagura_tasks.worker.install import install

__all__ = ["install"]
