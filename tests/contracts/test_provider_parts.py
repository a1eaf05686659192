"""The table of what providers take is true of LiteLLM: what it says goes out, and what is dropped is not in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kagura_tasks.files.parts import TAKEN_BY
from tests.support.parts_sent import MODELS
from tests.support.workers import NOT_INHERITED, ROOT

KINDS = sorted(set().union(*TAKEN_BY.values()))

#: Who loses sound in silence, in the version that is locked.
DROP_SOUND = {"anthropic", "bedrock", "mistral", "ollama", "ollama_chat"}


@pytest.fixture(scope="module")
def sent() -> dict[str, list[str]]:
    """For each provider, the kinds of parts that LiteLLM sends it."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(NOT_INHERITED)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.parts_sent"],
        input=json.dumps(dict.fromkeys(MODELS, KINDS)),
        env={**inherited, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("provider", MODELS)
def test_what_the_table_says_goes_out(sent: dict[str, list[str]], provider: str):
    """Whether the model takes it is for the provider to say; that it hears of it is for us."""
    assert set(sent[provider]) >= TAKEN_BY[provider]


def test_sound_that_is_dropped_is_not_in_the_table(sent: dict[str, list[str]]):
    """And the list of those who drop it is no longer than it has to be."""
    dropped = {provider for provider, kinds in sent.items() if "audio/wav" not in kinds}
    assert dropped == DROP_SOUND
    assert not any(kind.startswith("audio/") for provider in dropped for kind in TAKEN_BY[provider])


def test_the_table_is_looked_at_whole():
    """But for Vertex AI, which wants a login; its requests are those of Gemini."""
    assert set(TAKEN_BY) == {*MODELS, "vertex_ai"}
    assert TAKEN_BY["vertex_ai"] == TAKEN_BY["gemini"]
