"""Other task queues whose jobs call a model: they await `litellm.acompletion`, as their users' do.

Without SAQ: it hands jobs to its worker while that is paused, and then sweeps them away as stuck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

from benchmarks.contenders import Caller, Contender, version_of
from benchmarks.harness import BenchmarkError, ProgramSpec, Stage
from benchmarks.queues import peers
from benchmarks.queues.clients import AsyncQueueClient

#: The job's name, everywhere.
JOB: Final = "complete"

#: What the scripted provider says.
_ANSWER: Final = b"This is a scripted answer."

_Open = Callable[[Stage, int], AsyncQueueClient]


class QueueCaller:
    """A peer's."""

    def __init__(self, client: AsyncQueueClient, label: str) -> None:
        """Take the client, which nobody else uses."""
        self._client = client
        self._label = label

    def send(self, prompts: Sequence[str]) -> list[str]:
        """See Caller."""
        return self._client.enqueue_each([(JOB, prompt) for prompt in prompts])

    def are_done(self, sent: Sequence[str]) -> bool:
        """See Caller. A job that failed has a result, too."""
        if not (self._client.is_acknowledged() and self._client.are_stored(sent)):
            return False
        results = cast("list[bytes]", self._client.redis.mget(sent))
        failed = sum(_ANSWER not in result for result in results)
        if failed:
            raise BenchmarkError(f"{failed} of {len(sent)} jobs of {self._label} have no answer")
        return True


def llm_peers(concurrency: int, first_database: int) -> list[Contender]:
    """All of them, so many jobs at a time, on databases of their own."""
    taskiq = ("worker", "benchmarks.queues.apps.taskiq_llm:{}", "--workers", "1", "--log-level", "WARNING")
    at_most = ("--max-async-tasks", str(concurrency))
    programs: list[tuple[str, str, tuple[str, ...], _Open, tuple[str, ...]]] = [
        ("arq", "benchmarks.queues.apps.arq_llm", (), peers.ArqClient, ("arq",)),
        *(
            (f"taskiq, {name}", "taskiq", (*(part.format(broker) for part in taskiq), *at_most), client, _TASKIQ)
            for name, broker, client in _TASKIQ_BROKERS
        ),
    ]
    return [
        _peer(f"{name} c{concurrency}", ProgramSpec(module, arguments, concurrency, database), client, packages)
        for database, (name, module, arguments, client, packages) in enumerate(programs, first_database)
    ]


_TASKIQ: Final = ("taskiq", "taskiq-redis")
_TASKIQ_BROKERS: Final[list[tuple[str, str, _Open]]] = [
    ("stream", "stream", peers.TaskiqStreamClient),
    ("list", "one_list", peers.TaskiqClient),
]


def _peer(label: str, worker: ProgramSpec, open_client: _Open, packages: tuple[str, ...]) -> Contender:
    def open_caller(stage: Stage) -> Caller:
        return QueueCaller(open_client(stage, worker.database), label)

    return Contender(label, worker, open_caller, packages=packages)


def releases(contenders: Sequence[Contender]) -> str:
    """The note that says which releases ran, and which did not."""
    packages = dict.fromkeys(package for contender in contenders for package in contender.packages)
    found = {package: version_of(package) for package in packages}
    ran = ", ".join(f"{package} {release}" for package, release in found.items() if release)
    left_out = ", ".join(package for package, release in found.items() if not release)
    return " ".join(filter(None, [ran and f"The others: {ran}.", left_out and f"Not installed: {left_out}."]))
