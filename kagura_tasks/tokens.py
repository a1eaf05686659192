"""How many tokens a text has, or nearly so: where no tokenizer is at hand, and none would fit all models."""

from __future__ import annotations

from typing import Final

#: Bytes of a token, or nearly so in any language: four letters of English, a little more than one sign of Japanese.
TOKEN_BYTES: Final = 4


def estimated_tokens(text: str) -> int:
    """How many tokens the text has, by estimate."""
    return len(text.encode("utf-8", "surrogatepass")) // TOKEN_BYTES
