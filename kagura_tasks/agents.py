"""Agents: a function's docstring is the prompt, its return type is the answer's form."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import update_wrapper
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from celery.canvas import Signature
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from kagura_tasks import signatures
from kagura_tasks.client import LLMClient
from kagura_tasks.conversations.memory import ConversationMemory
from kagura_tasks.equipment import Equipment, equipment_of
from kagura_tasks.errors import ConfigurationError, OutputInvalid, PromptError
from kagura_tasks.functions import LLMConfig, default_client
from kagura_tasks.plans import ReducePlan
from kagura_tasks.prompts import template_of
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, CompletionRequest, Json, Message, problems_of
from kagura_tasks.sources import AnswerSource
from kagura_tasks.streaming.events import Event
from kagura_tasks.streams import LLMStream, TextStream

P = ParamSpec("P")
R = TypeVar("R")

#: How often a model is told what was wrong with its answer.
_FURTHER_ASKS: Final = 2


class BaseAgent(Generic[P]):
    """A prompt that is sent like the function it was declared as is called."""

    def __init__(
        self,
        function: Callable[P, object],
        client: LLMClient | None,
        options: dict[str, Any],
        output: type[BaseModel] | None,
        equipment: Equipment,
    ) -> None:
        """Take the declaration, what the answer must fit, and what the agent has beside its prompt.

        Raises PromptError where there is no prompt in it.
        """
        self._signature = inspect.signature(function)
        self._function = function
        self._template = template_of(function)
        self._output = output
        self._client = client
        self._options = options
        self._equipment = equipment
        _ = update_wrapper(cast("Callable[P, object]", self), function)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> LLMResult:
        """Enqueue. The completion's `parsed` is an instance of the declared model."""
        request = self.request(*args, **kwargs)
        return self.checked(request, self.client.submit(request))

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> LLMStream:
        """Enqueue, and read the answer's text while it is written. See LLMClient.stream."""
        return self.client.stream(self.request(*args, **kwargs))

    def s(self, *args: Any, **kwargs: Any) -> Signature[dict[str, object]]:
        """A Celery signature, for canvas of one's own. Its result is a Completion as JSON.

        With all arguments that the function needs, it does not look at what came before. With one missing, it is a
        partial, as Celery's are: what came before is put in front of the positional arguments, and a worker renders
        the prompt. A parameter declared as `str` gets the text, one declared as a list the list of texts; any other the
        text, or what is in it where that is a JSON object or array.

        Raises:
            PromptError: The prompt cannot be rendered; of a partial, an argument is not JSON.
            TypeError: The arguments are not the function's, or more than one is missing.
        """
        own, conversation_id = self._equipment.split(kwargs)
        if _binds(self._signature, args, own):
            return signatures.complete(self.client.app, self.request(*args, **kwargs))
        return signatures.planned(self.client.app, self._plan(args, own, conversation_id))

    def request(self, *args: P.args, **kwargs: P.kwargs) -> CompletionRequest:
        """What would be sent for these arguments. Raises PromptError where the prompt cannot be rendered."""
        own, conversation_id = self._equipment.split(kwargs)
        bound = self._signature.bind(*args, **own)
        bound.apply_defaults()
        prompt = self._template.render(bound.arguments, self.client.settings.max_prompt_bytes)
        return self._request(prompt, conversation_id)

    @property
    def has_memory(self) -> bool:
        """Each call belongs to a conversation."""
        return self._equipment.memory is not None

    def plan(self, conversation_id: str | None = None) -> ReducePlan:
        """How a worker answers for this agent, once it has a text for the first parameter. Raises as `s` does."""
        return self._plan((), {}, conversation_id).model_copy(update={"form": "text"})

    def checked(self, request: CompletionRequest, result: LLMResult) -> LLMResult:
        """The result of that request, whose completion fits the declared model; `parsed` is the instance."""
        if self._output is None:
            return result
        return LLMResult(result.id, CheckedAnswer(result.source, self._output, request, self.client))

    def _request(self, prompt: str, conversation_id: str | None) -> CompletionRequest:
        options = dict(self._options)
        if self._output is not None:
            options["response_format"] = _response_format(self._output)
        return self._equipment.added_to(self.client.request(prompt, **options), conversation_id, self.client)

    def _plan(self, args: tuple[Any, ...], kwargs: dict[str, Any], conversation_id: str | None) -> ReducePlan:
        """The plan where one argument is missing."""
        open_names = [name for name in _positional(self._signature) if name not in kwargs]
        filled = dict(zip(open_names, (None, *args), strict=False))
        if not open_names or len(args) >= len(open_names):
            _ = self._signature.bind(*args, **kwargs)  # raises what is wrong with them
        bound = self._signature.bind(**filled, **kwargs)
        bound.apply_defaults()
        takes = open_names[0]
        given = {name: _json_of(name, value) for name, value in bound.arguments.items() if name != takes}
        return signatures.plan_of(
            self._request("?", conversation_id),
            template=self._template.source,
            takes=takes,
            form=_form_of(get_type_hints(self._function).get(takes)),
            given=given,
            max_prompt_bytes=self.client.settings.max_prompt_bytes,
        )

    @property
    def client(self) -> LLMClient:
        """Who sends: the agent's own client, or the default one."""
        return self._client or default_client()


class Agent(BaseAgent[P], Generic[P, R]):
    """A prompt that is called like the function it was declared as. Made by `agent`."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Enqueue and wait: the answer's text, or an instance of the declared model.

        Raises:
            OutputInvalid: The answer did not fit the declared model, also when it was asked again.
            KaguraTasksError: See LLMClient.submit and LLMResult.get.
        """
        request = self.request(*args, **kwargs)
        result = self.checked(request, await self.client.asubmit(request))
        completion = await result
        return cast(R, completion.text if self._output is None else completion.parsed)


class StreamingAgent(BaseAgent[P]):
    """An agent whose call gives the text while it is written. Made by `agent(stream=True)`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> TextStream:
        """Enqueue, and read: `async for text in ...`. Raises what LLMClient.submit and TextStream raise."""
        return TextStream(self.stream(*args, **kwargs))


class CheckedAnswer:
    """An answer that must fit a model; one that does not is asked for again, with what was wrong."""

    def __init__(
        self, source: AnswerSource, output: type[BaseModel], request: CompletionRequest, client: LLMClient
    ) -> None:
        """Take where the first answer comes from, what it must fit, and how to ask again."""
        self._source = source
        self._output = output
        self._request = request
        self._client = client

    async def answer(self, timeout_s: float | None) -> Completion:
        """See AnswerSource. Also raises OutputInvalid."""
        completion = await self._source.answer(timeout_s)
        request = self._request
        for _ in range(_FURTHER_ASKS):
            try:
                return self._parsed(completion)
            except ValidationError as error:
                request = _asked_again(request, completion, problems_of(error))
            completion = await (await self._client.asubmit(request)).aget(timeout_s)
        try:
            return self._parsed(completion)
        except ValidationError as error:
            raise OutputInvalid(self._output.__name__, problems_of(error), _FURTHER_ASKS + 1) from None

    def batches(self, after: int) -> AsyncGenerator[list[Event]]:
        """See AnswerSource: the events of the first answer, whether it fits or not."""
        return self._source.batches(after)

    def status(self) -> str:
        """See AnswerSource."""
        return self._source.status()

    def cancel(self) -> None:
        """See AnswerSource."""
        self._source.cancel()

    def _parsed(self, completion: Completion) -> Completion:
        return completion.model_copy(update={"parsed": self._output.model_validate_json(completion.text)})


@overload
def agent(function: Callable[P, Any], /) -> Agent[P, Any]: ...


# With a memory, a call has one keyword more than the function.
@overload
def agent(
    *, memory: Literal[True] | ConversationMemory, stream: Literal[False] = False, **options: Any
) -> Callable[[Callable[..., Any]], Agent[..., Any]]: ...


@overload
def agent(
    *, memory: Literal[True] | ConversationMemory, stream: Literal[True], **options: Any
) -> Callable[[Callable[..., Any]], StreamingAgent[...]]: ...


@overload
def agent(*, stream: Literal[False] = False, **options: Any) -> Callable[[Callable[P, Any]], Agent[P, Any]]: ...


@overload
def agent(*, stream: Literal[True], **options: Any) -> Callable[[Callable[P, Any]], StreamingAgent[P]]: ...


def agent(
    function: Callable[P, Any] | None = None,
    /,
    *,
    stream: bool = False,
    client: LLMClient | None = None,
    config: LLMConfig | None = None,
    tools: Sequence[Any] = (),
    max_rounds: int = 8,
    pure_tools: bool = False,
    memory: bool | ConversationMemory | None = None,
    **options: Any,
) -> BaseAgent[P] | Callable[[Callable[P, Any]], BaseAgent[P]]:
    """Make an agent of a function. Its body never runs: the docstring is the prompt, a Jinja2 template over the
    parameters; the return type is `str`, or a pydantic model that the answer must fit.

    Args:
        function: The function, where the decorator is used without arguments.
        stream: Calling it gives the text while it is written: `async for text in ...`. The return type is then `str`,
            or an `AsyncIterator[str]`.
        client: Who sends; default: the default client.
        config: How to call the model, in one value; `options` win over it.
        tools: Functions marked with `kagura_tasks.tool`, which the worker runs when the model asks for them.
        max_rounds: Calls of the model, the one that answers among them.
        pure_tools: The tools do nothing but answer, and always the same: then answers are remembered as others are.
        memory: True, or a ConversationMemory: each call has a further keyword, `conversation_id`. What was said in
            that conversation stands before the prompt; prompt and answer are appended to it.
        options: What `LLMClient.submit` takes: model, tags, temperature, ...

    Raises:
        PromptError: No docstring, one that is no template, or one with a name that is no parameter.
        ConfigurationError: A return type that is none of these; tools that are none, or `stream=True` with tools, whose
            text is void where the model asks for a tool after it (read `Agent.stream`, which tells).
    """
    calls = {**(config.options() if config else {}), **options}

    def make(declared: Callable[P, Any]) -> BaseAgent[P]:
        mine = dict(calls)
        equipment = equipment_of(declared, mine, tools, memory, max_rounds, pure_tools)
        if stream:
            _check_streams(declared, equipment)
            return StreamingAgent(declared, client, mine, None, equipment)
        return Agent[P, Any](declared, client, mine, _output_type(declared), equipment)

    return make if function is None else make(function)


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """No argument is missing."""
    try:
        _ = signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _positional(signature: inspect.Signature) -> list[str]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [name for name, parameter in signature.parameters.items() if parameter.kind is kind]


def _form_of(annotation: object) -> str:
    """What becomes of what came before, for a parameter that is declared so."""
    if annotation is str:
        return "text"
    return "texts" if (get_origin(annotation) or annotation) in (list, tuple, Sequence) else "value"


def _json_of(name: str, value: object) -> object:
    """The argument as it travels: a model as the object of its fields, a date as a text."""
    try:
        return to_jsonable_python(value)
    except ValueError:
        raise PromptError(f"the argument {name} is of type {type(value).__name__}, which is not JSON") from None


def _returned(function: Callable[..., object]) -> object:
    return cast(object, get_type_hints(function).get("return", str))


def _output_type(function: Callable[..., object]) -> type[BaseModel] | None:
    """The model that the answer must fit; None for text."""
    declared = _returned(function)
    if declared is str:
        return None
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        return declared
    raise ConfigurationError(f"{function.__name__} returns {declared!r}: an agent returns str or a pydantic model")


def _check_streams(function: Callable[..., object], equipment: Equipment) -> None:
    """Only text can be read while it is written, and none can be taken back."""
    declared = _returned(function)
    if equipment.tools is not None:
        raise ConfigurationError(f"{function.__name__} has tools: read its `stream()`, which tells what text is void")
    if declared is not str and get_args(declared)[:1] != (str,):
        raise ConfigurationError(f"{function.__name__} returns {declared!r}: an agent with stream=True returns text")


def _response_format(output: type[BaseModel]) -> Json:
    """The model as OpenAI's structured output, which LiteLLM translates for other providers."""
    schema = {"name": output.__name__, "schema": output.model_json_schema()}
    return cast(Json, {"type": "json_schema", "json_schema": schema})


def _asked_again(request: CompletionRequest, completion: Completion, problems: str) -> CompletionRequest:
    """The request and its answer, with what was wrong: another request, with a cache entry of its own.

    Tools have done their part, and a conversation remembers the first answer.
    """
    complaint = f"That is not valid: {problems}. Answer again, with nothing but JSON that fits the schema."
    turns = (
        Message(role="assistant", content=completion.text),
        Message(role="user", content=complaint),
    )
    return request.model_copy(update={"messages": (*request.messages, *turns), "tools": None, "conversation": None})
