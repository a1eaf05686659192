"""One answer about one file, however many pieces it was asked about in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.files.asking import AskedFile
from kagura_tasks.parallel import parallel_map
from kagura_tasks.schemas import Completion, CompletionRequest
from kagura_tasks.worker.job import BeforeCall, Delivery, OverBudget
from kagura_tasks.worker.reducing import Ask, Reducer, Tokens
from kagura_tasks.worker.usages import with_all_behind

#: Pieces of one file that are asked about at a time.
_AT_ONCE: Final = 8


async def answer_about(
    asked: AskedFile, delivery: Delivery, ask: Ask, tokens: Tokens, before_call: BeforeCall | None = None
) -> Completion:
    """The answers to the pieces, one after the other; or what `combine` makes of them. Usage is that of all calls.

    A wait before a further try is sat out here. When a piece fails, those that run are waited for, since they are paid
    for, and no further one is started.

    Raises:
        OverBudget: There is no room for a call.
        KaguraTasksError: That of the first piece that failed.
    """
    failed: list[KaguraTasksError] = []
    staying = replace(delivery, may_leave=False)

    async def answered(numbered: tuple[int, CompletionRequest]) -> Completion | None:
        number, request = numbered
        if failed:
            return None
        job = delivery.part(request, f"piece.{number}") if len(asked.asks) > 1 else staying.job(request)
        try:
            return await ask(replace(job, before_call=before_call))
        except OverBudget:
            raise
        except KaguraTasksError as error:
            failed.append(error)
            return None

    answers = [answer for answer in await parallel_map(answered, enumerate(asked.asks), _AT_ONCE) if answer is not None]
    if failed:
        raise failed[0]
    if len(answers) == 1 or asked.combine is None:
        return _joined(answers)
    combined = await Reducer(tokens, ask).run(asked.combine, [answer.text for answer in answers], [], staying)
    return with_all_behind(combined, answers)


def _joined(answers: Sequence[Completion]) -> Completion:
    """All texts in order. An answer that was cut off shows, whichever it was."""
    reasons = [answer.finish_reason for answer in answers if answer.finish_reason != "stop"]
    update = {
        "text": "\n\n".join(answer.text for answer in answers),
        "finish_reason": reasons[0] if reasons else "stop",
    }
    return with_all_behind(answers[-1], answers[:-1]).model_copy(update=update)
