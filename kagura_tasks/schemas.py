"""What crosses the wire: frozen, typed, JSON. Units are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError
from pydantic_core import PydanticSerializationError

#: A JSON object.
Json = dict[str, JsonValue]

#: Names that become part of a Redis key: nothing that a pattern or a separator could mistake.
TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
TagName = Annotated[str, StringConstraints(pattern=r"^[\w.@/+-]{1,64}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[\w.@/:+-]{1,200}$")]


class Priority(IntEnum):
    """Who is served first. On Redis the smallest number is; these are the steps that the queues know."""

    INTERACTIVE = 0
    NORMAL = 3
    LOW = 6
    BATCH = 9


class Wire(BaseModel):
    """The base of all that travels: immutable, closed, and silent about its values when it does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def to_json_text(self) -> str:
        """It as JSON, without what is as it is by default."""
        try:
            return self.model_dump_json(exclude_defaults=True)
        except PydanticSerializationError as error:
            # pydantic takes a Ctrl-C that comes meanwhile for an error of what it writes (2.14).
            if str(error).rstrip(": ").endswith(KeyboardInterrupt.__name__):
                raise KeyboardInterrupt from None
            raise


def is_unicode(text: str) -> bool:
    """The text can be written down: it holds no half of a character."""
    try:
        _ = text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Message(BaseModel):
    """One chat turn, in OpenAI's form. Fields that only some providers know (`cache_control`, ...) travel along.

    Attributes:
        role: Who speaks.
        content: Text, a list of content parts, or nothing where the assistant calls a tool.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Json] | None = None

    def to_json(self) -> Json:
        """The turn as a provider takes it: fields that were not given are left out."""
        if isinstance(self.content, str) and not self.model_extra:
            # Nearly every turn, and pydantic's dump takes longer than all else that makes a key of it.
            return {"role": self.role, "content": self.content}
        return self.model_dump(mode="json", exclude_unset=True)


class ConversationBounds(Wire):
    """How much of a conversation is kept, and what becomes of the rest.

    Attributes:
        max_turns: So many turns at most.
        max_tokens: So many tokens at most, by estimate; but the newest turn is always kept.
        ttl_s: Seconds after its last turn for which a conversation is kept.
        summary_model: Who sums up what falls out; None: nobody, it is gone.
    """

    max_turns: int = Field(default=100, gt=0, le=10_000)
    max_tokens: int = Field(default=8_000, gt=0)
    ttl_s: int = Field(default=7 * 86_400, gt=0)
    summary_model: ModelName | None = None


class ConversationUse(Wire):
    """The conversation that a prompt belongs to: its turns stand before it, and it and its answer are appended.

    Attributes:
        id: The caller's name for it.
        bounds: How much of it is kept.
    """

    id: str = Field(min_length=1, max_length=512)
    bounds: ConversationBounds = ConversationBounds()


class ToolSpec(Wire):
    """A tool that a worker runs.

    Attributes:
        place: Where the function is: "module:name".
        function: What the model is told of it, in OpenAI's form: name, description, parameters.
    """

    place: str = Field(pattern=r"^[\w.]+:[\w.]+$", max_length=500)
    function: Json


class ToolUse(Wire):
    """The tools that a model may ask for.

    Attributes:
        tools: Each with a name of its own.
        max_rounds: Calls of the model, the one that answers among them.
        are_pure: They do nothing but answer, and always the same: what is made of them may be remembered.
    """

    tools: tuple[ToolSpec, ...] = Field(min_length=1, max_length=128)
    max_rounds: int = Field(default=8, ge=1, le=100)
    are_pure: bool = False


class CompletionRequest(Wire):
    """What a caller asks for.

    Attributes:
        model: LiteLLM's name, with the provider in front: "openai/gpt-4o-mini".
        messages: Chat turns, oldest first.
        params: What else LiteLLM takes and the answer depends on: temperature, tools, response_format, ...
        tenant: Whose data this is. It is part of every key; nothing is shared between tenants.
        use_cache: Look for a remembered answer, share a running call, and remember the answer.
        cache_ttl_s: Seconds for which the answer is remembered; None is the workers' setting.
        tags: Names under which the remembered answer can be invalidated.
        timeout_s: Seconds for one call of the provider; time in the queue is not counted. None is the workers' setting.
        priority: See Priority.
        fallbacks: Models that are asked, in order, where the model fails.
        tools: Functions that the worker runs for the model.
        conversation: What was said before is put in front of the messages.
    """

    model: ModelName
    messages: tuple[Message, ...] = Field(min_length=1)
    params: Json = Field(default_factory=dict)
    tenant: TenantName = "default"
    use_cache: bool = True
    cache_ttl_s: int | None = Field(default=None, gt=0)
    tags: tuple[TagName, ...] = Field(default=(), max_length=16)
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    priority: Priority = Priority.NORMAL
    fallbacks: tuple[ModelName, ...] = Field(default=(), max_length=8)
    tools: ToolUse | None = None
    conversation: ConversationUse | None = None

    @property
    def is_cacheable(self) -> bool:
        """What it asks for is all in it: an equal request deserves the same answer."""
        return self.use_cache and self.conversation is None and (self.tools is None or self.tools.are_pure)


def _is_none(value: object) -> bool:
    return value is None


def _is_zero(value: int) -> bool:
    return value == 0


class Usage(Wire):
    """What a call used.

    Attributes:
        prompt_tokens: Of the prompt.
        completion_tokens: Of the answer.
        total_tokens: Of both, as the provider adds them up.
        cost_usd: None where LiteLLM's price map does not know the model.
        cached_prompt_tokens: Those of the prompt that the provider had in a cache of its own, and gave for less.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost_usd: float | None = None
    cached_prompt_tokens: int = Field(default=0, ge=0, exclude_if=_is_zero)


class Completion(Wire):
    """A model's answer.

    Attributes:
        text: The answer; empty where the model only calls tools.
        model: The LiteLLM name that was asked for.
        finish_reason: "stop", "tool_calls", "length", "content_filter", or "" where the provider said nothing.
        usage: Tokens and price of the provider's call behind this answer, also where that call was another's.
        cached: This answer cost nothing: it was remembered, or shared with a call that was running.
        attempts: Provider calls that were started for it, counted from 1; 0 for a remembered one.
        tool_calls: The tools that the model wants called, in OpenAI's form.
        decision: Of a routed query: which agent answered, and why; a Decision as JSON. Never remembered.
        parsed: The answer as the type that an agent declares; set by the caller's side, never sent.
    """

    text: str
    model: str
    finish_reason: str
    usage: Usage = Usage()
    cached: bool = False
    attempts: int = Field(default=1, ge=0)
    tool_calls: tuple[Json, ...] = ()
    decision: Json | None = Field(default=None, exclude_if=_is_none)
    parsed: object = Field(default=None, exclude=True)

    @property
    def is_complete(self) -> bool:
        """The model said all that it had to say: only such an answer is worth remembering."""
        return self.finish_reason in ("stop", "tool_calls") and bool(self.text.strip() or self.tool_calls)

    def after(self, attempts: int) -> Completion:
        """The same answer, for which so many calls were started."""
        return self if attempts == self.attempts else self.model_copy(update={"attempts": attempts})

    def as_cached(self) -> Completion:
        """The same answer, for somebody who did not pay for it."""
        return self.model_copy(update={"cached": True, "attempts": 0})


def completion_from_wire(payload: Mapping[str, object]) -> Completion:
    """A completion out of a task's result. Raises pydantic's ValidationError on anything else."""
    return Completion.model_validate(payload)


def problems_of(error: ValidationError) -> str:
    """Where something does not fit, and what would; never the value itself."""
    details = error.errors()
    # pydantic says of a list with a wrong item that it is too short as well.
    details = [detail for detail in details if detail["type"] != "too_short" or len(details) == 1]
    return "; ".join(f"{'.'.join(map(str, detail['loc'])) or 'value'}: {detail['msg']}" for detail in details)
