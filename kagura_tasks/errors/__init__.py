"""Every error that kagura_tasks raises.

KaguraTasksError
├── ConfigurationError         a setting is wrong; nothing was sent
├── InvalidRequest             the request is wrong; nothing was sent
│   ├── PromptTooLarge
│   ├── SecretInRequest        keys live with the workers
│   ├── ItemInvalid            one item of a map is wrong; nothing was paid for
│   ├── PromptError            a prompt template that cannot be rendered
│   ├── QueryTooLong           for a router
│   └── RowsInvalid            rows of a file that cannot be sent
├── FileError                  one file has no document; the others of its folder have
│   ├── FileNotAllowed         outside of its root, or no regular file; not opened
│   ├── FileUnreadable         no permission, gone, or changed while it was read
│   ├── FileDamaged            not what its type promises
│   ├── FileEncrypted          it has a password
│   ├── FileTooLarge           above a limit of bytes, pages, text, ...
│   ├── ArchiveBomb            it would unpack without end
│   ├── FileEmpty              nothing in it that a model could read
│   ├── UnsupportedFile        nothing reads its type, or an extra is missing
│   ├── ParserTimeout          its parser was ended at its limit
│   ├── ParserDied             its parser crashed, or ran out of memory
│   └── PartRefused            the model's provider takes no such content
├── NoAgentFound               no agent of a router fits, and there is no fallback
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
├── BudgetExceeded             the day's budget of a tenant, or of all, has no room for the call
├── MapError                   a map as a whole; each item has an error of its own
│   ├── MapBudgetExceeded      its budget has no room for a further call; a BudgetExceeded
│   ├── MapExpired             there is no such map, or none any more
│   └── MapFailed              more items failed than `on_error` allows
├── OutputInvalid              the model's answer does not fit the type that was asked for
├── ToolError                  a tool raises it: its text is told to the model
├── ToolNotAllowed             the worker does not run this function
├── ToolRoundsExceeded         the model asked for tools in each round that it had
├── NothingToReduce            all that was to be reduced has failed
└── ProviderError              the model's side failed
    ├── TransientError         another try may help
    │   ├── RateLimited        the provider's limit; says how long to wait
    │   ├── ProviderTimeout
    │   └── ProviderUnavailable    no connection, or a 5xx
    └── PermanentError         another try gives the same answer
        ├── AuthenticationFailed   no key on the worker, or a refused one
        ├── UnknownModel
        ├── PriceUnknown       a budget cannot be kept with this model
        ├── RequestRefused     the provider or LiteLLM does not take this request
        │   └── ContextTooLong
        └── ContentRefused     the provider's safety filter

An error crosses the wire as its class's name and its `args`: every field is positional, and JSON.
"""

from __future__ import annotations

from kagura_tasks.errors.base import ConfigurationError, KaguraTasksError, RedisUnreachable
from kagura_tasks.errors.budgets import BudgetExceeded
from kagura_tasks.errors.files import (
    ArchiveBomb,
    FileDamaged,
    FileEmpty,
    FileEncrypted,
    FileError,
    FileNotAllowed,
    FileTooLarge,
    FileUnreadable,
    ParserDied,
    ParserTimeout,
    PartRefused,
    UnsupportedFile,
)
from kagura_tasks.errors.maps import (
    MapBudgetExceeded,
    MapError,
    MapExpired,
    MapFailed,
    NothingToReduce,
    OutputUnwritable,
)
from kagura_tasks.errors.providers import (
    AuthenticationFailed,
    ContentRefused,
    ContextTooLong,
    PermanentError,
    PriceUnknown,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    TransientError,
    UnknownModel,
)
from kagura_tasks.errors.requests import (
    InvalidRequest,
    ItemInvalid,
    PromptError,
    PromptTooLarge,
    RowsInvalid,
    SecretInRequest,
)
from kagura_tasks.errors.routing import NoAgentFound, QueryTooLong
from kagura_tasks.errors.streams import StreamError, StreamExpired, StreamGap, StreamLost, StreamRestarted
from kagura_tasks.errors.tasks import OutputInvalid, ResultTimeout, TaskCancelled, TaskFailed, TaskLost, TaskPoisoned
from kagura_tasks.errors.tools import ToolError, ToolNotAllowed, ToolRoundsExceeded

__all__ = [
    "ArchiveBomb",
    "AuthenticationFailed",
    "BudgetExceeded",
    "ConfigurationError",
    "ContentRefused",
    "ContextTooLong",
    "FileDamaged",
    "FileEmpty",
    "FileEncrypted",
    "FileError",
    "FileNotAllowed",
    "FileTooLarge",
    "FileUnreadable",
    "InvalidRequest",
    "ItemInvalid",
    "KaguraTasksError",
    "MapBudgetExceeded",
    "MapError",
    "MapExpired",
    "MapFailed",
    "NoAgentFound",
    "NothingToReduce",
    "OutputInvalid",
    "OutputUnwritable",
    "ParserDied",
    "ParserTimeout",
    "PartRefused",
    "PermanentError",
    "PriceUnknown",
    "PromptError",
    "PromptTooLarge",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QueryTooLong",
    "RateLimited",
    "RedisUnreachable",
    "RequestRefused",
    "ResultTimeout",
    "RowsInvalid",
    "SecretInRequest",
    "StreamError",
    "StreamExpired",
    "StreamGap",
    "StreamLost",
    "StreamRestarted",
    "TaskCancelled",
    "TaskFailed",
    "TaskLost",
    "TaskPoisoned",
    "ToolError",
    "ToolNotAllowed",
    "ToolRoundsExceeded",
    "TransientError",
    "UnknownModel",
    "UnsupportedFile",
    "rebuild",
]


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
