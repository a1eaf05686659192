"""The part of a client that asks about files: a map over what a folder holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from kombu.utils.uuid import uuid
from pydantic import ValidationError

from kagura_tasks.errors import InvalidRequest
from kagura_tasks.executors import Executor
from kagura_tasks.file_results import FilesResult
from kagura_tasks.files.asking import FileWork
from kagura_tasks.files.documents import FileRef
from kagura_tasks.files.listing import Files, files_in
from kagura_tasks.files.scanner import Found
from kagura_tasks.mapping import LeftOut, MapOrder, OnError, Planned, PlannedItem
from kagura_tasks.plans import ReducePlan
from kagura_tasks.requests import priority_of, request_of
from kagura_tasks.schemas import CompletionRequest, Priority, problems_of
from kagura_tasks.settings import Settings
from kagura_tasks.signatures import plan_of

#: Tokens of a piece of a long file, where the caller does not say: much for one answer, and little for any model.
_SECTION_TOKENS: Final = 4_000


class FileCalls:
    """What a client does with files."""

    settings: Settings
    _executor: Executor

    def process_files(
        self,
        path_or_files: Files,
        prompt: str,
        *,
        reduce_prompt: str | None = None,
        combine_prompt: str | None = None,
        pattern: str | None = None,
        section_tokens: int = _SECTION_TOKENS,
        upload: bool | None = None,
        id: str | None = None,
        max_in_flight: int | None = None,
        on_error: OnError = "collect",
        budget_usd: float | None = None,
        priority: Priority | str | int = Priority.BATCH,
        about: Mapping[str, str] | None = None,
        **options: Any,
    ) -> FilesResult:
        """Ask the same about each file of a folder. Workers load them, in parsers that are ended at their limits.

        Returns once all files are in Redis by their names, and the first ones on their way. A file whose content did
        not change is neither parsed nor paid for again; of a long one, only the pieces that changed are.

        Args:
            path_or_files: A folder; or files, as paths or references (FileRef).
            prompt: What is asked about each file: Jinja2 over its `text`, `path`, `title` and `media_type`. Where it
                does not use the text, that follows it. Pictures and sound go with it.
            reduce_prompt: What is asked about all answers, once: Jinja2 over `parts` (the answers, each with its file's
                path above it), `failed` and `count`; see `map_reduce`.
            combine_prompt: What is asked about the answers to the pieces of one long file: Jinja2 over `parts`;
                default: nothing, they follow each other.
            pattern: Only files that this matches: "*.md", "docs/**/*.pdf".
            section_tokens: A file of more tokens than these is asked about in pieces, cut where it has sections.
            upload: Send the files' content to Redis, for workers that do not see this disk. Default: where
                `KAGURA_TASKS_FILE_ROOTS` names no folders. Where it does, files are read from there, and from nowhere
                else.
            id: The run's name; default: a new one. One of this name that exists is continued.
            max_in_flight: Files in queues and with workers at a time.
            on_error: See `map`. A file that is skipped has not failed.
            budget_usd: See `map`. What combines and reduces answers does not count.
            priority: See `map`.
            about: See `map`.
            options: See `request`; they count for all calls.

        Raises:
            FileUnreadable: The path is no folder, or cannot be read.
            FileNotAllowed: The folder is in none of the allowed ones.
            PromptError: A prompt is no template, or uses a name that it is not given.
            InvalidRequest: The run cannot be right. Nothing was sent.
            RedisUnreachable: Not all could be sent; nothing was paid for.
        """
        roots = self.settings.allowed_file_roots
        is_sent = self.settings.execution == "queue" and (not roots if upload is None else upload)
        tenant, step = options.pop("tenant", None) or self.settings.tenant, priority_of(priority)
        request = request_of(self.settings, "?", {**options, "tenant": tenant, "priority": step})
        order = MapOrder(
            map_id=id or uuid(),
            tenant=tenant,
            priority=step,
            window=max_in_flight,
            on_error=on_error,
            budget_usd=budget_usd,
            about=dict(about or {}),
            reduce=self._plan(request, reduce_prompt),
            files=self._work(request, prompt, section_tokens, self._plan(request, combine_prompt)),
            upload=is_sent,
        )
        found = files_in(path_or_files, pattern, None if is_sent else roots or None)
        maps = self._executor.maps
        group = maps.start(order, _planned(found))
        return FilesResult(group.id, group.source, maps.reduction(group.id, tenant) if order.reduce else None)

    async def aprocess_files(self, path_or_files: Files, prompt: str, **options: Any) -> FilesResult:
        """The same, without blocking the event loop: the folder is read in a thread."""
        return await asyncio.to_thread(partial(self.process_files, path_or_files, prompt, **options))

    def files(self, run_id: str, *, tenant: str | None = None) -> FilesResult:
        """The handle of a run over files by its id, perhaps one that another process started.

        Its `reduced` is answered only where a `reduce_prompt` was given then.
        """
        maps, tenant = self._executor.maps, tenant or self.settings.tenant
        return FilesResult(run_id, maps.group(run_id, tenant).source, maps.reduction(run_id, tenant))

    def _plan(self, request: CompletionRequest, template: str | None) -> ReducePlan | None:
        limit = self.settings.max_prompt_bytes
        return None if template is None else plan_of(request, template=template, max_prompt_bytes=limit)

    def _work(
        self, request: CompletionRequest, prompt: str, section_tokens: int, combine: ReducePlan | None
    ) -> FileWork:
        fields = request.model_dump(mode="json", exclude_defaults=True, exclude={"messages"})
        limit = self.settings.max_prompt_bytes
        try:
            work = FileWork(
                prompt=prompt, request=fields, section_tokens=section_tokens, combine=combine, max_prompt_bytes=limit
            )
        except ValidationError as error:
            raise InvalidRequest(problems_of(error)) from None
        work.check()
        return work


def _planned(found: Iterable[Found]) -> Iterator[Planned]:
    for one in found:
        yield PlannedItem(one, one.path) if isinstance(one, FileRef) else LeftOut(one)
