"""Every error that kagura_tasks raises.

KaguraTasksError
├── ConfigurationError         a setting is wrong; nothing was sent
├── InvalidRequest             the request is wrong; nothing was sent
│   ├── PromptTooLarge
│   ├── SecretInRequest        keys live with the workers
│   ├── PromptError            a prompt template that cannot be rendered
│   └── RowsInvalid            rows of a file that cannot be sent
├── OutputUnwritable           a file of answers cannot be written: the disk is full, ...
├── RedisUnreachable           Redis did not answer
├── ResultTimeout              nobody answered in time; the task may still be running
├── TaskCancelled
├── TaskLost                   Redis forgot the task: it has to be sent again
├── TaskFailed                 the worker failed in a way that has no name here
│   └── TaskPoisoned           it killed its worker again and again; it is among the dead letters
├── StreamError                reading a stream; the task itself may be well
│   ├── StreamExpired          there is no such stream, or none any more
│   ├── StreamGap              the log was trimmed under a reader: text is missing
│   ├── StreamLost             nobody writes it any more
│   └── StreamRestarted        a new attempt began after text was handed out
├── MapError                   a map as a whole; each item has an error of its own
│   ├── MapExpired             there is no such map, or none any more
│   └── MapFailed              more items failed than `on_error` allows
├── OutputInvalid              the model's answer does not fit the type that was asked for
└── ProviderError              the model's side failed
    ├── TransientError         another try may help
    │   ├── RateLimited        the provider's limit; says how long to wait
    │   ├── ProviderTimeout
    │   └── ProviderUnavailable    no connection, or a 5xx
    └── PermanentError         another try gives the same answer
        ├── AuthenticationFailed   no key on the worker, or a refused one
        ├── UnknownModel
        ├── RequestRefused     the provider or LiteLLM does not take this request
        │   └── ContextTooLong
        └── ContentRefused     the provider's safety filter

An error crosses the wire as its class's name and its `args`: every field is positional, and JSON.
"""

from __future__ import annotations

from typing import ClassVar


class KaguraTasksError(Exception):
    """The root: catch it to catch everything that this package raises on purpose."""


class ConfigurationError(KaguraTasksError):
    """A setting is wrong; nothing was sent. The message names the setting and what is allowed."""


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


class OutputUnwritable(KaguraTasksError):
    """A file of answers cannot be written. What is in it stays, and the map is kept. The message says why."""


class RedisUnreachable(KaguraTasksError):
    """Redis did not answer in time. The message names the address without its password."""

    def __init__(self, address: str, reason: str = "no answer") -> None:
        """Take the masked address and the reason in a few words."""
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        """Name the address and the setting behind it."""
        return f"cannot reach Redis at {self.address} ({self.reason}): is it running, is KAGURA_TASKS_REDIS_URL right?"


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


class MapError(KaguraTasksError):
    """Something about a map as a whole. What befell an item is that item's own error."""


class MapExpired(MapError):
    """There is no such map: its time is over, Redis lost it, or there never was one."""

    def __init__(self, map_id: str) -> None:
        """Take the map's id."""
        super().__init__(map_id)
        self.map_id = map_id

    def __str__(self) -> str:
        """Say which setting keeps maps for longer."""
        return (
            f"there is no map {self.map_id}: is its id, and its tenant, right? KAGURA_TASKS_MAP_TTL_S says how long "
            "one is kept. What was answered may still be in the cache: send it again"
        )


class MapFailed(MapError):
    """More items failed than `on_error` allows: no further one was started. What was answered is kept."""

    def __init__(self, map_id: str, failed: int, total: int, first: str = "") -> None:
        """Take the map's id, how many of its items failed, how many it has, and the class of the first error."""
        super().__init__(map_id, failed, total, first)
        self.map_id = map_id
        self.failed = failed
        self.total = total
        self.first = first

    def __str__(self) -> str:
        """Say how far it came, and how to go on."""
        first = f", the first with {self.first}" if self.first else ""
        return (
            f"{self.failed} of the {self.total} items of map {self.map_id} failed{first}: more than `on_error` allows. "
            "What was answered is kept; `resume_map` goes on"
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


class ProviderError(KaguraTasksError):
    """The model's side failed.

    Attributes:
        message: What happened, in words that hold neither prompt nor key.
        model: The LiteLLM name that was asked for.
        status: The provider's HTTP status, or 0 where there was none.
    """

    hint: ClassVar[str] = ""

    def __init__(self, message: str, model: str = "", status: int = 0) -> None:
        """Take what happened, the model's name, and the HTTP status (0: there was none)."""
        super().__init__(message, model, status)
        self.message = message
        self.model = model
        self.status = status

    def __str__(self) -> str:
        """Say model, status and what happened, then how to mend it."""
        where = f"{self.model}: " if self.model else ""
        status = f" (HTTP {self.status})" if self.status else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{where}{self.message}{status}{hint}"


class TransientError(ProviderError):
    """Another try may help.

    Attributes:
        retry_after_s: Seconds that the provider asked to wait; 0 where it did not say.
    """

    def __init__(self, message: str, model: str = "", status: int = 0, retry_after_s: float = 0.0) -> None:
        """Take a ProviderError's fields and the seconds that the provider asked to wait."""
        super().__init__(message, model, status)
        self.args = (message, model, status, retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimited(TransientError):
    """The provider takes no more requests or tokens for now."""


class ProviderTimeout(TransientError):
    """The provider did not answer within `timeout_s`."""


class ProviderUnavailable(TransientError):
    """No connection to the provider, a cut one, or a 5xx."""


class PermanentError(ProviderError):
    """Another try gives the same answer."""


class AuthenticationFailed(PermanentError):
    """The worker has no key for this provider, or the provider refused it."""


class UnknownModel(PermanentError):
    """Neither LiteLLM nor the provider knows the model."""

    hint = "Use LiteLLM's names, with the provider in front: openai/gpt-4o-mini"


class RequestRefused(PermanentError):
    """The provider, or LiteLLM on its behalf, does not take this request."""


class ContextTooLong(RequestRefused):
    """Prompt and answer do not fit the model's context window."""

    hint = "Shorten the prompt, lower max_tokens, or use a model with a larger window"


class ContentRefused(PermanentError):
    """The provider's safety filter refused the prompt."""


def rebuild(kind: str, args: list[object]) -> KaguraTasksError:
    """The error that crossed the wire as its class's name and its args.

    Only classes of this module are ever built, so what is found in Redis cannot choose what runs.
    """
    cls = globals().get(kind)
    if not (isinstance(cls, type) and issubclass(cls, KaguraTasksError)):
        return TaskFailed(kind)
    try:
        error = cls(*args)
        _ = str(error)  # fields of other types than ours show here
        return error
    except (TypeError, ValueError):
        return TaskFailed(kind, "the error came with fields that this version does not know")
