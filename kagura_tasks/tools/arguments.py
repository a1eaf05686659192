"""A function's parameters as the JSON schema that a model is told, and a model's arguments as the function's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from kagura_tasks.errors import ConfigurationError
from kagura_tasks.schemas import Json, problems_of

_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ArgumentsInvalid(Exception):
    """A model's arguments do not fit. The text says where, and holds none of them."""


class Arguments:
    """The parameters of one function."""

    def __init__(self, function: Callable[..., object]) -> None:
        """Read them off. Raises ConfigurationError where one has no type, or none that JSON can be read as."""
        self._names = list(inspect.signature(function).parameters)
        self._model = _model_of(function)

    @property
    def schema(self) -> Json:
        """The JSON schema of an object with the arguments."""
        schema = self._model.model_json_schema(by_alias=True)
        # They repeat the names.
        return cast(Json, _without_titles({key: value for key, value in schema.items() if key != "title"}))

    def read(self, text: str) -> dict[str, Any]:
        """The arguments in a model's JSON. Raises ArgumentsInvalid."""
        try:
            # Some models write nothing for no arguments.
            values = self._model.model_validate_json(text.strip() or "{}")
        except ValidationError as error:
            raise ArgumentsInvalid(problems_of(error)) from None
        return {name: getattr(values, _field(number)) for number, name in enumerate(self._names)}


def _model_of(function: Callable[..., object]) -> type[BaseModel]:
    name = function.__name__
    try:
        hints = get_type_hints(function, include_extras=True)
        fields = {
            _field(number): _declared(name, parameter, hints)
            for number, parameter in enumerate(inspect.signature(function).parameters.values())
        }
        model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **cast(Any, fields))
        _ = model.model_json_schema()
    except (NameError, PydanticSchemaGenerationError, PydanticUserError) as error:
        reason = type(error).__name__ if isinstance(error, NameError) else str(error).splitlines()[0]
        raise ConfigurationError(f"the tool {name} has a parameter whose type no JSON fits: {reason}") from None
    return model


def _field(number: int) -> str:
    """A name that no parameter's own can clash with."""
    return f"argument_{number}"


def _declared(tool: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> tuple[Any, Any]:
    if parameter.kind not in _NAMED:
        raise ConfigurationError(f"the tool {tool} has the parameter {parameter}: each has to be named, with a type")
    if parameter.name not in hints:
        raise ConfigurationError(f"the tool {tool} has a parameter without a type: {parameter.name}")
    default: Any = ... if parameter.default is inspect.Parameter.empty else parameter.default
    return hints[parameter.name], Field(default, alias=parameter.name)


def _without_titles(schema: object) -> object:
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    held = cast("dict[str, object]", schema)
    # A title is a text; a property may have this name, and is an object.
    kept = {key: value for key, value in held.items() if not (key == "title" and isinstance(value, str))}
    return {key: _without_titles(value) for key, value in kept.items()}
