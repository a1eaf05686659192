"""What is asked of a model about a file: its pieces, each with the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from pydantic import Field, ValidationError

from kagura_tasks.errors import FileEmpty, FileError, InvalidRequest, KaguraTasksError, PromptTooLarge
from kagura_tasks.files.chunking import stable_chunks
from kagura_tasks.files.documents import Document, FileRef, FileRow, failed_row
from kagura_tasks.files.loading import FileLoader
from kagura_tasks.files.parts import require_taken
from kagura_tasks.plans import ReducePlan
from kagura_tasks.prompts import PromptTemplate
from kagura_tasks.schemas import CompletionRequest, Json, Message, Wire, problems_of
from kagura_tasks.tokens import estimated_tokens

#: What a prompt may use of a file. Where it does not use the text, that follows it.
_TEXT: Final = "text"
_NAMES: Final = frozenset({_TEXT, "path", "title", "media_type"})


class FileWork(Wire):
    """What is asked of each file.

    Attributes:
        prompt: Jinja2 over a piece's `text` and `title` and the file's `path` and `media_type`. Where it does not use
            the text, that follows it.
        request: A CompletionRequest as JSON, without its messages.
        section_tokens: Of a longer file, each piece of so many tokens at most, by estimate, is asked for itself.
        combine: What becomes of the answers to the pieces of one file; None: they follow each other.
        max_prompt_bytes: Largest prompt, pictures and sound not counted.
    """

    prompt: str
    request: Json
    section_tokens: int = Field(gt=0)
    combine: ReducePlan | None = None
    max_prompt_bytes: int = Field(default=1_000_000, gt=0)

    def check(self) -> None:
        """Raise PromptError where the prompt is no template, or InvalidRequest where the rest is no request."""
        if not self.prompt.strip():
            raise InvalidRequest("the prompt is empty")
        _ = _parsed(self.prompt)
        _ = self._request("?")

    def asked(self, document: Document) -> AskedFile:
        """What is asked of this file.

        Raises:
            FileEmpty: There is nothing to ask about.
            PartRefused: The model's provider does not take its pictures or its sound.
            PromptError, PromptTooLarge: The prompt cannot be made of it.
        """
        if not document.text.strip() and not document.parts:
            raise FileEmpty(document.path)
        request = self._request("?")
        require_taken(document.path, document.parts, request.model)
        asks = tuple(request.model_copy(update={"messages": (turn,)}) for turn in self._turns(document))
        return AskedFile(path=document.path, asks=asks, combine=self.combine)

    def _turns(self, document: Document) -> Iterator[Message]:
        """A turn of the user for each piece; pictures and sound go with the first."""
        pieces = [(piece.text, piece.title) for piece in stable_chunks(document, self.section_tokens, estimated_tokens)]
        parts = document.parts
        for text, title in pieces or [("", "")]:
            if not text.strip() and not parts:
                continue
            prompt = self._prompt(document, text, title)
            yield Message(role="user", content=[{"type": "text", "text": prompt}, *parts] if parts else prompt)
            parts = ()

    def _prompt(self, document: Document, text: str, title: str) -> str:
        values = {"text": text, "title": title, "path": document.path, "media_type": document.media_type}
        template, takes_text = _parsed(self.prompt)
        prompt = template.render(values, self.max_prompt_bytes)
        if text.strip() and not takes_text:
            prompt = f"{prompt}\n\n<file>\n{text.strip()}\n</file>"
        if (size_bytes := len(prompt.encode("utf-8", "replace"))) > self.max_prompt_bytes:
            raise PromptTooLarge(size_bytes, self.max_prompt_bytes)
        return prompt

    def _request(self, prompt: str) -> CompletionRequest:
        try:
            return CompletionRequest.model_validate(
                {**self.request, "messages": (Message(role="user", content=prompt),)}
            )
        except ValidationError as error:
            raise InvalidRequest(problems_of(error)) from None


class AskedFile(Wire):
    """A file that was loaded, as its item of a map is kept from then on.

    Attributes:
        path: Where it is below its root.
        asks: What is asked, piece by piece.
        combine: See FileWork.
    """

    path: str
    asks: tuple[CompletionRequest, ...] = Field(min_length=1)
    combine: ReducePlan | None = None


class Looked(NamedTuple):
    """A file that somebody looked at: what became of it, and what is asked of it, or why nothing can be."""

    row: FileRow
    asked: AskedFile | None
    error: KaguraTasksError | None


async def look(loader: FileLoader, ref: FileRef, work: FileWork) -> Looked:
    """Load the file, and see what is asked of it. Raises what the loader's uploads raise where Redis is away."""
    row, document = await loader.load(ref)
    if document is None:
        return Looked(row, None, row.exception)
    try:
        # A long text takes a while: not on the loop.
        return Looked(row, await asyncio.to_thread(work.asked, document), None)
    except (FileError, InvalidRequest) as error:
        return Looked(failed_row(error, row), None, error)


@lru_cache(maxsize=64)
def _parsed(prompt: str) -> tuple[PromptTemplate, bool]:
    """The template, and whether it takes the text itself. Raises PromptError."""
    template = PromptTemplate.parse(prompt, _NAMES, "the files")
    return template, _TEXT in PromptTemplate.parse(prompt, None, "the files").names
