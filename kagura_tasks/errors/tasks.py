"""What befell a task, or its answer."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class ResultTimeout(KaguraTasksError, TimeoutError):
    """Nobody answered in time. The task was not cancelled: its answer may still come."""

    def __init__(self, task_id: str, waited_s: float) -> None:
        """Take the task that was waited for, and for how many seconds."""
        super().__init__(task_id, waited_s)
        self.task_id = task_id
        self.waited_s = waited_s

    def __str__(self) -> str:
        """Say what to look at."""
        return (
            f"no answer for task {self.task_id} within {self.waited_s:g} s: is a worker running on its queue? "
            "`kagura-tasks doctor` tells. The task was not cancelled"
        )


class TaskCancelled(KaguraTasksError):
    """The task was cancelled before it had an answer."""

    def __init__(self, task_id: str) -> None:
        """Take the cancelled task's id."""
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        """Name the task."""
        return f"task {self.task_id} was cancelled"


class TaskLost(KaguraTasksError):
    """Redis lost its memory, and the task with it: neither queue nor worker has it, and no answer was stored."""

    def __init__(self, task_id: str) -> None:
        """Take the lost task's id."""
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        """Say what happened, and what keeps it from happening."""
        return (
            f"task {self.task_id} is lost: Redis was restarted without what it held. Send it again; "
            "a Redis with appendonly=yes keeps its queues"
        )


class TaskFailed(KaguraTasksError):
    """The worker failed in a way that has no name here: a lost process, a time limit, a defect."""

    def __init__(self, kind: str, message: str = "see the worker's log") -> None:
        """Take the foreign error's class name and a message that holds no prompt."""
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        """Name the foreign error."""
        return f"the worker failed with {self.kind}: {self.message}"


class TaskPoisoned(TaskFailed):
    """The task's worker died while it ran, again and again. It is kept among the dead letters."""

    def __init__(self, task_id: str, deaths: int) -> None:
        """Take the task's id, and how many workers died while they held it."""
        super().__init__("WorkerLostError")
        self.args = (task_id, deaths)
        self.task_id = task_id
        self.deaths = deaths

    def __str__(self) -> str:
        """Say where it is."""
        return (
            f"task {self.task_id} killed its worker {self.deaths} times: it is not tried again. "
            "`kagura-tasks dead` shows it, and can send it again"
        )


class OutputInvalid(KaguraTasksError):
    """The model's answer does not fit the type that was asked for, also when it was asked again."""

    def __init__(self, expected: str, problems: str, tries: int = 1) -> None:
        """Take the type's name, where it did not fit (paths and rules, no text of the answer) and the tries."""
        super().__init__(expected, problems, tries)
        self.expected = expected
        self.problems = problems
        self.tries = tries

    def __str__(self) -> str:
        """Name the type and what did not fit."""
        return f"the answer is no valid {self.expected} after {self.tries} tries: {self.problems}"
