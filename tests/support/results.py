"""Handles of Celery's results, which a test leaves behind."""

import gc


def collect_results() -> None:
    """Call this before their Redis is stopped.

    A failed result is a cycle with its error, and speaks to Redis when it is collected: in the middle of another test
    then, which waits for twenty tries to reach a server that is gone.
    """
    gc.collect()
