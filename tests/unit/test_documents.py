"""What of a document a model gets, what its provider does not take, and rows of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kagura_tasks.errors import FileError, FileTooLarge, PartRefused, TaskFailed
from kagura_tasks.files.documents import Document, FileRow
from kagura_tasks.files.parts import document_content, kind_of_part


def document_with(*parts: dict[str, Any], text: str = "About.") -> Document:
    fields: dict[str, Any] = {"path": "a", "media_type": "x/y", "size_bytes": 1, "sha256": "0" * 64, "loader": "t/1"}
    return Document(text=text, parts=parts, **fields)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
FLAC = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "flac"}}
FILM = {"type": "file", "file": {"file_data": "data:video/mp4;base64,AA=="}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        ("gemini/gemini-2.5-flash", [IMAGE, SOUND, FLAC, FILM, PDF]),
        ("openai/gpt-4o-audio-preview", [IMAGE, SOUND, PDF]),
        ("gpt-4o", [IMAGE, SOUND, PDF]),
        ("anthropic/claude-sonnet-4-5", [IMAGE, PDF]),
        ("claude-sonnet-4-5", [IMAGE, PDF]),
        ("mistral/pixtral-large-latest", [IMAGE]),
        ("some/model", []),
    ],
)
def test_what_a_provider_does_not_take_is_refused(model: str, taken: Sequence[dict[str, Any]]):
    """Before anything is sent: LiteLLM drops sound for some without a word."""
    for part in (IMAGE, SOUND, FLAC, FILM, PDF):
        document = document_with(part)
        if part in taken:
            assert document_content(document, model) == [{"type": "text", "text": "About."}, part]
        else:
            with pytest.raises(PartRefused) as refused:
                document_content(document, model)
            assert (refused.value.path, refused.value.kind) == ("a", kind_of_part(part))


def test_text_alone_is_a_text_for_every_model():
    """And media without text are parts alone."""
    assert document_content(document_with(), "some/model") == "About."
    assert document_content(document_with(IMAGE, text=""), "gpt-4o") == [IMAGE]


def test_rows_cross_the_wire_whole():
    """A row is a line of the manifest, and its error is the one that was raised."""
    error = FileTooLarge("a.txt", 3, 2, "bytes", "KAGURA_TASKS_FILE_MAX_BYTES")
    row = FileRow(path="a.txt", status="failed", error={"type": "FileTooLarge", "args": list(error.args)})
    arrived = FileRow.model_validate_json(row.model_dump_json())
    assert isinstance(arrived.exception, FileError)
    assert (type(arrived.exception), arrived.exception.args) == (FileTooLarge, error.args)
    forged = FileRow(path="a", status="failed", error={"type": "SystemExit", "args": []})
    assert isinstance(forged.exception, TaskFailed)
