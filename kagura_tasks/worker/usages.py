"""What an answer used that took several calls."""

from __future__ import annotations

from collections.abc import Sequence

from kagura_tasks.schemas import Completion, Usage


def with_all_behind(last: Completion, partial: Sequence[Completion]) -> Completion:
    """The last answer, with what all of them used. It cost nothing only if none of them did."""
    every = [*partial, last]
    costs = [one.usage.cost_usd for one in every]
    usage = Usage(
        prompt_tokens=sum(one.usage.prompt_tokens for one in every),
        completion_tokens=sum(one.usage.completion_tokens for one in every),
        total_tokens=sum(one.usage.total_tokens for one in every),
        cached_prompt_tokens=sum(one.usage.cached_prompt_tokens for one in every),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )
    attempts, cached = sum(one.attempts for one in every), all(one.cached for one in every)
    return last.model_copy(update={"usage": usage, "attempts": attempts, "cached": cached})
