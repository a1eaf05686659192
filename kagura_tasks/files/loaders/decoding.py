"""From bytes to text, whatever the encoding."""

from __future__ import annotations

import codecs
from typing import Final

from kagura_tasks.files.loaders.source import Output

#: So much of a file is enough to guess from; the guess takes a second for a megabyte.
_GUESS_BYTES: Final = 100_000

# UTF-32's mark begins with that of UTF-16.
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(data: bytes, out: Output, declared: str = "") -> str:
    """The text: as its byte order mark says, else UTF-8, else as declared, else by a guess, of which `out` is told.

    Ends of lines become `\\n`. What is no text in the encoding becomes U+FFFD, and `out` is told of that, too.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _lines(_replaced(data, encoding, out))
    for encoding in ("utf-8", *([declared] if declared else [])):
        try:
            # Zeros are no UTF-8 that anybody writes: they are half of UTF-16.
            if not (encoding == "utf-8" and b"\0" in data):
                return _lines(data.decode(encoding))
        except (UnicodeDecodeError, LookupError):
            continue
    guess = _guess(data)
    out.warn(f"its encoding is not declared: read as {guess}")
    return _lines(_replaced(data, guess, out))


def _replaced(data: bytes, encoding: str, out: Output) -> str:
    text = data.decode(encoding, "replace")
    if "\ufffd" in text:
        out.warn(f"some of it is no {encoding}, and was replaced by U+FFFD")
    return text


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess(data: bytes) -> str:
    """The encoding that it looks most like. Western Europe's wins where nothing tells it from others of its kind."""
    if b"\0" in data:
        return "utf-16-be" if data[0::2].count(0) > data[1::2].count(0) else "utf-16-le"
    from charset_normalizer import from_bytes

    matches = from_bytes(data[:_GUESS_BYTES])
    best = matches.best()
    if best is None:
        return "cp1252"
    western = next((match for match in matches if match.encoding in ("cp1252", "latin_1")), None)
    if best.encoding in _LATIN_PAGES and western is not None and western.chaos <= best.chaos:
        return "cp1252"
    return best.encoding


#: Code pages of the Latin alphabet: short texts fit several of them equally well.
_LATIN_PAGES: Final = frozenset(
    {"cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "latin_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_9"}
    | {"iso8859_10", "iso8859_13", "iso8859_14", "iso8859_15", "iso8859_16", "cp437", "cp850", "cp852", "cp858"}
    | {"mac_roman", "mac_latin2", "mac_iceland", "mac_turkish", "hp_roman8", "cp500", "cp037", "cp273", "cp1140"}
)
