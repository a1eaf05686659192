"""Writes the reference of the settings: `python docs/generate.py`. tests/integration/test_docs.py compares."""

from __future__ import annotations

import re
from inspect import getdoc
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt
from pydantic.fields import FieldInfo

from kagura_tasks.embedded_redis import SERVER_VARIABLE
from kagura_tasks.settings import ENV_PREFIX, RedisUrl, Settings

PAGE: Final = Path(__file__).parent / "reference" / "settings.md"

#: Who goes by a setting. Set it there; elsewhere it does nothing.
READERS: Final = {
    "Both sides": {
        *("redis_url", "broker_url", "result_url", "cache_url", "result_ttl_s", "redis_timeout_s"),
        *("visibility_timeout_s", "lease_renewal_s", "stream_ttl_s", "stream_log_bytes", "stream_heartbeat_s"),
        *("file_max_bytes", "file_max_media_bytes", "file_max_unpacked_bytes", "file_max_pages", "file_max_text_chars"),
        *("file_max_image_px", "file_parse_timeout_s", "file_parse_memory_bytes", "file_roots"),
    },
    "Applications": {
        "default_model",
        "tenant",
        "execution",
        "cache_enabled",
        "wait_timeout_s",
        "max_prompt_bytes",
        "map_ttl_s",
        "map_max_in_flight",
        "upload_max_bytes",
        "upload_ttl_s",
    },
    "Workers": {
        *("cache_ttl_s", "call_timeout_s", "max_retries", "retry_base_s", "retry_cap_s", "retry_deadline_s"),
        *("fallbacks", "limits", "tenant_weights", "budget_usd_per_day", "tenant_budgets_usd_per_day"),
        *("allow_unknown_prices", "breaker_failures", "breaker_open_s"),
        *("flight_lease_s", "concurrency", "provider_lane", "longest_hold_s", "max_deaths", "shutdown_timeout_s"),
        *("loop_blocked_s", "stream_coalesce_ms", "stream_coalesce_bytes", "file_parsers"),
        *("tool_modules", "tool_timeout_s", "tool_result_bytes", "heartbeat_file", "task_log"),
    },
}

_HEAD: Final = f"""\
# Settings

<!-- Written by `python docs/generate.py`; a test compares. -->

Each setting is an environment variable and a field of `Settings`: `{ENV_PREFIX}TENANT` is `Settings(tenant=...)`. What
the program passes wins over the environment. An empty variable is no variable. The environment is read once, when the
first client or worker is made. A wrong value stops the program; the message names the variable, the kind of the value
and what is allowed, never the value.

Providers' own variables (`OPENAI_API_KEY`, `OPENAI_API_BASE`, ...) are read by LiteLLM on the workers. They are no
settings of this package.
"""

_FOOT: Final = f"""\
With `execution="inline"` there are no workers, and the application goes by their settings.

`LLMClient(app=...)` and `install(app)` take the addresses of the queues and of the results from the Celery app where
these are Redis addresses. The cache's address always comes from the settings.

One more variable is no field of `Settings`: `{SERVER_VARIABLE}` names the server program that `demo` and `up` start
where no address is set. It is a name on `PATH` or a path. Without it they use the bundled server, else `redis-server`
or `valkey-server` from `PATH`.
"""


def settings_page() -> str:
    """The whole page."""
    meanings = _meanings()
    parts = [_HEAD]
    for reader, names in READERS.items():
        rows = [_row(name, field, meanings[name]) for name, field in Settings.model_fields.items() if name in names]
        table = ["| variable | default | allowed | what it says |", "|---|---|---|---|", *rows]
        parts.append(f"## {reader}\n\n" + "\n".join(table) + "\n")
    return "\n".join([*parts, _FOOT])


def _meanings() -> dict[str, str]:
    """What the class's docstring says of each field, in one line."""
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)$", getdoc(Settings) or "", re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    variable = f"`{ENV_PREFIX}{name.upper()}`"
    return f"| {variable} | {_default(field)} | {_allowed(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    """Where it depends on another setting, that is what it says itself, but for the addresses."""
    if field.default_factory is not None:
        return ""
    if field.default is None:
        return f"that of `{ENV_PREFIX}REDIS_URL`" if RedisUrl in get_args(field.annotation) else ""
    return f"`{_written(field.default)}`"


def _written(value: object) -> str:
    """The value as one writes it into a variable."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is RedisUrl:
        return "`redis://`, `rediss://`, `unix://`"
    if get_origin(kind) is dict:
        return "a table in JSON"
    if kind is bool:
        return "`true` or `false`"
    limits = [f"above {rule.gt}" for rule in field.metadata if isinstance(rule, Gt)]
    limits += [f"from {rule.ge}" for rule in field.metadata if isinstance(rule, Ge)]
    pattern = [rule.pattern for rule in field.metadata if getattr(rule, "pattern", None)]
    word = {int: "whole number", float: "number", str: "text"}[kind]
    return " ".join([word, *limits, *(f"`{one}`" for one in pattern)])


if __name__ == "__main__":
    PAGE.write_text(settings_page(), "utf-8")
