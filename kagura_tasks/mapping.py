"""From what a caller writes to the items of a map: requests, checked before any of them is paid for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal, NamedTuple, Protocol, cast

from kagura_tasks.errors import InvalidRequest, ItemInvalid
from kagura_tasks.files.asking import FileWork
from kagura_tasks.files.documents import FileRef, FileRow
from kagura_tasks.groups import LLMGroupResult, MapItem
from kagura_tasks.maps.store import MapChanges
from kagura_tasks.plans import ReducePlan
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.requests import Prompt
from kagura_tasks.results import LLMResult
from kagura_tasks.schemas import CompletionRequest, Priority

#: What a map may be made of.
Promptlike = Prompt | CompletionRequest | MapItem

#: What a failed item does: nothing to the others, stop them, or stop them where more than this part of all failed.
OnError = Literal["collect", "fail"] | float

#: Items of one map.
MOST_ITEMS: Final = 1_000_000

#: Items of one map in flight at a time: they are sent in one step, in which Redis does nothing else.
MOST_IN_FLIGHT: Final = 10_000

_CUSTOM_ID_CHARS: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class PlannedItem(NamedTuple):
    """An item whose request was checked, or a file to ask about; and the caller's name for it, or ""."""

    request: CompletionRequest | FileRef
    custom_id: str


class LeftOut(NamedTuple):
    """What was found among files, and is no item: why, its row says."""

    row: FileRow


#: What a map is made of.
Planned = PlannedItem | LeftOut


@dataclass(frozen=True)
class MapOrder:
    """What is asked for, beside the items.

    Attributes:
        map_id: The map's id.
        tenant: Whose data it is.
        priority: Before whom its items are served.
        window: Items in flight at a time; None: as the settings say.
        on_error: What a failed item does.
        budget_usd: What its calls may cost together; None: there is no limit.
        about: What the caller wants to find again with the map.
        reduce: What becomes of all answers, once; None: nothing.
        files: What is asked of each item, where the items are files.
        upload: Workers do not see the disk on which the files are.
    """

    map_id: str
    tenant: str
    priority: Priority
    window: int | None = None
    on_error: OnError = "collect"
    budget_usd: float | None = None
    about: dict[str, str] = field(default_factory=dict[str, str])
    reduce: ReducePlan | None = None
    files: FileWork | None = None
    upload: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what can be right for no map."""
        _ = checked(MapChanges(window=self.window, budget_usd=self.budget_usd))
        is_part = isinstance(self.on_error, int | float) and 0 <= self.on_error <= 1
        if not is_part and self.on_error not in ("collect", "fail"):
            raise InvalidRequest('on_error is "collect", "fail", or the part of the items that may fail (0.05)')

    def max_failed(self, total: int) -> int:
        """More failures than these stop the map; -1: none do."""
        if self.on_error == "collect":
            return -1
        return 0 if self.on_error == "fail" else int(total * float(self.on_error))


def checked(changes: MapChanges) -> MapChanges:
    """The changes. Raises InvalidRequest for what can be right for no map."""
    if changes.window is not None and not 0 < changes.window <= MOST_IN_FLIGHT:
        raise InvalidRequest(f"max_in_flight is a number from 1 to {MOST_IN_FLIGHT:,}")
    if changes.budget_usd is not None and not 0 < changes.budget_usd < inf:
        raise InvalidRequest("budget_usd is a number above 0")
    return changes


class Maps(Protocol):
    """Whoever works on maps."""

    def start(self, order: MapOrder, items: Iterable[Planned]) -> LLMGroupResult:
        """Work on the items; nothing is paid for before all are read. A map of this id that exists is resumed."""
        ...

    def group(self, map_id: str, tenant: str) -> LLMGroupResult:
        """The handle of a map."""
        ...

    def reduction(self, map_id: str, tenant: str) -> LLMResult:
        """The handle of the one answer that a map's answers are reduced to."""
        ...

    def resume(self, map_id: str, tenant: str, changes: MapChanges) -> LLMGroupResult:
        """Go on with a map that was stopped, or broken. Raises MapExpired."""
        ...


#: Makes a request of a prompt. See LLMClient.request.
Ask = Callable[[Prompt], CompletionRequest]


def planned_items(ask: Ask, prompts: Iterable[Promptlike]) -> Iterator[PlannedItem]:
    """The items, one by one as they are asked for. Raises ItemInvalid, which says which one is wrong."""
    for index, prompt in enumerate(prompts):
        if index >= MOST_ITEMS:
            raise InvalidRequest(f"a map has at most {MOST_ITEMS:,} items")
        try:
            yield _planned(ask, prompt)
        except InvalidRequest as error:
            raise ItemInvalid(index, str(error)) from None


def prompts_of(
    prompts: Iterable[Promptlike] | None, template: str | None, rows: Iterable[object] | None, limit_bytes: int
) -> Iterable[Promptlike]:
    """The prompts, or those that the template makes of the rows.

    Raises InvalidRequest where it is neither, or both, and PromptError where the template is wrong.
    """
    if prompts is not None and template is None and rows is None:
        if isinstance(prompts, str):
            raise InvalidRequest("a map takes a list of prompts; `submit` takes one")
        return prompts
    if prompts is None and template is not None and rows is not None:
        return _rendered(PromptTemplate.parse(template, None, "the map"), rows, limit_bytes)
    raise InvalidRequest("a map takes prompts, or a template and the rows to fill it with")


def made_of(items: Iterable[Any], prompt_of: Callable[[Any], Promptlike]) -> Iterator[Promptlike]:
    """The prompts that the function makes of the items. Raises ItemInvalid where it refuses one as invalid."""
    for index, item in enumerate(items):
        try:
            yield prompt_of(item)
        except InvalidRequest as error:
            raise ItemInvalid(index, str(error)) from None


def _rendered(template: PromptTemplate, rows: Iterable[object], limit_bytes: int) -> Iterator[str]:
    """A prompt for each row. Raises ItemInvalid where a row lacks one of the template's fields."""
    for index, row in enumerate(rows):
        values: dict[str, object] = {"item": row}
        if isinstance(row, Mapping):
            values |= cast("Mapping[str, object]", row)
        try:
            yield template.render(values, limit_bytes)
        except InvalidRequest as error:
            raise ItemInvalid(index, str(error)) from None


def _planned(ask: Ask, prompt: Promptlike) -> PlannedItem:
    custom_id = ""
    if isinstance(prompt, MapItem):
        prompt, custom_id = prompt.prompt, prompt.custom_id
        if len(custom_id) > _CUSTOM_ID_CHARS or _CONTROL.search(custom_id):
            raise InvalidRequest(f"custom_id: at most {_CUSTOM_ID_CHARS} characters, in one line")
    return PlannedItem(prompt if isinstance(prompt, CompletionRequest) else ask(prompt), custom_id)
