"""What is wrong with a request; nothing was sent."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class InvalidRequest(KaguraTasksError):
    """The request cannot be right for any model; nothing was sent."""


class PromptTooLarge(InvalidRequest):
    """Messages and parameters together are larger than `KAGURA_TASKS_MAX_PROMPT_BYTES`."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        """Take both sizes in bytes of the JSON of messages and parameters."""
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        """Say both sizes and the setting that moves the limit."""
        return (
            f"the prompt has {self.size_bytes:,} bytes and the limit is {self.limit_bytes:,}: "
            "shorten it, or raise KAGURA_TASKS_MAX_PROMPT_BYTES"
        )


class SecretInRequest(InvalidRequest):
    """A credential was put into a request, where it would travel through Redis."""

    def __init__(self, name: str) -> None:
        """Take the parameter's or header's name, never its value."""
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        """Say where keys belong."""
        return (
            f"{self.name} does not belong in a request: keys live with the workers. "
            "Set the provider's own variable (OPENAI_API_KEY, ...) in the workers' environment"
        )


class PromptError(InvalidRequest):
    """A prompt template cannot be rendered: a name it does not know, or more text than it may make."""


class ItemInvalid(InvalidRequest):
    """One item of a map cannot be right. No item was paid for."""

    def __init__(self, index: int, problem: str) -> None:
        """Take the item's place among all, from 0, and what is wrong with it."""
        super().__init__(index, problem)
        self.index = index
        self.problem = problem

    def __str__(self) -> str:
        """Say which one it is, and what is wrong."""
        return f"item {self.index}: {self.problem}"


class RowsInvalid(InvalidRequest):
    """Rows of a file cannot be sent. All rows were looked at, and none was sent."""

    def __init__(self, path: str, count: int, problems: str) -> None:
        """Take the file, how many rows are invalid, and why: a line for each of the first, without a row's text."""
        super().__init__(path, count, problems)
        self.path = path
        self.count = count
        self.log_lines = problems.splitlines()

    def __str__(self) -> str:
        """Name the file, the first problem, and the way round."""
        first = f" ({self.log_lines[0]})" if self.log_lines else ""
        return f"invalid rows in {self.path}: {self.count:,}{first}. None was sent: mend them, or use --skip-invalid"
