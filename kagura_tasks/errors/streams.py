"""What befell the reading of a stream; the task itself may be well."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class StreamError(KaguraTasksError):
    """Something about reading a stream. The task itself may be well: its result tells."""


class StreamExpired(StreamError):
    """There is no such stream: its time is over, or there never was one."""

    def __init__(self, task_id: str, has_result: bool = False) -> None:
        """Take the task, and whether its result is still there."""
        super().__init__(task_id, has_result)
        self.task_id = task_id
        self.has_result = has_result

    def __str__(self) -> str:
        """Say whether the result is still there, and which setting keeps streams for longer."""
        if self.has_result:
            kept = "its result is still there: fetch it with `client.result(task_id)`"
        else:
            kept = "there is no result either: is the task's id, and its tenant, right?"
        return f"no stream for task {self.task_id} (KAGURA_TASKS_STREAM_TTL_S says how long one is kept); {kept}"


class StreamGap(StreamError):
    """Events are not in the log any more, and text may be missing. To go on reading, iterate again."""

    def __init__(self, task_id: str, first: int, last: int) -> None:
        """Take the task, and the numbers of the first and the last event that are gone."""
        super().__init__(task_id, first, last)
        self.task_id = task_id
        self.first = first
        self.last = last

    def __str__(self) -> str:
        """Say what is missing, and where the whole text is."""
        return (
            f"the stream of task {self.task_id} lacks its events {self.first} to {self.last}: text may be missing. "
            "Iterate again to go on behind them; `completion()` has the whole text. "
            "KAGURA_TASKS_STREAM_LOG_BYTES says how much is kept"
        )


class StreamLost(StreamError):
    """The worker that wrote the stream fell silent, and no worker is there to begin anew."""

    def __init__(self, task_id: str) -> None:
        """Take the task."""
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        """Say what to do."""
        return (
            f"nobody writes the stream of task {self.task_id} any more: no worker is running. "
            "The task is kept, and begins anew when one starts; `resume` reads on"
        )


class StreamRestarted(StreamError):
    """A new attempt began after text was handed out: what was handed out is void."""

    def __init__(self, task_id: str, attempt: int) -> None:
        """Take the task, and the number of the attempt that began."""
        super().__init__(task_id, attempt)
        self.task_id = task_id
        self.attempt = attempt

    def __str__(self) -> str:
        """Say what to do with the text."""
        return (
            f"attempt {self.attempt} of task {self.task_id} began after text was handed out: drop that text. "
            "`LLMClient.stream` tells of it with an event instead, and goes on"
        )
