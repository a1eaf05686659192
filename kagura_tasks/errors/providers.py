"""What went wrong on the model's side."""

from __future__ import annotations

from typing import ClassVar

from kagura_tasks.errors.base import KaguraTasksError


class ProviderError(KaguraTasksError):
    """The model's side failed.

    Attributes:
        message: What happened, in words that hold neither prompt nor key.
        model: The LiteLLM name that was asked for.
        status: The provider's HTTP status, or 0 where there was none.
    """

    hint: ClassVar[str] = ""

    def __init__(self, message: str, model: str = "", status: int = 0) -> None:
        """Take what happened, the model's name, and the HTTP status (0: there was none)."""
        super().__init__(message, model, status)
        self.message = message
        self.model = model
        self.status = status

    def __str__(self) -> str:
        """Say model, status and what happened, then how to mend it."""
        where = f"{self.model}: " if self.model else ""
        status = f" (HTTP {self.status})" if self.status else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{where}{self.message}{status}{hint}"


class TransientError(ProviderError):
    """Another try may help.

    Attributes:
        retry_after_s: Seconds that the provider asked to wait; 0 where it did not say.
    """

    def __init__(self, message: str, model: str = "", status: int = 0, retry_after_s: float = 0.0) -> None:
        """Take a ProviderError's fields and the seconds that the provider asked to wait."""
        super().__init__(message, model, status)
        self.args = (message, model, status, retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimited(TransientError):
    """The provider takes no more requests or tokens for now."""


class ProviderTimeout(TransientError):
    """The provider did not answer within `timeout_s`."""


class ProviderUnavailable(TransientError):
    """No connection to the provider, a cut one, or a 5xx."""


class PermanentError(ProviderError):
    """Another try gives the same answer."""


class AuthenticationFailed(PermanentError):
    """The worker has no key for this provider, or the provider refused it."""


class UnknownModel(PermanentError):
    """Neither LiteLLM nor the provider knows the model."""

    hint = "Use LiteLLM's names, with the provider in front: openai/gpt-4o-mini"


class PriceUnknown(PermanentError):
    """A budget cannot be kept, because LiteLLM's price map does not know what a call of this model may cost."""

    hint = "Use a model with a price, bound its answers with max_tokens, or set no budget"


class RequestRefused(PermanentError):
    """The provider, or LiteLLM on its behalf, does not take this request."""


class ContextTooLong(RequestRefused):
    """Prompt and answer do not fit the model's context window."""

    hint = "Shorten the prompt, lower max_tokens, or use a model with a larger window"


class ContentRefused(PermanentError):
    """The provider's safety filter refused the prompt."""
