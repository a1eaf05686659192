"""Text as it is compared: folded, and cut into words, or into pairs and triples of characters without blanks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

#: Scripts that write no blanks between words; and Korean, whose particles hang on its words.
_UNSPACED: Final = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
    "\uac00-\ud7af"  # Korean
)
_RUN: Final = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED} ]+")
_BLANKS_IN_UNSPACED: Final = re.compile(rf"(?<=[{_UNSPACED}])\s+(?=[{_UNSPACED}])")
_IS_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
#: What is all Hiragana is grammar, mostly: particles, endings, politeness.
_HIRAGANA: Final = re.compile("[\u3040-\u309f\u30fc]+")

#: English words that say little about what a query is for, and how much they weigh.
_STOP_WEIGHT: Final = 0.25
_STOP_WORDS: Final = """
a about all am an and any are as at be been but by can could did do does for from get give had has
have hello hey hi how i if in into is it its just let like make may me might my need no not of on or
our out over please show so some tell thank thanks that the their them then there these they this
those to up us use want was we were what when where which who why will with would you your
"""

_ENDINGS: Final = ("ing", "ed", "s")
_LEAST_STEM: Final = 3


@dataclass(frozen=True)
class Terms:
    """A text, ready to be compared.

    Attributes:
        words: Its words as stems, and its runs of scripts without blanks, in order.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Terms:
        """The text's terms. Takes time in proportion to its length, whatever is in it."""
        joined = _BLANKS_IN_UNSPACED.sub("", folded(text))
        plain = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in joined)
        return cls(tuple(run if _IS_UNSPACED.match(run) else _stem(run) for run in _RUN.findall(plain)))

    @cached_property
    def line(self) -> str:
        """The words with a blank around each, so that a phrase is found in it at the bounds of words."""
        return f" {' '.join(self.words)} "

    @cached_property
    def phrase(self) -> str:
        """What to look for in another's line. Where a run without blanks begins or ends, words have no bounds."""
        if not self.words:
            return ""
        before, behind = ("" if _IS_UNSPACED.match(word) else " " for word in (self.words[0], self.words[-1]))
        return f"{before}{' '.join(self.words)}{behind}"

    @cached_property
    def features(self) -> tuple[str, ...]:
        """What says what the text is about: each once, in order of appearance."""
        return tuple(dict.fromkeys(_features(self.words)))


def weight_of(feature: str) -> float:
    """What the feature weighs by itself: a word that says little counts little."""
    return _STOP_WEIGHT if feature in _STOP_STEMS else 1.0


def folded(text: str) -> str:
    """The text without differences that do not matter: width, case, composition."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _features(words: tuple[str, ...]) -> Iterator[str]:
    for word in words:
        if not _IS_UNSPACED.match(word) or len(word) == 1:
            yield word
        else:
            grams = (word[at : at + size] for size in (2, 3) for at in range(len(word) - size + 1))
            yield from (gram for gram in grams if not _HIRAGANA.fullmatch(gram))


def _stem(word: str) -> str:
    """The word without an English plural, -ing or -ed. In other languages it hits both sides."""
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= _LEAST_STEM and not word.endswith("ss"):
            word = stem
            break
    if len(word) > _LEAST_STEM and word[-1] == word[-2]:
        word = word[:-1]
    if len(word) > _LEAST_STEM and word[-1] == "e":
        word = word[:-1]
    return f"{word[:-1]}i" if len(word) > _LEAST_STEM and word[-1] == "y" else word


_STOP_STEMS: Final = frozenset(map(_stem, _STOP_WORDS.split()))
