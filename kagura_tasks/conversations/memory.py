"""Conversations as their users see them: Redis or this process, one set of rules."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from kagura_tasks.conversations.local import LOCAL
from kagura_tasks.conversations.names import ConversationName
from kagura_tasks.conversations.store import Conversations, RedisConversations
from kagura_tasks.conversations.summaries import Ask, sum_up
from kagura_tasks.conversations.turns import Appended, History, NewTurn, Role, Turn
from kagura_tasks.errors import ConfigurationError, InvalidRequest
from kagura_tasks.schemas import ConversationBounds, problems_of
from kagura_tasks.settings import Settings, load_settings


class ConversationMemory:
    """The turns of conversations, by ids that the caller chooses. Safe to share between threads, loops and processes.

    A conversation that nobody has begun is empty, and so is another tenant's. What is appended at the same time stands
    in one order for all readers, and the turns of one writer stand in the order in which it wrote them.

    A call with the prefix `a` is the same for `async` code.

    Attributes:
        settings: What it goes by.
        tenant: Whose conversations these are.
        bounds: How much of each is kept.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        redis_url: str | None = None,
        tenant: str | None = None,
        max_turns: int = 100,
        max_tokens: int = 8_000,
        ttl_s: int = 7 * 86_400,
        summarise: str | None = None,
        store: Conversations | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: Default: the environment's. Conversations are where results are; with `execution="inline"`, in
                this process.
            redis_url: Another Redis, in place of the settings'.
            tenant: In place of the settings' tenant.
            max_turns: So many turns of a conversation are kept; of more, the oldest fall out.
            max_tokens: So many tokens are kept, by estimate (a token has 4 bytes, and a turn 4 more tokens); the newest
                turn is kept in any case.
            ttl_s: Seconds after its last turn for which a conversation is kept.
            summarise: A model that sums up what falls out; default: it is forgotten.
            store: A place of your own for conversations.

        Raises:
            ConfigurationError: A bound below 1, or a wrong setting.
        """
        given = {"result_url": redis_url, "tenant": tenant}
        self.settings = (settings or load_settings()).override(**given)
        self._store = store or _open_store(self.settings)
        self.tenant = self.settings.tenant
        try:
            self.bounds = ConversationBounds(
                max_turns=max_turns, max_tokens=max_tokens, ttl_s=ttl_s, summary_model=summarise
            )
        except ValidationError as error:
            raise ConfigurationError(f"conversations cannot be kept so: {problems_of(error)}") from None

    def append(self, conversation_id: str, role: Role, content: str, *, turn_id: str | None = None) -> int:
        """Append a turn, and let go what is too much then, in one atomic step. The turn's number.

        Args:
            conversation_id: 1 to 512 characters of your choice.
            role: "user", "assistant" or "system".
            content: The text.
            turn_id: A turn with this id is appended once, however often it is tried: the number is that of the first.
                It is known for the next 1,000 turns at least.

        Raises:
            InvalidRequest: An id, a role or a content that cannot be one.
            PromptTooLarge: The content is larger than `KAGURA_TASKS_MAX_PROMPT_BYTES`.
            RedisUnreachable: Redis did not answer. The turn may have been appended; with a `turn_id`, try again.
        """
        name, turns = self._new(conversation_id, [NewTurn(role, content, turn_id or "")])
        return self._store.append(name, turns, self.bounds).numbers[0]

    async def aappend(self, conversation_id: str, role: Role, content: str, *, turn_id: str | None = None) -> int:
        """The same, without blocking the event loop."""
        turn = NewTurn(role, content, turn_id or "")
        return (await self.aappend_all(conversation_id, [turn])).numbers[0]

    async def aappend_all(self, conversation_id: str, turns: Sequence[NewTurn]) -> Appended:
        """Append several turns next to each other, in one step. Raises what `append` raises."""
        return await self._store.aappend(*self._new(conversation_id, turns), self.bounds)

    def turns(self, conversation_id: str, last: int | None = None) -> list[Turn]:
        """The turns that are kept, oldest first.

        Args:
            conversation_id: See `append`.
            last: Only so many of the last; default: all.

        Raises:
            InvalidRequest: An id that cannot be one, or a negative number.
            RedisUnreachable: Redis did not answer.
        """
        return self._store.read(self._name(conversation_id), _checked(last)).turns

    async def aturns(self, conversation_id: str, last: int | None = None) -> list[Turn]:
        """The same, without blocking the event loop."""
        return (await self.ahistory(conversation_id, last)).turns

    def summary(self, conversation_id: str) -> str:
        """What fell out, summed up; "" where nothing was. Raises as `turns` does."""
        return self._store.read(self._name(conversation_id), 0).summary

    async def asummary(self, conversation_id: str) -> str:
        """The same, without blocking the event loop."""
        return (await self.ahistory(conversation_id, 0)).summary

    async def ahistory(self, conversation_id: str, last: int | None = None) -> History:
        """Summary and turns, of one moment. Raises as `turns` does."""
        return await self._store.aread(self._name(conversation_id), _checked(last))

    def clear(self, conversation_id: str) -> int:
        """Forget the conversation; how many turns there were. Raises as `turns` does."""
        return self._store.clear(self._name(conversation_id))

    async def aclear(self, conversation_id: str) -> int:
        """The same, without blocking the event loop."""
        return await self._store.aclear(self._name(conversation_id))

    async def asummarise(self, conversation_id: str, ask: Ask) -> bool:
        """Sum up what fell out, with the model of `summarise`; whether anything was.

        Workers do it after each answer of an agent. For turns that are appended elsewhere, call this now and then.

        Args:
            conversation_id: See `append`.
            ask: Answers the request: `LLMClient.acomplete`, say.

        Raises:
            RedisUnreachable: Redis did not answer.
            KaguraTasksError: What `ask` raises. What waited still waits.
        """
        model = self.bounds.summary_model
        return model is not None and await sum_up(self._store, self._name(conversation_id), model, ask)

    def _name(self, conversation_id: str) -> ConversationName:
        return ConversationName(self.tenant, conversation_id)

    def _new(self, conversation_id: str, turns: Sequence[NewTurn]) -> tuple[ConversationName, Sequence[NewTurn]]:
        for turn in turns:
            turn.check(self.settings.max_prompt_bytes)
        return self._name(conversation_id), turns


def _checked(last: int | None) -> int | None:
    if last is not None and (type(last) is not int or last < 0):
        raise InvalidRequest("last: how many turns, from 0 on")
    return last


def _open_store(settings: Settings) -> Conversations:
    if settings.execution == "inline":
        return LOCAL
    return RedisConversations(settings.results, settings.redis_timeout_s)
