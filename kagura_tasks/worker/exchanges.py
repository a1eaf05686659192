"""What stands around a call of the model: the conversation that it belongs to, and the tools that it asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from kagura_tasks.conversations.local import LOCAL
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import Conversations, RedisConversations
from kagura_tasks.conversations.summaries import sum_up
from kagura_tasks.conversations.turns import History, NewTurn
from kagura_tasks.errors import InvalidRequest, KaguraTasksError, ToolRoundsExceeded
from kagura_tasks.metrics.tally import Tally
from kagura_tasks.schemas import Completion, CompletionRequest, ConversationUse, Message, ToolUse
from kagura_tasks.settings import Settings
from kagura_tasks.tools.call import ToolContext
from kagura_tasks.tools.marking import Tool, allowed, marked_here
from kagura_tasks.worker.counting import Counting
from kagura_tasks.worker.exchange_records import NoRecords, Record, Records, RedisRecords, patiently
from kagura_tasks.worker.job import HandedBack, Job
from kagura_tasks.worker.tool_calls import ToolCall, ToolRunner
from kagura_tasks.worker.usages import with_all_behind

log = logging.getLogger(__name__)

#: Answers a job.
Ask = Callable[[Job], Awaitable[Completion]]

#: Counts what was done beside a task, by its message's delivery tag.
Count = Callable[[Tally, str], Awaitable[None]]

#: Calls in one round. A model that asks for more is told to ask again.
_MOST_CALLS: Final = 32

_ONE_BY_ONE: Final = f'{{"error": "not done: ask for at most {_MOST_CALLS} tools at a time"}}'


@dataclass(frozen=True)
class Exchanges:
    """Puts conversations in front of prompts, and runs tools."""

    conversations: Conversations
    records: Records
    find_tool: Callable[[str], Tool]
    runner: ToolRunner
    max_turn_bytes: int
    count: Count
    _summing_up: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @classmethod
    def of_worker(cls, settings: Settings) -> Exchanges:
        """Conversations and records in Redis; the tools of allowed modules."""
        conversations = RedisConversations(settings.results, settings.redis_timeout_s)
        records = RedisRecords(settings.results, settings.redis_timeout_s)
        find_tool = partial(allowed, modules=settings.modules_of_tools)
        return cls._made(settings, conversations, records, find_tool, Counting(settings).acount)

    @classmethod
    def of_process(cls, settings: Settings) -> Exchanges:
        """Everything in this process, whose own code says which tools there are."""
        return cls._made(settings, LOCAL, NoRecords(), marked_here, _uncounted)

    @classmethod
    def _made(
        cls,
        settings: Settings,
        conversations: Conversations,
        records: Records,
        find_tool: Callable[[str], Tool],
        count: Count,
    ) -> Exchanges:
        runner = ToolRunner(settings.tool_timeout_s, settings.tool_result_bytes)
        return cls(conversations, records, find_tool, runner, settings.max_prompt_bytes, count)

    async def in_conversation(self, job: Job, conversation: ConversationUse, ask: Ask, aside: Ask) -> Completion:
        """The answer to the job's prompt with what was said before in front of it. Both are remembered then, once.

        Args:
            job: What is asked for.
            conversation: Where it is said.
            ask: Answers the job.
            aside: Answers what is asked beside it: nobody watches.

        Raises:
            HandedBack: Redis stays away.
            KaguraTasksError: What `ask` raises. Nothing is remembered then.
        """
        name = ConversationName(job.request.tenant, conversation.id)
        record = await self.records.open(job)
        # What a redelivered task was told stays what it was told: its own turns may be there by now.
        history = record.found("history", list[Message])
        if history is None:
            history = _messages_of(await patiently(partial(self.conversations.aread, name, None)))
            await record.keep("history", history)
        completion = record.found("answer", Completion)
        if completion is None:
            completion = await ask(replace(job, request=_after(history, job.request)))
            await record.keep("answer", completion)
        await self.remember(job, conversation, completion, aside)
        return completion

    async def with_tools(self, job: Job, use: ToolUse, ask: Ask) -> Completion:
        """The answer, after all rounds of tools that it takes. Its usage and attempts are those of all rounds.

        Raises:
            ToolNotAllowed: One of the functions is not to be run here. Nothing was asked.
            ToolRoundsExceeded: The model does not come to an answer.
            HandedBack: Redis stays away.
            KaguraTasksError: What `ask` raises.
        """
        tools = await self._tools(use)
        record = await self.records.open(job)
        request, rounds = _offered(job.request, use), list[Completion]()
        next_job, is_known = job, True  # a round that is known, and all before it
        for number in range(1, use.max_rounds + 1):
            completion = record.found(f"{number}", Completion) if is_known else None
            if completion is None:
                completion = await ask(replace(next_job, request=request))
                # What was tried before, in this delivery or an earlier one, was this round.
                next_job, is_known = replace(job, tries=None, attempt=1), False
                await record.keep(f"{number}", completion)
            if not completion.tool_calls:
                return with_all_behind(completion, rounds)
            rounds.append(completion)
            if number < use.max_rounds:
                calls = [ToolCall.read(call, f"call_{at}") for at, call in enumerate(completion.tool_calls)]
                told = await self._told(tools, record, calls, job, number)
                request = _with_round(request, completion, calls, told)
        # A further try of the task would find these rounds, and fail as this one does.
        await record.forget()
        raise ToolRoundsExceeded(use.max_rounds)

    async def _tools(self, use: ToolUse) -> dict[str, Tool]:
        """Each tool by the name that the model knows. Importing a module takes its time: not on the loop."""
        places = [spec.place for spec in use.tools]
        found = await asyncio.to_thread(lambda: [self.find_tool(place) for place in places])
        return {tool.name: tool for tool in found}

    async def _told(
        self, tools: dict[str, Tool], record: Record, calls: Sequence[ToolCall], job: Job, number: int
    ) -> list[str]:
        """What the model is told of each call of a round, in their order. They are made side by side."""

        async def told(call: ToolCall, place: str) -> str:
            step = f"{place}.{call.digest}"
            found = record.found(step, str)  # in an earlier delivery of the task
            if found is None:
                context = ToolContext(f"{job.task_id}.{place}", job.request.tenant)
                found = await self.runner.run(tools, call, context)
                await record.keep(step, found)
            return found

        async with asyncio.TaskGroup() as group:
            now = enumerate(calls[:_MOST_CALLS])
            running = [group.create_task(told(call, f"{number}.{at}")) for at, call in now]
        return [task.result() for task in running] + [_ONE_BY_ONE] * (len(calls) - len(running))

    async def remember(self, job: Job, conversation: ConversationUse, completion: Completion, aside: Ask) -> None:
        """Append prompt and answer, once for each task. The answer is paid for: it is handed out in any case."""
        name = ConversationName(job.request.tenant, conversation.id)
        prompt = _text_of(job.request)
        if not prompt or not completion.text.strip():
            return
        turns = [
            NewTurn("user", prompt, f"{job.task_id}.user"),
            NewTurn("assistant", completion.text, f"{job.task_id}.assistant"),
        ]
        try:
            for turn in turns:
                turn.check(self.max_turn_bytes)
            appended = await patiently(partial(self.conversations.aappend, name, turns, conversation.bounds))
        except (InvalidRequest, HandedBack) as error:
            log.warning("an exchange is not remembered in its conversation (%s)", type(error).__name__)
            return
        if appended.waiting and conversation.bounds.summary_model is not None:
            self._sum_up_later(name, job, conversation.bounds.summary_model, aside)

    def _sum_up_later(self, name: ConversationName, job: Job, model: str, aside: Ask) -> None:
        """Nobody waits for it. Where it fails, or the process ends, the next exchange of the conversation tries it."""

        async def asked(request: CompletionRequest) -> Completion:
            tally = Tally(job.tally.task, outcome=None)
            try:
                return await aside(Job(request, f"{job.task_id}.summary", may_leave=False, tally=tally))
            finally:
                # The task may have ended, and its own tally with it.
                await self.count(tally, job.delivery_tag or job.task_id)

        task = asyncio.create_task(_summed_up(self.conversations, name, model, asked), name="kagura-summary")
        self._summing_up.add(task)
        task.add_done_callback(self._summing_up.discard)


async def _uncounted(_tally: Tally, _delivery_tag: str) -> None:
    """What a process does for itself is in no fleet's numbers."""


async def _summed_up(
    store: Conversations, name: ConversationName, model: str, ask: Callable[[CompletionRequest], Awaitable[Completion]]
) -> None:
    try:
        _ = await sum_up(store, name, model, ask)
    except KaguraTasksError as error:
        log.warning("a conversation could not be summed up (%s)", type(error).__name__)


def _messages_of(history: History) -> list[Message]:
    """What is put in front of a prompt. It begins with the user: some providers take nothing else."""
    turns = history.turns
    while turns and turns[0].role == "assistant":
        turns = turns[1:]
    summary = f"Summary of the conversation so far:\n{history.summary}"
    head = [Message(role="system", content=summary)] if history.summary else []
    return [*head, *(turn.to_message() for turn in turns)]


def _after(history: Sequence[Message], request: CompletionRequest) -> CompletionRequest:
    """The request as one of its own, with the history behind its instructions."""
    messages = request.messages
    said = next((at for at, message in enumerate(messages) if message.role not in ("system", "developer")), 0)
    together = (*messages[:said], *history, *messages[said:])
    return request.model_copy(update={"messages": together, "conversation": None})


def _offered(request: CompletionRequest, use: ToolUse) -> CompletionRequest:
    """A plain request that offers the tools."""
    tools: list[Any] = [{"type": "function", "function": spec.function} for spec in use.tools]
    return request.model_copy(update={"params": {**request.params, "tools": tools}, "tools": None})


def _with_round(
    request: CompletionRequest, completion: Completion, calls: Sequence[ToolCall], told: Sequence[str]
) -> CompletionRequest:
    """The request for the next round: what the model asked for, and what came of it."""
    spoken = {"content": completion.text} if completion.text else {}
    asked = {"role": "assistant", **spoken, "tool_calls": [call.to_json() for call in calls]}
    answered = [call.answered(text) for call, text in zip(calls, told, strict=True)]
    return request.model_copy(update={"messages": (*request.messages, Message.model_validate(asked), *answered)})


def _text_of(request: CompletionRequest) -> str:
    """What the user says in this request."""
    said = [message.content for message in request.messages if message.role == "user"]
    return "\n\n".join(text for text in said if isinstance(text, str))
