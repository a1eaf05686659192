"""What is in LiteLLM's errors. It takes them as they are, and does not import LiteLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from kagura_tasks.providers import wire
from kagura_tasks.schemas import CompletionRequest


def status_of(error: Exception) -> int:
    """The HTTP status, or one that LiteLLM made up; 0 where there is none."""
    status = getattr(error, "status_code", 0)
    return int(status) if isinstance(status, int | str) and str(status).isdigit() else 0


def retry_after_s(error: Exception) -> float:
    """The provider's Retry-After. LiteLLM keeps it here: the headers of `error.response` are empty."""
    headers = cast("Mapping[str, str]", getattr(error, "litellm_response_headers", None) or {})
    return wire.retry_after_s(dict(headers))


def details(error: Exception, request: CompletionRequest) -> str:
    """What can be said safely: see wire."""
    return wire.safe_details(said(error), str(error), request)


def said(error: Exception) -> Mapping[str, object]:
    """The provider's code words. Where LiteLLM does not call with OpenAI's client, they are only in its text."""
    words = {name: getattr(error, name, None) for name in ("code", "param")}
    return words if any(map(wire.code_word, words.values())) else wire.complaint_in(str(error))
