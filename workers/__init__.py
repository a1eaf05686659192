"""The fleet: which kinds of workers there are, and what `celery -A workers.main` loads."""
