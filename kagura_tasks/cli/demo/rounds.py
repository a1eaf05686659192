"""What the demo measures: rounds of prompts, and the answers that came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kagura_tasks.cli.demo.model import Model
from kagura_tasks.cli.demo.prompts import Ask
from kagura_tasks.client import LLMClient
from kagura_tasks.schemas import Completion


@dataclass(frozen=True)
class Round:
    """Some prompts that were sent at once.

    Attributes:
        name: What people call it.
        asks: The prompts.
        answers: Their answers, in the same order.
        seconds: From the first prompt sent to the last answer.
    """

    name: str
    asks: Sequence[Ask]
    answers: Sequence[Completion]
    seconds: float

    @property
    def hits(self) -> int:
        """Answers that cost nothing."""
        return sum(answer.cached for answer in self.answers)

    @property
    def calls(self) -> int:
        """Calls of the model, further tries after a failure included."""
        return sum(answer.attempts for answer in self.answers if not answer.cached)

    @property
    def tokens(self) -> int:
        """Tokens that the model read and wrote for them."""
        return sum(answer.usage.total_tokens for answer in self.answers if not answer.cached)

    @property
    def tokens_written(self) -> int:
        """Those that it wrote."""
        return sum(answer.usage.completion_tokens for answer in self.answers if not answer.cached)

    @property
    def tokens_per_s(self) -> float:
        """Tokens that all answers of the model got longer by, each second."""
        return self.tokens_written / self.seconds

    def numbers(self) -> dict[str, object]:
        """The round's line in the table."""
        return {
            "name": self.name,
            "prompts": len(self.answers),
            "calls": self.calls,
            "hits": self.hits,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "seconds": round(self.seconds, 4),
        }


def send(client: LLMClient, model: Model, name: str, asks: Sequence[Ask], on_answer: Callable[[], None]) -> Round:
    """Send all the prompts, then wait for all the answers."""
    started = time.monotonic()
    results = [client.submit(ask.prompt, model=model.name, **model.params) for ask in asks]
    answers: list[Completion] = []
    for result in results:
        answers.append(result.get())
        on_answer()
    return Round(name, asks, answers, time.monotonic() - started)


def together(name: str, rounds: Sequence[Round]) -> Round:
    """All rounds as one."""
    asks = [ask for one in rounds for ask in one.asks]
    answers = [answer for one in rounds for answer in one.answers]
    return Round(name, asks, answers, sum(one.seconds for one in rounds))
