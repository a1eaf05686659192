"""What a task costs that does nothing: stock Celery, ours, and other task queues, all on the same Redis."""
