"""What became of many files: the handle of a run over them, and a row for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from kagura_tasks.errors import FileError, InvalidRequest, KaguraTasksError, ResultTimeout
from kagura_tasks.files.documents import FileRow, failed_row
from kagura_tasks.groups import GroupHandle, GroupSource, MapOutcome, Outcomes
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import Completion, Json
from kagura_tasks.sources import WAITING


@dataclass(frozen=True)
class FileOutcome:
    """What became of a file, and what the model said of it.

    Attributes:
        row: The file's line of the manifest: "ok", "cached" (nothing was parsed and nothing was paid for), "failed" or
            "skipped", and why.
        completion: The answer; None where there is none.
        cursor: What to give as `after`, to go on reading behind this one.
    """

    row: FileRow
    completion: Completion | None = None
    cursor: int = 0

    @property
    def path(self) -> str:
        """Where the file is below its root."""
        return self.row.path

    @property
    def error(self) -> KaguraTasksError | None:
        """What kept it from an answer; None where it has one, or a rule has left it out."""
        return self.row.exception

    def get(self) -> Completion:
        """The answer. Raises the error where there is none, or InvalidRequest for what a rule has left out."""
        if self.completion is None:
            raise self.error or InvalidRequest(f"{self.path} was skipped ({self.row.reason}): it has no answer")
        return self.completion

    def to_json(self) -> Json:
        """The line of a manifest: the row's fields, and of an answer `answer`, `model`, `usage` and `finish_reason`."""
        line = cast(Json, self.row.model_dump(mode="json", exclude_defaults=True))
        if self.completion is None:
            return line
        said = self.completion
        usage = cast(Json, said.usage.model_dump(mode="json"))
        return {**line, "answer": said.text, "model": said.model, "finish_reason": said.finish_reason, "usage": usage}


class FilesResult(GroupHandle):
    """The answers about many files, there or on their way. Iterate it with `for` or `async for`, as files end.

    Files that fail do not raise: each has its row with the typed error. What raises is what befell the run as a whole;
    see LLMGroupResult.

    Attributes:
        id: The id of the run, which is a map: with it, any process can follow it (`LLMClient.files`) or go on
            (`LLMClient.resume_map`, which can also try again what failed).
        source: Where the outcomes come from.
    """

    def __init__(self, map_id: str, source: GroupSource, reduced: LLMResult | None) -> None:
        """Take the id, where outcomes come from, and the handle of the answer over all files, if there will be one."""
        super().__init__(map_id, source)
        self._reduced = reduced

    @property
    def reduced(self) -> LLMResult:
        """The answer over all files. Raises InvalidRequest where no `reduce_prompt` was given."""
        if self._reduced is None:
            raise InvalidRequest("there is no answer over all files: give process_files a reduce_prompt")
        return self._reduced

    def get(self, timeout_s: float | None = None) -> list[FileOutcome]:
        """What became of everything that was found, in the order of the paths.

        Args:
            timeout_s: Seconds to wait at most; default: for as long as files end, `KAGURA_TASKS_WAIT_TIMEOUT_S` apart.
        """
        return WAITING.run(self.aget(timeout_s))

    async def aget(self, timeout_s: float | None = None) -> list[FileOutcome]:
        """The same, without blocking the event loop."""
        try:
            async with asyncio.timeout(timeout_s):
                return [outcome async for outcome in self.in_order()]
        except TimeoutError as error:
            raise error if isinstance(error, ResultTimeout) else ResultTimeout(self.id, timeout_s or 0.0) from None

    def __await__(self) -> Generator[Any, None, list[FileOutcome]]:
        """`await result` is `await result.aget()`."""
        return self.aget().__await__()

    def stream(self, after: int = 0) -> Outcomes[FileOutcome]:
        """What becomes of the files, as they end; first of all what is left out. For `for`, and for `async for`.

        Args:
            after: The `cursor` of the last one that was read; 0 reads all.
        """
        return Outcomes(self._as_they_end, after)

    def __iter__(self) -> Iterator[FileOutcome]:
        """See `stream`."""
        return iter(self.stream())

    def __aiter__(self) -> AsyncIterator[FileOutcome]:
        """See `stream`."""
        return aiter(self.stream())

    def in_order(self) -> Outcomes[FileOutcome]:
        """The same in the order of the paths; each once those before it are there."""
        return Outcomes(lambda _: self._by_path(), 0)

    async def _as_they_end(self, after: int) -> AsyncGenerator[list[FileOutcome]]:
        left_out = [] if after else [FileOutcome(row) for _, row in await self.source.left_out()]
        if left_out:
            yield left_out
        async with aclosing(self._pages(self.source.outcomes, after)) as pages:
            async for page in pages:
                yield [outcome for _, outcome in page]

    async def _by_path(self) -> AsyncGenerator[list[FileOutcome]]:
        left_out = await self.source.left_out()
        async with aclosing(self._pages(self.source.ordered, 0)) as pages:
            async for page in pages:
                merged: list[FileOutcome] = []
                for index, outcome in page:
                    while left_out and left_out[0][0] <= index:
                        merged.append(FileOutcome(left_out.pop(0)[1], cursor=index))
                    merged.append(outcome)
                yield merged
        if left_out:
            yield [FileOutcome(row) for _, row in left_out]

    async def _pages(
        self, read: Callable[[int], AsyncGenerator[list[MapOutcome]]], after: int
    ) -> AsyncGenerator[list[tuple[int, FileOutcome]]]:
        """The outcomes of files with their numbers, as the map's pages come."""
        async with aclosing(read(after)) as pages:
            async for page in pages:
                rows = await self.source.rows([outcome.index for outcome in page])
                yield list(_told(page, rows))


def _told(page: Sequence[MapOutcome], rows: Sequence[FileRow | None]) -> Iterator[tuple[int, FileOutcome]]:
    for outcome, row in zip(page, rows, strict=True):
        told = _row(outcome, row or FileRow(path=outcome.custom_id, status="ok"))
        yield outcome.index, FileOutcome(told, outcome.completion, outcome.cursor)


def _row(outcome: MapOutcome, row: FileRow) -> FileRow:
    """What became of the file in the end: loading it was only the beginning."""
    if outcome.completion is not None:
        is_cached = row.status == "cached" and outcome.completion.cached
        return row.model_copy(update={"status": "cached" if is_cached else "ok", "reason": "", "error": None})
    error = outcome.error
    is_told = isinstance(error, FileError) and row.error is not None
    return row if error is None or is_told else failed_row(error, row)
