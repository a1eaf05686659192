"""What limits may say in the settings, and which of them a model's calls count for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

#: A model's LiteLLM name, or all whose names fit: "openai/*".
ModelPattern = Annotated[str, StringConstraints(pattern=r"^[\w.@/:+*-]{1,200}$")]

#: A tenant, or "*" for each of those that are not named.
TenantPattern = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_.-]{1,64}|\*)$")]

EVERY_OTHER: Final = "*"

_MINUTE_S: Final = 60.0


class LimitTerms(BaseModel):
    """What a provider's account, or a model, takes. What is not given has no limit.

    Attributes:
        requests_per_min: Calls that are begun in a minute.
        tokens_per_min: Tokens of prompts and answers in a minute.
        concurrency: Calls at a time.
        window_s: The numbers of a minute are kept in every span of so many seconds, in proportion: with 6 there are no
            more than a tenth of them in any 6 s, which a provider that counts in shorter spans likes better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    requests_per_min: int | None = Field(default=None, gt=0, strict=True)
    tokens_per_min: int | None = Field(default=None, gt=0, strict=True)
    concurrency: int | None = Field(default=None, gt=0, strict=True)
    window_s: float = Field(default=_MINUTE_S, ge=1, le=_MINUTE_S)

    @model_validator(mode="after")
    def _fits_the_window(self) -> Self:
        if self.requests == 0 or self.tokens == 0:
            raise ValueError("nothing may be called in window_s: raise it, or the numbers of a minute")
        return self

    @property
    def requests(self) -> int | None:
        """Calls in a window."""
        return self._in_a_window(self.requests_per_min)

    @property
    def tokens(self) -> int | None:
        """Tokens in a window."""
        return self._in_a_window(self.tokens_per_min)

    def _in_a_window(self, per_min: int | None) -> int | None:
        return None if per_min is None else int(per_min * self.window_s / _MINUTE_S)


def from_json(value: object) -> object:
    """What a variable of the environment says, as JSON; anything else as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('a table in JSON, such as {"name": ...}') from None


FromJson: Final = BeforeValidator(from_json)


def patterns_for(limits: Mapping[str, LimitTerms], model: str) -> list[str]:
    """The limits that calls of this model count for, the most specific first."""
    fitting = [pattern for pattern in limits if fnmatchcase(model, pattern)]
    return sorted(fitting, key=lambda pattern: ("*" in pattern, -len(pattern)))
