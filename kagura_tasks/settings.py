"""Settings: environment variables with the prefix KAGURA_TASKS_, checked once, units in their names."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kagura_tasks.errors import ConfigurationError
from kagura_tasks.limits.terms import FromJson, LimitTerms, ModelPattern, TenantPattern
from kagura_tasks.schemas import ModelName, TenantName

ENV_PREFIX = "KAGURA_TASKS_"

#: Names of modules, with commas between them.
_MODULES = r"^[A-Za-z_][\w.]*(, ?[A-Za-z_][\w.]*)*$"

_Usd = Annotated[float, Field(gt=0)]
_Weight = Annotated[float, Field(ge=0.01, le=100)]

_REDIS_SCHEMES = ("redis", "rediss", "unix")


class RedisUrl(str):
    """A Redis address: redis://, rediss:// (TLS) or unix:// (socket). Its repr hides the password."""

    __slots__ = ()

    def masked(self) -> str:
        """The address for people: whoever reads it learns no password."""
        scheme, colon, rest = self.partition("://")
        # Up to the last @, wherever it is: passwords hold @, / and ? though they should not.
        if "@" in rest:
            rest = "***@" + rest.rpartition("@")[2]
        return scheme + colon + re.split(r"[?#]", rest)[0]

    def __repr__(self) -> str:
        """The masked address: settings end up in logs."""
        return f"RedisUrl({self.masked()!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[object], handler: GetCoreSchemaHandler) -> CoreSchema:
        """A plain string whose scheme Redis knows."""
        return core_schema.no_info_after_validator_function(cls._check, core_schema.str_schema())

    @classmethod
    def _check(cls, value: str) -> RedisUrl:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in _REDIS_SCHEMES and (parts.path if parts.scheme == "unix" else parts.hostname)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("a Redis address: redis://host:6379/0, rediss://host:6379/0 or unix:///path/redis.sock")
        return cls(value)


class Settings(BaseSettings):
    """All settings, each an environment variable KAGURA_TASKS_<NAME>. Providers' keys are not among them.

    Attributes:
        redis_url: The one Redis that does everything, unless one of the next three says otherwise.
        broker_url: Redis of the queues. Wants `noeviction`.
        result_url: Redis of the tasks' results.
        cache_url: Redis of the remembered answers; may evict.
        default_model: The model where a call names none, by LiteLLM's name.
        tenant: The tenant where a call names none.
        execution: "queue" sends calls to workers; "inline" makes them in this process, without Redis.
        cache_ttl_s: Seconds for which an answer is remembered.
        cache_enabled: False: no answer is looked up or remembered.
        call_timeout_s: Seconds for one call of a provider.
        provider_lane: "auto" calls providers that speak OpenAI's format directly; "litellm" makes LiteLLM call all.
        wait_timeout_s: Seconds that `complete` and `get` wait for an answer where the caller does not say.
        result_ttl_s: Seconds for which a task's result can be fetched.
        stream_ttl_s: Seconds after its last event for which a stream can be read.
        stream_log_bytes: So much of a stream can be read again. Of a longer one the beginning is dropped.
        stream_heartbeat_s: Seconds of silence after which a worker says that it lives.
        stream_coalesce_ms: Milliseconds for which pieces of text are collected into one event; the first goes at once.
        stream_coalesce_bytes: So much text is sent without waiting for more.
        map_ttl_s: Seconds after its last change for which a map can be read and resumed.
        map_max_in_flight: Items of a map that are in queues and with workers at a time, where the caller does not say.
        max_retries: Further tries after a transient failure.
        retry_base_s: Longest wait before the first further try; it doubles with each one.
        retry_cap_s: Longest wait between two tries that the provider did not ask for.
        retry_deadline_s: Seconds after the first try beyond which none is started.
        fallbacks: For a model, as JSON, those that are asked in its place while it fails, in order:
            {"openai/gpt-4o": ["anthropic/claude-sonnet-4-5"]}.
        limits: What the fleet may call, as JSON: for a model, or for all that fit a pattern, `requests_per_min`,
            `tokens_per_min`, `concurrency` and `window_s`: {"openai/*": {"requests_per_min": 600}}.
        tenant_weights: A tenant's share of a limit that several want, as JSON; 1 where it is not named.
        budget_usd_per_day: What all calls of a day (UTC) may cost together.
        tenant_budgets_usd_per_day: The same for a tenant's calls, as JSON; "*" is each that is not named.
        allow_unknown_prices: True: a model whose price nobody knows may be called under a budget, and counts nothing.
        breaker_failures: A limit's key is closed after so many transient failures in a row.
        breaker_open_s: Seconds for which it is. Then one call is made, alone.
        flight_lease_s: Seconds after which a call whose worker died is made by another, and its place under limits is
            free.
        visibility_timeout_s: Seconds after which the tasks of a worker that died go to others. A living worker keeps
            its tasks however long they run.
        lease_renewal_s: Seconds between two renewals of what a worker holds; default: a quarter of the visibility
            timeout.
        longest_hold_s: Seconds after which a task that still runs counts as hung, and goes to another worker.
        max_deaths: A task whose worker died this often while it held it goes to the dead letters.
        shutdown_timeout_s: Seconds that a stopping worker gives running calls before it hands them back.
        loop_blocked_s: Seconds after which a task that blocks the event loop of its worker is logged with its stack.
        max_prompt_bytes: Largest request, as JSON.
        file_roots: Folders from which workers load files, and whose folders they may be in; separated as on PATH. None
            by default: then `process_files` sends the files' content.
        file_max_bytes: Largest file that is loaded.
        file_max_media_bytes: Largest picture, recording or film, and most of pictures in one document.
        file_max_unpacked_bytes: What a DOCX, XLSX, PPTX or EPUB holds at most when it is unpacked.
        file_max_pages: Most pages, slides, sheets or chapters of a document.
        file_max_text_chars: Longest text of a document, in characters.
        file_max_image_px: Longest side of a picture; a larger one is scaled down.
        file_parse_timeout_s: Seconds for parsing one file; its parser is then ended.
        file_parse_memory_bytes: Memory of a process that parses.
        file_parsers: Files that one worker process parses at a time.
        upload_max_bytes: Together, the files of one run that are sent to Redis, where workers do not see their disk.
        upload_ttl_s: Seconds for which such a file is kept.
        tool_modules: Modules whose tools a worker runs, with commas between them; a name counts for the modules under
            it, too. Without it a worker runs none.
        tool_timeout_s: Seconds for one call of a tool that does not say itself.
        tool_result_bytes: So much of a tool's result is told to the model.
        heartbeat_file: A file that a worker touches every 2 s while it takes tasks, for health checks. None by default.
        task_log: Where a worker writes a line of JSON for each task, with ids, numbers and times: "stdout", "stderr" or
            "none". Celery's own log is on stderr.
        concurrency: Calls in flight in one worker process.
        redis_timeout_s: Seconds after which an answer of Redis is no longer waited for.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    redis_url: RedisUrl = RedisUrl("redis://localhost:6379/0")
    broker_url: RedisUrl | None = None
    result_url: RedisUrl | None = None
    cache_url: RedisUrl | None = None
    default_model: ModelName = "openai/gpt-4o-mini"
    tenant: TenantName = "default"
    execution: Literal["queue", "inline"] = "queue"
    cache_ttl_s: int = Field(default=3600, gt=0)
    cache_enabled: bool = True
    call_timeout_s: float = Field(default=60.0, gt=0)
    provider_lane: Literal["auto", "litellm"] = "auto"
    wait_timeout_s: float = Field(default=300.0, gt=0)
    result_ttl_s: int = Field(default=86_400, gt=0)
    stream_ttl_s: int = Field(default=600, gt=0)
    stream_log_bytes: int = Field(default=1_000_000, ge=100_000)
    stream_heartbeat_s: float = Field(default=15.0, ge=0.1)
    stream_coalesce_ms: float = Field(default=20.0, ge=0)
    stream_coalesce_bytes: int = Field(default=4096, gt=0, le=16_384)
    map_ttl_s: int = Field(default=259_200, ge=60)
    map_max_in_flight: int = Field(default=256, gt=0, le=10_000)
    max_retries: int = Field(default=5, ge=0)
    retry_base_s: float = Field(default=0.5, gt=0)
    retry_cap_s: float = Field(default=30.0, gt=0)
    retry_deadline_s: float = Field(default=300.0, gt=0)
    fallbacks: Annotated[dict[ModelName, tuple[ModelName, ...]], NoDecode, FromJson] = Field(default_factory=dict)
    limits: Annotated[dict[ModelPattern, LimitTerms], NoDecode, FromJson] = Field(default_factory=dict)
    tenant_weights: Annotated[dict[TenantName, _Weight], NoDecode, FromJson] = Field(default_factory=dict)
    budget_usd_per_day: float | None = Field(default=None, gt=0)
    tenant_budgets_usd_per_day: Annotated[dict[TenantPattern, _Usd], NoDecode, FromJson] = Field(default_factory=dict)
    allow_unknown_prices: bool = False
    breaker_failures: int = Field(default=5, gt=0)
    breaker_open_s: float = Field(default=30.0, gt=0)
    flight_lease_s: float = Field(default=10.0, ge=1)
    visibility_timeout_s: float = Field(default=30.0, ge=2)
    lease_renewal_s: float | None = Field(default=None, ge=0.1)
    longest_hold_s: float = Field(default=3600.0, gt=0)
    max_deaths: int = Field(default=3, gt=0)
    shutdown_timeout_s: float = Field(default=25.0, gt=0)
    loop_blocked_s: float = Field(default=1.0, gt=0)
    max_prompt_bytes: int = Field(default=1_000_000, gt=0)
    file_roots: str = ""
    file_max_bytes: int = Field(default=50_000_000, gt=0)
    file_max_media_bytes: int = Field(default=20_000_000, gt=0)
    file_max_unpacked_bytes: int = Field(default=200_000_000, gt=0)
    file_max_pages: int = Field(default=2_000, gt=0)
    file_max_text_chars: int = Field(default=5_000_000, gt=0)
    file_max_image_px: int = Field(default=2_048, ge=64)
    file_parse_timeout_s: float = Field(default=60.0, gt=0)
    file_parse_memory_bytes: int = Field(default=512_000_000, ge=200_000_000)
    file_parsers: int = Field(default=2, gt=0, le=64)
    upload_max_bytes: int = Field(default=1_000_000_000, gt=0)
    upload_ttl_s: int = Field(default=86_400, ge=60)
    tool_modules: str | None = Field(default=None, pattern=_MODULES)
    tool_timeout_s: float = Field(default=60.0, gt=0)
    tool_result_bytes: int = Field(default=100_000, ge=1_000)
    heartbeat_file: str | None = None
    task_log: Literal["stdout", "stderr", "none"] = "stdout"
    concurrency: int = Field(default=256, gt=0)
    redis_timeout_s: float = Field(default=2.0, gt=0)

    def __init__(self, **values: Any) -> None:
        """Read the environment; `values` win over it. Raises ConfigurationError, which names the variable."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError("; ".join(map(_explain, error.errors()))) from None

    def __hash__(self) -> int:
        """Tables have no hash: settings that differ only there share this one, and are told apart by being compared."""
        return hash(tuple(value for value in vars(self).values() if not isinstance(value, dict)))

    @model_validator(mode="after")
    def _renewals_fit(self) -> Self:
        """One late renewal must not cost a worker what it holds."""
        if self.renewal_s * 3 > self.visibility_timeout_s:
            raise PydanticCustomError(
                "renewals",
                "{prefix}LEASE_RENEWAL_S must be at most a third of {prefix}VISIBILITY_TIMEOUT_S",
                {"prefix": ENV_PREFIX},
            )
        return self

    def override(self, **values: object) -> Settings:
        """The same settings but for the values that are not None, which are checked as well."""
        changes = {name: value for name, value in values.items() if value is not None}
        return Settings(**{**self.model_dump(), **changes}) if changes else self

    @property
    def renewal_s(self) -> float:
        """Seconds between two renewals of what a worker holds."""
        return self.visibility_timeout_s / 4 if self.lease_renewal_s is None else self.lease_renewal_s

    @property
    def modules_of_tools(self) -> tuple[str, ...]:
        """The modules whose tools a worker runs."""
        return tuple(name.strip() for name in (self.tool_modules or "").split(",") if name)

    @property
    def allowed_file_roots(self) -> tuple[str, ...]:
        """The folders from which workers load files."""
        return tuple(filter(None, self.file_roots.split(os.pathsep)))

    @property
    def broker(self) -> RedisUrl:
        """Where the queues are."""
        return self.broker_url or self.redis_url

    @property
    def results(self) -> RedisUrl:
        """Where the results are."""
        return self.result_url or self.redis_url

    @property
    def cache(self) -> RedisUrl:
        """Where the remembered answers are."""
        return self.cache_url or self.redis_url


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The process's settings, read from the environment once. Raises ConfigurationError."""
    return Settings()


def _explain(detail: ErrorDetails) -> str:
    """One wrong value: the variable, the value's kind, what is allowed. Never the value: it may be a secret."""
    if detail["type"] == "renewals":
        return detail["msg"]
    setting, *place = (str(part) for part in detail["loc"] or ("",))
    name = ENV_PREFIX + setting.upper() + (f" ({', '.join(place)})" if place else "")
    if detail["type"] == "extra_forbidden":
        return f"{name} is no setting"
    return f"{name} is {_kind_of(detail['input'])}: {detail['msg'].removeprefix('Value error, ')}"


def _kind_of(value: object) -> str:
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"of type {type(value).__name__}"
