"""Which agent a query is for. Decides, and runs nothing: the same thinking in applications and on workers."""
