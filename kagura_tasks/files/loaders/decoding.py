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
    """The encoding that it looks most like."""
    if b"\0" in data:
        return "utf-16-be" if data[0::2].count(0) > data[1::2].count(0) else "utf-16-le"
    beginning = data[:_GUESS_BYTES]
    # charset-normalizer takes EUC-JP for Korean, and French for Baltic.
    for encoding, looks_right in (("cp932", _is_japanese), ("euc_jp", _is_japanese), ("cp1252", _is_western)):
        if looks_right(_as_far_as_it_goes(beginning, encoding)):
            return encoding
    from charset_normalizer import from_bytes

    best = from_bytes(beginning).best()
    return best.encoding if best is not None else "cp1252"


def _as_far_as_it_goes(beginning: bytes, encoding: str) -> str:
    """The text, whose last character may be cut; "" where it is none in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(beginning)
    except UnicodeDecodeError:
        return ""


def _is_japanese(text: str) -> bool:
    """A good part of it is kana: in another encoding, bytes seldom make any."""
    return sum("\u3041" <= sign <= "\u30ff" for sign in text) > 0.2 * len(text)


def _is_western(text: str) -> bool:
    """A few letters have accents, and those of Western Europe. Cyrillic in this guise is nothing but accents."""
    letters = [sign for sign in text if sign.isalpha()]
    others = [sign for sign in text if not sign.isascii()]
    accented = sum(not sign.isascii() for sign in letters)
    return accented < 0.4 * len(letters) and sum(sign in _WESTERN for sign in others) > 0.97 * len(others)


_WESTERN: Final = frozenset("àâäáãåæçèéêëìíîïñòóôöõøœùúûüýÿßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜ¡¿«»„“”…€£§°·©®") | frozenset(
    "\xa0\u2013\u2014\u2018\u2019"  # a space, dashes and single quotes that linters take for others
)
