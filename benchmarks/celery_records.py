"""What Celery's result backend knows of tasks, read from outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import redis

from benchmarks.harness import BenchmarkError


def all_answered(client: redis.Redis, ids: Sequence[str]) -> bool:
    """All tasks have succeeded. Raises BenchmarkError where one has failed."""
    keys = [f"celery-task-meta-{task_id}" for task_id in ids]
    if cast(int, client.exists(*keys)) < len(keys):
        return False
    records = [cast("dict[str, Any]", json.loads(value)) for value in cast("list[bytes]", client.mget(keys))]
    failed = [record for record in records if record["status"] in ("FAILURE", "REVOKED")]
    if failed:
        raise BenchmarkError(f"{len(failed)} of {len(ids)} tasks failed, the first with {failed[0]['result']}")
    return all(record["status"] == "SUCCESS" for record in records)
