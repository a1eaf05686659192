"""The strategy "intent": words and phrases that were written down. No model, no network, well below a millisecond.

How well a phrase fits a query, from 0 to 1 (weights as below; `shared` is what both have):

    the same words                  1
    an intent inside the query      0.7 + 0.3 * weight(intent) / weight(query)
    parts of an intent              0.6 * weight(shared) / weight(intent)
    words of a sample               0.8 * weight(shared) / sqrt(weight(sample) * weight(query))

An agent's score is that of its best phrase, b, and what the best other intent inside the query, s, adds:
1 - (1 - b) * (1 - s / 2). The weight of a text is that of its features together: its words, and the pairs and triples
of characters of scripts without blanks. A feature that d of n agents have weighs 1 - log(d) / log(n + 1); one that is a
stop word, a quarter of that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Final

from kagura_tasks.routing.decision import Scored
from kagura_tasks.routing.table import Route
from kagura_tasks.routing.terms import Terms, weight_of

_INSIDE: Final = 0.7
_PARTS: Final = 0.6
_SAMPLE: Final = 0.8

#: Scores are told, and compared, with so many digits.
DIGITS: Final = 4


@dataclass(frozen=True)
class _Phrase:
    """One intent or sample."""

    agent: int
    text: str
    terms: Terms
    is_intent: bool
    weight: float

    def is_inside(self, query: Terms) -> bool:
        return self.is_intent and bool(self.terms.phrase) and self.terms.phrase in query.line

    def fit(self, query: Terms, query_weight: float, shared: float) -> float:
        """How well it fits a query with which it shares features of this weight."""
        if self.terms.words == query.words:
            return 1.0
        if self.is_inside(query):
            return _INSIDE + (1 - _INSIDE) * min(1.0, self.weight / query_weight if query_weight else 0.0)
        if not shared:
            return 0.0
        if self.is_intent:
            return _PARTS * shared / self.weight
        return _SAMPLE * shared / sqrt(self.weight * query_weight)


class IntentIndex:
    """The agents' phrases, ready to be compared with queries."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Cut all phrases into terms, once."""
        self._names = [route.name for route in routes]
        terms = [
            [*((text, Terms.of(text), True) for text in route.intents),
             *((text, Terms.of(text), False) for text in route.samples)]
            for route in routes
        ]  # fmt: skip
        self._weights = _weights([{feature for _, one, _ in each for feature in one.features} for each in terms])
        self._phrases = [
            _Phrase(agent, text, one, is_intent, self._weight(one.features))
            for agent, each in enumerate(terms)
            for text, one, is_intent in each
            if one.words
        ]
        self._having: defaultdict[str, list[int]] = defaultdict(list)
        for number, phrase in enumerate(self._phrases):
            for feature in phrase.terms.features:
                self._having[feature].append(number)

    def scores(self, text: str) -> list[Scored]:
        """All agents, in their order, and how well each fits the text."""
        query = Terms.of(text)
        query_weight = self._weight(query.features)
        shared = self._shared(query)
        fits: list[list[tuple[float, _Phrase]]] = [[] for _ in self._names]
        for number, phrase in enumerate(self._phrases):
            if fit := round(phrase.fit(query, query_weight, shared[number]), DIGITS):
                fits[phrase.agent].append((fit, phrase))
        return [_scored(name, query, found) for name, found in zip(self._names, fits, strict=True)]

    def _shared(self, query: Terms) -> list[float]:
        """For each phrase, the weight of what it has in common with the query."""
        shared = [0.0] * len(self._phrases)
        for feature in query.features:
            for number in self._having.get(feature, ()):
                shared[number] += self._weights[feature]
        return shared

    def _weight(self, features: Iterable[str]) -> float:
        return sum(self._weights.get(feature) or weight_of(feature) for feature in features)


def _weights(agents: Sequence[set[str]]) -> dict[str, float]:
    """What each feature weighs: one that many agents have says little."""
    counts: defaultdict[str, int] = defaultdict(int)
    for features in agents:
        for feature in features:
            counts[feature] += 1
    most = log(len(agents) + 1)
    return {feature: weight_of(feature) * (1 - log(count) / most) for feature, count in counts.items()}


def _scored(name: str, query: Terms, fits: list[tuple[float, _Phrase]]) -> Scored:
    if not fits:
        return Scored(agent=name, score=0.0)
    first, *others = sorted(fits, key=lambda one: -one[0])
    # Parts of several phrases are often the same words: they count once.
    second = next((one for one in others if one[1].is_inside(query)), None)
    score = 1 - (1 - first[0]) * (1 - second[0] / 2) if second else first[0]
    matched = (first[1].text, second[1].text) if second else (first[1].text,)
    return Scored(agent=name, score=round(score, DIGITS), matched=matched)
