"""Where OpenAI's format is spoken, and what stands in between: read from the environment, as LiteLLM reads it."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

#: Variables that say where a call goes and with which key.
VARIABLES: Final = (
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
    *("OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("USE_LITELLM_PROXY", "EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "SSL_VERIFY", "SSL_CERT_FILE"),
)

_OPENAI: Final = "https://api.openai.com/v1"


def of_openai(key: str | None, base: str | None) -> tuple[str, dict[str, str]]:
    """Address and headers of OpenAI, or of whoever answers in its place: those of the client that LiteLLM uses."""
    address = base or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    organization = os.environ.get("OPENAI_ORGANIZATION") or None
    known = map(os.environ.get, VARIABLES)
    return _of_client(key or os.environ.get("OPENAI_API_KEY"), address or _OPENAI, organization, *known)


@lru_cache(maxsize=64)
def _of_client(
    key: str | None, address: str, organization: str | None, *_environment: str | None
) -> tuple[str, dict[str, str]]:
    """What the client reads from the environment itself decides, too. Raises its error where there is no key."""
    openai = cast(Any, import_module("openai"))
    client = openai.AsyncOpenAI(api_key=key, base_url=address, organization=organization)
    told = {**client.default_headers, **client.auth_headers}
    about_the_client = ("user-agent", "x-stainless")
    return f"{str(client.base_url).rstrip('/')}/chat/completions", {
        name: value
        for name, value in told.items()
        if isinstance(value, str) and not name.lower().startswith(about_the_client)
    }


def is_reached_directly(url: str) -> bool:
    """An address and nothing else; no proxy in between, and no region of OpenAI's that has prices of its own."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        return False
    if parts.hostname.endswith(".api.openai.com"):
        return False
    proxies = getproxies()
    return not (proxies.get(parts.scheme) or proxies.get("all")) or bool(proxy_bypass(parts.hostname))
