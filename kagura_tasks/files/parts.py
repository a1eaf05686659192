"""Which content a model's provider takes. What it does not is refused here: LiteLLM may drop it without a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kagura_tasks.errors import PartRefused
from kagura_tasks.files.documents import Document
from kagura_tasks.schemas import Json

_GEMINI: Final = frozenset({"image", "video", "pdf", "audio/wav", "audio/mp3", "audio/flac", "audio/ogg", "audio/mp4"})
_OPENAI: Final = frozenset({"image", "pdf", "audio/wav", "audio/mp3"})

#: What reaches each provider through LiteLLM; others are taken to take text alone.
TAKEN_BY: Final[dict[str, frozenset[str]]] = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    # Sound is dropped in silence.
    "anthropic": frozenset({"image", "pdf"}),
    "bedrock": frozenset({"image", "pdf"}),
    "gemini": _GEMINI,
    "vertex_ai": _GEMINI,
    # A list with neither pictures nor files becomes its text: sound is dropped in silence, too.
    "mistral": frozenset({"image"}),
    "groq": frozenset({"image"}),
    "xai": frozenset({"image"}),
    "openrouter": _OPENAI,
    "ollama": frozenset({"image"}),
    "ollama_chat": frozenset({"image"}),
    "hosted_vllm": frozenset({"image", "audio/wav", "audio/mp3"}),
}

#: Models of these makers are known without a provider in front.
_BY_NAME: Final = (("gpt-", "openai"), ("o1", "openai"), ("o3", "openai"), ("o4", "openai"), ("claude", "anthropic"))


def document_content(document: Document, model: str) -> str | list[Json]:
    """What a message says of the document: its text, and where it has media, text and parts.

    Raises:
        PartRefused: The model's provider does not take one of the parts.
    """
    if not document.parts:
        return document.text
    require_taken(document.path, document.parts, model)
    text: list[Json] = [{"type": "text", "text": document.text}] if document.text.strip() else []
    return [*text, *document.parts]


def require_taken(path: str, parts: Iterable[Json], model: str) -> None:
    """Raise PartRefused where the model's provider does not take one of the parts; `path` is whose they are."""
    taken = TAKEN_BY.get(_provider_of(model), frozenset[str]())
    for part in parts:
        kind = kind_of_part(part)
        if kind != "text" and kind not in taken:
            raise PartRefused(path, kind, model)


def kind_of_part(part: Json) -> str:
    """What a content part is: text, image, video, pdf, audio/<format>; or its own `type`."""
    match part:
        case {"type": "image_url"}:
            return "image"
        case {"type": "input_audio", "input_audio": {"format": str(form)}}:
            return f"audio/{form}"
        case {"type": "file", "file": {"file_data": str(url)}}:
            media_type = url.removeprefix("data:").partition(";")[0]
            return "pdf" if media_type == "application/pdf" else media_type.partition("/")[0]
        case _:
            return str(part.get("type"))


def _provider_of(model: str) -> str:
    provider, slash, _ = model.partition("/")
    if slash:
        return provider
    return next((maker for start, maker in _BY_NAME if model.startswith(start)), "")
