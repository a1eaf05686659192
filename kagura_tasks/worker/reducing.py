"""Many texts into one answer: in one prompt where the model takes it, else in levels of partial answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Final, Protocol

from kagura_tasks.errors import ContextTooLong, InvalidRequest, NothingToReduce, PromptTooLarge, RequestRefused
from kagura_tasks.parallel import parallel_map
from kagura_tasks.plans import ReducePlan
from kagura_tasks.schemas import Completion, CompletionRequest, Json
from kagura_tasks.worker.job import Delivery, Job
from kagura_tasks.worker.usages import with_all_behind

#: Tokens that prompt and answer may have together where nobody knows the model.
_UNKNOWN_WINDOW_TOKENS: Final = 8192

#: Tokens that are kept free for an answer whose length the request does not bound; of a small window, a quarter.
_ANSWER_TOKENS: Final = 4096

#: The part of a window that is filled: what counts tokens here is not always the model's own tokenizer.
_FILLED: Final = 0.9

#: Partial answers that one task waits for at a time.
_AT_ONCE: Final = 8

Ask = Callable[[Job], Awaitable[Completion]]


class Tokens(Protocol):
    """What a provider knows about tokens. See Provider."""

    def context_window(self, model: str) -> int | None:
        """How many tokens the model reads; None where that is not known."""
        ...

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        ...


class Reducer:
    """Makes one answer of many texts, wherever they come from."""

    def __init__(self, tokens: Tokens, ask: Ask) -> None:
        """Take what counts tokens, and what answers requests: remembered, shared with others, or called for."""
        self._tokens = tokens
        self._ask = ask

    async def run(
        self, plan: ReducePlan, parts: Sequence[str], failed: Sequence[Json], delivery: Delivery
    ) -> Completion:
        """The answer. Its usage and attempts are those of all calls behind it.

        Args:
            plan: What becomes of the parts.
            parts: The texts, in order.
            failed: What is told of those that failed: `{"type": ...}` each.
            delivery: The task that does it. A redelivered one asks the same partial questions under the same names.

        Raises:
            NothingToReduce: There is no part.
            ContextTooLong: A single part is too long for the model, or partial answers are.
            PromptError: The template fails on these values.
            RetryLater: One prompt was enough, and another try may help, but not soon.
            ProviderError: No further try is allowed, or none can help.
        """
        if not parts:
            raise NothingToReduce(len(failed), str(failed[0]["type"]) if failed else "")
        if plan.form != "parts":
            prompt = await asyncio.to_thread(plan.prompt, parts)
            return await self._ask(delivery.job(plan.asks(prompt)))
        return await _Reduction(self._tokens, self._ask, plan, failed, delivery).answer(parts)


class _Reduction:
    """One reduction on its way."""

    def __init__(self, tokens: Tokens, ask: Ask, plan: ReducePlan, failed: Sequence[Json], delivery: Delivery) -> None:
        self._tokens = tokens
        self._ask = ask
        self._plan = plan
        self._failed = failed
        self._delivery = delivery
        self._count = 0
        request = plan.asks("?")
        self._model = request.model
        window = plan.context_tokens or tokens.context_window(self._model) or _UNKNOWN_WINDOW_TOKENS
        self._room = room_for_prompt(window, request)
        self._partial: list[Completion] = []
        self._has_stalled = False

    async def answer(self, parts: Sequence[str]) -> Completion:
        self._count = len(parts) + len(self._failed)
        level = 0
        while (completion := await self._last(parts)) is None:
            fewer = await self._level(level, parts)
            if len(fewer) >= len(parts):
                self._note_stall()
            parts, level = fewer, level + 1
        return with_all_behind(completion, self._partial)

    async def _last(self, parts: Sequence[str]) -> Completion | None:
        """The answer to the one prompt that is left; None where it does not fit."""
        prompt = await self._prompt(parts, self._failed)
        if prompt is None:
            return None
        request = self._plan.asks(prompt)
        job = self._delivery.part(request, "last") if self._partial else self._delivery.job(request)
        return await self._ask_if_taken(job, parts)

    async def _level(self, level: int, parts: Sequence[str]) -> list[str]:
        """The answers of groups of the parts. A part that is alone waits for the next level, unless all of them are."""
        groups = await self._groups(parts)
        merges = any(len(group) > 1 for group in groups)

        async def reduced(numbered: tuple[int, Sequence[str]]) -> Sequence[str]:
            number, group = numbered
            return group if merges and len(group) == 1 else await self._reduced(group, f"{level}.{number}")

        return [text for texts in await parallel_map(reduced, enumerate(groups), _AT_ONCE) for text in texts]

    async def _groups(self, parts: Sequence[str]) -> list[Sequence[str]]:
        """Neighbours that fit into one prompt, by estimate. Raises ContextTooLong where a part alone does not."""
        weights = self._weights(parts, await self._tokens.count_tokens(self._model, parts))
        fixed, each = await self._overhead()
        room = self._room - fixed
        for part, weight in zip(parts, weights, strict=True):
            if weight + each > room and await self._prompt([part]) is None:
                raise self._too_long(weight)
        groups = packed([weight + each for weight in weights], room)
        # The prompt over all of them did not fit, whatever the estimate says.
        return [parts[group] for group in groups] if len(groups) > 1 else halves(parts)

    def _weights(self, parts: Sequence[str], tokens: Sequence[int]) -> list[int]:
        """The share of the room that each part takes (tokens): a prompt is bounded in bytes, too."""
        tokens_a_byte = self._room / self._plan.max_prompt_bytes
        sizes = (len(part.encode("utf-8", "replace")) for part in parts)
        return [max(count, int(size * tokens_a_byte) + 1) for count, size in zip(tokens, sizes, strict=True)]

    async def _overhead(self) -> tuple[int, int]:
        """The tokens of the template itself, and those that it adds to each part. Nothing where it wants real parts."""
        try:
            prompts = [await asyncio.to_thread(self._plan.prompt, ["x"] * some, (), self._count) for some in (1, 2)]
        except InvalidRequest:
            return 0, 0
        one, two = await self._tokens.count_tokens(self._model, prompts)
        each = max(0, two - one - 1)
        return max(0, one - 1 - each), each

    async def _reduced(self, group: Sequence[str], name: str) -> list[str]:
        """The group's answer, or those of its halves where it does not fit after all."""
        prompt = await self._prompt(group)
        if prompt is not None:
            job = self._delivery.part(self._plan.asks(prompt), name)
            if (completion := await self._ask_if_taken(job, group)) is not None:
                return [self._noted(completion)]
        elif len(group) == 1:
            raise self._too_long(*await self._tokens.count_tokens(self._model, group))
        first, second = halves(group)
        return [*await self._reduced(first, f"{name}.0"), *await self._reduced(second, f"{name}.1")]

    async def _ask_if_taken(self, job: Job, parts: Sequence[str]) -> Completion | None:
        """The answer; None where several parts are too long by the provider's own word."""
        try:
            return await self._ask(job)
        except ContextTooLong:
            if len(parts) == 1:
                raise
            return None

    async def _prompt(self, parts: Sequence[str], failed: Sequence[Json] = ()) -> str | None:
        """The prompt over these parts; None where it does not fit. Templates may take their time: not on the loop."""
        try:
            prompt = await asyncio.to_thread(self._plan.prompt, parts, failed, self._count)
        except PromptTooLarge:
            return None
        # No token is shorter than a byte.
        if len(prompt.encode("utf-8", "replace")) <= self._room:
            return prompt
        (tokens,) = await self._tokens.count_tokens(self._model, [prompt])
        return prompt if tokens <= self._room else None

    def _noted(self, completion: Completion) -> str:
        if not completion.text.strip():
            raise RequestRefused("a partial answer of the reduction is empty", self._model)
        self._partial.append(completion)
        return completion.text

    def _note_stall(self) -> None:
        """Once, long parts may become as many short ones. A second time, they would be paid for again and again."""
        if self._has_stalled:
            problem = "the partial answers are too long to be put together: ask for shorter ones"
            raise ContextTooLong(problem, self._model)
        self._has_stalled = True

    def _too_long(self, tokens: int) -> ContextTooLong:
        known = f"one part alone has about {tokens:,} tokens, and {max(self._room, 0):,} are free for a prompt"
        return ContextTooLong(f"{known}; if the model takes more, say so with context_tokens", self._model)


def room_for_prompt(window_tokens: int, request: CompletionRequest) -> int:
    """The tokens that a prompt may have, so that its answer fits as well."""
    asked = request.params.get("max_completion_tokens") or request.params.get("max_tokens")
    answer = asked if isinstance(asked, int) else min(_ANSWER_TOKENS, window_tokens // 4)
    return int(window_tokens * _FILLED) - answer


def packed(weights: Sequence[int], room: int) -> list[slice]:
    """Runs of neighbours, each as long as its weights fit into the room; one that is too heavy is alone."""
    starts: list[int] = []
    used = 0
    for number, weight in enumerate(weights):
        used += weight
        if not starts or used > room:
            starts.append(number)
            used = weight
    return [slice(*ends) for ends in zip(starts, [*starts[1:], len(weights)], strict=True)]


def halves(parts: Sequence[str]) -> list[Sequence[str]]:
    """The parts, cut where the text before and behind is about as long."""
    sizes = list(accumulate(len(part) for part in parts))
    middle = min(range(1, len(parts)), key=lambda cut: abs(2 * sizes[cut - 1] - sizes[-1]), default=1)
    return [parts[:middle], parts[middle:]] if len(parts) > 1 else [parts]
