"""The application's door: enqueue, wait, cancel. A remembered answer needs no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from celery import Celery
from kombu.utils.uuid import uuid

from kagura_tasks.app import create_app, settings_of
from kagura_tasks.cache.llm_cache import LLMCache
from kagura_tasks.connections import close_async_clients
from kagura_tasks.executors import open_executor
from kagura_tasks.file_calls import FileCalls
from kagura_tasks.groups import LLMGroupResult, MapReduceResult
from kagura_tasks.mapping import MapOrder, OnError, Promptlike, checked, made_of, planned_items, prompts_of
from kagura_tasks.maps.store import MapChanges
from kagura_tasks.requests import Prompt, build_request, priority_of
from kagura_tasks.results import LLMResult
from kagura_tasks.routing_calls import RoutingCalls
from kagura_tasks.schemas import Completion, CompletionRequest, Priority
from kagura_tasks.settings import Settings, load_settings
from kagura_tasks.signatures import plan_of
from kagura_tasks.sources import WAITING, AnswerSource, Remembered, RememberedHere, Sent
from kagura_tasks.streams import LLMStream


class LLMClient(RoutingCalls, FileCalls):
    """Enqueues prompts and waits for their answers. Safe to share between threads and event loops.

    A call with the prefix `a` is the same for `async` code.

    Attributes:
        settings: What this client goes by.
        app: The Celery app that it sends through.
        cache: Where it looks for remembered answers.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        redis_url: str | None = None,
        model: str | None = None,
        tenant: str | None = None,
        execution: str | None = None,
        cache: LLMCache | None = None,
        app: Celery | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: Default: the environment's (`KAGURA_TASKS_...`).
            redis_url: In place of `KAGURA_TASKS_REDIS_URL`.
            model: In place of `KAGURA_TASKS_DEFAULT_MODEL`.
            tenant: In place of `KAGURA_TASKS_TENANT`.
            execution: "queue" (workers) or "inline" (this process), in place of `KAGURA_TASKS_EXECUTION`.
            cache: A cache of one's own, asked first and told every answer; default: the one that workers keep.
            app: A Celery app of one's own, whose broker and result backend are used; its workers have
                `kagura_tasks.worker.install(app)`. Default: one made from the settings.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        given = {"redis_url": redis_url, "default_model": model, "tenant": tenant, "execution": execution}
        self.settings = _settings_for(app, settings).override(**given)
        self.app = app or create_app(self.settings, self.settings.redis_timeout_s)
        self._executor = open_executor(self.settings, self.app)
        self._own_cache = cache
        self.cache = cache or self._executor.cache

    def request(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        use_cache: bool = True,
        cache_ttl: int | None = None,
        tags: Iterable[str] = (),
        tenant: str | None = None,
        priority: Priority | str | int = Priority.NORMAL,
        timeout_s: float | None = None,
        **params: object,
    ) -> CompletionRequest:
        """What `submit` would send for these arguments; sends nothing.

        Args:
            prompt: A text, or chat turns as mappings with `role` and `content`.
            model: LiteLLM's name; default: the client's.
            use_cache: Look for a remembered answer, share a running call, and remember the answer.
            cache_ttl: Seconds for which the answer is remembered; default: the workers' setting.
            tags: Names under which the remembered answer can be invalidated.
            tenant: Whose data this is; default: the client's.
            priority: "interactive", "normal", "low" or "batch", or a Priority.
            timeout_s: Seconds for one call of the provider; default: the workers' setting.
            params: Whatever else LiteLLM takes: temperature, tools, response_format, extra_body, ...; `fallbacks` are
                models that are asked, in order, where this one fails.

        Raises:
            InvalidRequest: The request cannot be right for any model.
        """
        return build_request(
            self.settings,
            prompt,
            model=model,
            use_cache=use_cache,
            cache_ttl=cache_ttl,
            tags=tags,
            tenant=tenant,
            priority=priority,
            timeout_s=timeout_s,
            params=params,
        )

    def submit(self, prompt: Prompt | CompletionRequest, *, stream: bool = False, **options: Any) -> LLMResult:
        """Look the answer up, and enqueue the prompt where nobody remembers it.

        Args:
            prompt: See `request`.
            stream: The text is wanted while it is written, through `LLMResult.stream`, or `resume` elsewhere.
            options: See `request`.

        Raises:
            InvalidRequest: The request cannot be right; nothing was sent.
            RedisUnreachable: The message could not be sent.
        """
        return self._submit(self._requested(prompt, options), uuid(), stream=stream)

    async def asubmit(self, prompt: Prompt | CompletionRequest, *, stream: bool = False, **options: Any) -> LLMResult:
        """The same, without blocking the event loop."""
        return await self._asubmit(self._requested(prompt, options), uuid(), stream=stream)

    def complete(self, prompt: Prompt | CompletionRequest, **options: Any) -> Completion:
        """Submit and wait. Takes what `submit` takes; raises what `submit` and `LLMResult.get` raise."""
        request = self._requested(prompt, options)
        remembered = self._lookup(request)
        return remembered if remembered is not None else self._send(request, uuid()).get()

    async def acomplete(self, prompt: Prompt | CompletionRequest, **options: Any) -> Completion:
        """The same, without blocking the event loop."""
        request = self._requested(prompt, options)
        remembered = await self._alookup(request)
        return remembered if remembered is not None else await (await self._asend(request, uuid()))

    def stream(self, prompt: Prompt | CompletionRequest, **options: Any) -> LLMStream:
        """Submit, and read the text while it is written. For `for` and `async for`; takes what `submit` takes.

        Where an event loop runs, the prompt is sent in the background: a Redis that is away is found out by the first
        read. `astream` waits until it is sent.
        """
        request, task_id = self._requested(prompt, options), uuid()
        if not _is_on_a_loop():
            return self._submit(request, task_id, stream=True).stream()
        return LLMStream(task_id, Sent(WAITING.submit(self._source(request, task_id))))

    async def astream(self, prompt: Prompt | CompletionRequest, **options: Any) -> LLMStream:
        """The same, once the prompt is sent. Raises what `submit` raises."""
        return (await self.asubmit(prompt, stream=True, **options)).stream()

    def resume(self, task_id: str, after: int = 0, *, tenant: str | None = None) -> LLMStream:
        """Read a task's stream from behind the event of this number on: late, again, or in another process.

        Args:
            task_id: `LLMStream.id`, or `LLMResult.id`.
            after: The number of the last event that was read (`LLMStream.cursor`); 0 reads all.
            tenant: Whose data it is; default: the client's.

        Raises:
            InvalidRequest: A task's id or a number that cannot be one. All else is raised by the first read.
        """
        return self._executor.result(task_id, tenant).stream(after)

    def map(
        self,
        prompts: Iterable[Promptlike] | None = None,
        *,
        template: str | None = None,
        rows: Iterable[object] | None = None,
        id: str | None = None,
        max_in_flight: int | None = None,
        on_error: OnError = "collect",
        budget_usd: float | None = None,
        priority: Priority | str | int = Priority.BATCH,
        about: Mapping[str, str] | None = None,
        **options: Any,
    ) -> LLMGroupResult:
        """Answer many prompts, so many at a time. Returns once all are in Redis, and the first ones on their way.

        What is equal to another, or remembered, costs one call or none. Nothing is paid for before all items were
        read and checked; they are read once, and not kept here.

        Args:
            prompts: Texts, chat turns, requests, or each of these with a name (MapItem). Or give the next two.
            template: Jinja2. The fields of a row are its variables; the row itself is `item`.
            rows: What the template is filled with.
            id: The map's name; default: a new one. A map of this name that exists is continued: only what is missing is
                paid for, and the prompts are not read.
            max_in_flight: Items in queues and with workers at a time; default: `KAGURA_TASKS_MAP_MAX_IN_FLIGHT`.
            on_error: What a failed item does: "collect" (nothing to the others), "fail" (no further one is started), or
                the part of all items that may fail before no further one is started: 0.05.
            budget_usd: What the calls may cost together. A call is made only where there is room for the most that it
                may cost, by LiteLLM's price map; an item whose model has no price there fails (PriceUnknown).
            priority: See `request`. The default waits behind all that people wait for.
            about: Small texts to find again with the map (LLMGroupResult.about).
            options: See `request`; they count for all items but those that are requests.

        Raises:
            ItemInvalid: An item cannot be right. Nothing was sent.
            InvalidRequest: The map cannot be right, or is being added to by somebody else. Nothing was sent.
            TaskCancelled: Somebody cancelled it while its items were added. Nothing was sent.
            RedisUnreachable: Not all could be sent; nothing was paid for.
        """
        tenant = options.pop("tenant", None) or self.settings.tenant
        order = MapOrder(
            id or uuid(), tenant, priority_of(priority), max_in_flight, on_error, budget_usd, dict(about or {})
        )
        ask = partial(self.request, **options, tenant=tenant, priority=order.priority)
        limit_bytes = self.settings.max_prompt_bytes
        return self._executor.maps.start(order, planned_items(ask, prompts_of(prompts, template, rows, limit_bytes)))

    async def amap(self, prompts: Iterable[Promptlike] | None = None, **options: Any) -> LLMGroupResult:
        """The same, without blocking the event loop: the items are read in a thread."""
        return await asyncio.to_thread(partial(self.map, prompts, **options))

    def map_reduce(
        self,
        items: Iterable[Any],
        *,
        map: str | Callable[[Any], Promptlike],
        reduce: str,
        reduce_options: Mapping[str, Any] | None = None,
        context_tokens: int | None = None,
        id: str | None = None,
        max_in_flight: int | None = None,
        on_error: OnError = "collect",
        budget_usd: float | None = None,
        priority: Priority | str | int = Priority.BATCH,
        about: Mapping[str, str] | None = None,
        **options: Any,
    ) -> MapReduceResult:
        """Answer many prompts, and make one answer of their answers. All of it happens on workers.

        The answers are reduced once, whatever failed; where they are too much for the model, in groups first.

        Args:
            items: What each prompt is made of.
            map: The prompt of an item: a template (see `map`), or a function that makes a prompt of an item.
            reduce: The prompt over all answers, a template: `parts` (their texts, in order), `failed` (the errors'
                types of what failed, as a list of `{"type": ...}`) and `count` (how many there were in all).
            reduce_options: Options of the reduction, where they differ: `{"model": "openai/gpt-4o"}`.
            context_tokens: Tokens that the reduction's model takes, prompt and answer together; default: what LiteLLM
                knows of it.
            budget_usd: See `map`. The reduction itself does not count.
            id: See `map`, as all others.

        Raises:
            PromptError: A template is none, or uses a name that it is not given.
            InvalidRequest: As `map`. Nothing was sent.
            RedisUnreachable: Not all could be sent; nothing was paid for.
        """
        tenant = options.pop("tenant", None) or self.settings.tenant
        step, limit = priority_of(priority), self.settings.max_prompt_bytes
        same: dict[str, Any] = {"tenant": tenant, "priority": step}
        request = self.request("?", **{**options, **(reduce_options or {}), **same})
        plan = plan_of(request, template=reduce, context_tokens=context_tokens, max_prompt_bytes=limit)
        order = MapOrder(id or uuid(), tenant, step, max_in_flight, on_error, budget_usd, dict(about or {}), plan)
        ask = partial(self.request, **{**options, **same})
        prompts = prompts_of(None, map, items, limit) if isinstance(map, str) else made_of(items, map)
        parts = self._executor.maps.start(order, planned_items(ask, prompts))
        return MapReduceResult(self._executor.maps.reduction(order.map_id, tenant), parts)

    async def amap_reduce(self, items: Iterable[Any], **options: Any) -> MapReduceResult:
        """The same, without blocking the event loop: the items are read in a thread."""
        return await asyncio.to_thread(partial(self.map_reduce, items, **options))

    def group(self, map_id: str, *, tenant: str | None = None) -> LLMGroupResult:
        """The handle of a map by its id, perhaps one that another process started."""
        return self._executor.maps.group(map_id, tenant or self.settings.tenant)

    def resume_map(
        self,
        map_id: str,
        *,
        tenant: str | None = None,
        retry_failed: bool = False,
        max_in_flight: int | None = None,
        budget_usd: float | None = None,
    ) -> LLMGroupResult:
        """Go on with a map that was paused, cancelled, stopped by failures, or broken. Pays for what is missing.

        Args:
            map_id: `LLMGroupResult.id`.
            tenant: Whose data it is; default: the client's.
            retry_failed: What failed is tried again.
            max_in_flight: Items at a time from now on; default: as before.
            budget_usd: What all calls may cost together, those before included; default: as before.

        Raises:
            MapExpired: There is no such map, or none any more.
            RedisUnreachable: Redis did not answer.
        """
        tenant = tenant or self.settings.tenant
        changes = checked(MapChanges(retry_failed, max_in_flight, budget_usd))
        return self._executor.maps.resume(map_id, tenant, changes)

    async def aresume_map(self, map_id: str, **options: Any) -> LLMGroupResult:
        """The same, without blocking the event loop."""
        return await asyncio.to_thread(partial(self.resume_map, map_id, **options))

    def result(self, task_id: str) -> LLMResult:
        """The handle of a task by its id, perhaps one that another process sent."""
        return self._executor.result(task_id)

    def cancel(self, task_id: str) -> None:
        """End a task: a queued one is not started, a running call is closed. See LLMResult.cancel."""
        self.result(task_id).cancel()

    async def acancel(self, task_id: str) -> None:
        """The same, without blocking the event loop."""
        await self.result(task_id).acancel()

    async def aclose(self) -> None:
        """Close the running event loop's connections to Redis now. The client stays usable.

        `asyncio.run` closes them by itself, as does whatever else shuts its loop's asynchronous generators down.
        """
        await close_async_clients()

    def _requested(self, prompt: Prompt | CompletionRequest, options: dict[str, Any]) -> CompletionRequest:
        return prompt if isinstance(prompt, CompletionRequest) else self.request(prompt, **options)

    def _lookup(self, request: CompletionRequest) -> Completion | None:
        return self.cache.lookup(request) if request.is_cacheable else None

    async def _alookup(self, request: CompletionRequest) -> Completion | None:
        return await self.cache.alookup(request) if request.is_cacheable else None

    def _submit(self, request: CompletionRequest, task_id: str, *, stream: bool) -> LLMResult:
        remembered = self._lookup(request)
        if remembered is None:
            return self._send(request, task_id, stream=stream)
        if stream:
            self._executor.keep_stream(request, task_id, remembered)
        return LLMResult(task_id, Remembered(remembered))

    async def _asubmit(self, request: CompletionRequest, task_id: str, *, stream: bool) -> LLMResult:
        remembered = await self._alookup(request)
        if remembered is None:
            return await self._asend(request, task_id, stream=stream)
        if stream:
            await asyncio.to_thread(self._executor.keep_stream, request, task_id, remembered)
        return LLMResult(task_id, Remembered(remembered))

    async def _source(self, request: CompletionRequest, task_id: str) -> AnswerSource:
        return (await self._asubmit(request, task_id, stream=True)).source

    def _send(self, request: CompletionRequest, task_id: str, *, stream: bool = False) -> LLMResult:
        sent = self._executor.submit(request, task_id, looked_up=self._looked_up(request), stream=stream)
        return self._kept_here(request, sent)

    async def _asend(self, request: CompletionRequest, task_id: str, *, stream: bool = False) -> LLMResult:
        sent = await self._executor.asubmit(request, task_id, looked_up=self._looked_up(request), stream=stream)
        return self._kept_here(request, sent)

    def _looked_up(self, request: CompletionRequest) -> bool:
        """The executor's own cache was asked: a cache of the caller's own stands before it, not in its place."""
        return request.is_cacheable and self._own_cache is None

    def _kept_here(self, request: CompletionRequest, result: LLMResult) -> LLMResult:
        """Workers keep answers in the fleet's cache; a cache of one's own has to be told here."""
        if self._own_cache is None or not request.is_cacheable:
            return result
        return LLMResult(result.id, RememberedHere(result.source, self._own_cache, request))


def _is_on_a_loop() -> bool:
    """The calling code must not block."""
    try:
        _ = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _settings_for(app: Celery | None, settings: Settings | None) -> Settings:
    return settings_of(app, settings or load_settings()) if app else settings or load_settings()
