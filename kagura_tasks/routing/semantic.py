"""The strategy "semantic": how near a query is to samples, as an embedding model sees it.

An agent's score is the mean of the cosines of its three nearest samples (of fewer, where it has fewer). Its intents are
samples, too; and where it has neither, its description is. To the local model, no two texts are far from each other:
there, a cosine of 0.7 scores 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import sqrt
from operator import mul
from typing import Final

from pydantic import TypeAdapter

from kagura_tasks.routing.decision import Scored
from kagura_tasks.routing.intent import DIGITS
from kagura_tasks.routing.table import LOCAL, Route, RouteTable
from kagura_tasks.schemas import Json

Vector = Sequence[float]

_NEAREST: Final = 3

_LOCAL_FLOOR: Final = 0.7

_SCORES: Final = TypeAdapter(list[Scored])


def samples_of(route: Route) -> tuple[str, ...]:
    """The texts that a query is compared with."""
    return (*route.samples, *route.intents) or (route.description,)


def nearness(table: RouteTable, samples: Sequence[Sequence[Vector]], query: Vector) -> list[Scored]:
    """How near the query is to each agent's samples, given as vectors in their order."""
    floor = _LOCAL_FLOOR if table.embedding == LOCAL else 0.0
    return [_scored(route, vectors, query, floor) for route, vectors in zip(table.routes, samples, strict=True)]


def evidence_of(scores: Sequence[Scored], query: Vector) -> Json:
    """What is recorded of the vectors: cosines, and a digest by which one knows the query's again."""
    digest = hashlib.sha256(",".join(format(value, ".6g") for value in query).encode()).hexdigest()
    return {"scores": [one.model_dump(mode="json") for one in scores], "vector_sha": digest}


def scores_in(evidence: Json) -> list[Scored]:
    """The scores that were recorded. Raises pydantic's ValidationError where there are none."""
    return _SCORES.validate_python(evidence.get("scores"))


def _scored(route: Route, vectors: Sequence[Vector], query: Vector, floor: float) -> Scored:
    texts = samples_of(route)
    near = sorted(((cosine(vector, query), at) for at, vector in enumerate(vectors)), key=lambda one: -one[0])
    best = near[:_NEAREST]
    mean = sum(score for score, _ in best) / len(best) if best else 0.0
    score = round(max(0.0, mean - floor) / (1 - floor), DIGITS)
    return Scored(agent=route.name, score=score, matched=tuple(texts[at] for _, at in best[:1]))


def cosine(one: Vector, other: Vector) -> float:
    """Of the angle between the two: 1 is the same direction. 0 where one of them has none."""
    lengths = sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    return min(1.0, sum(map(mul, one, other)) / lengths) if lengths else 0.0
