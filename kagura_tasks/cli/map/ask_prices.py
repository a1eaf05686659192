"""A program: requests on standard input, one a line; prints what they will cost, as JSON. See estimate.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from kagura_tasks.providers import litellm as provider
from kagura_tasks.providers.estimate import estimate
from kagura_tasks.schemas import CompletionRequest


def main() -> None:
    """Read to the end, and print one document."""
    # Silent from here on: what LiteLLM prints about a model that it does not know would be in front of ours.
    provider.prepare()
    print(json.dumps([asdict(one) for one in estimate(_requests())]))


def _requests() -> Iterator[CompletionRequest]:
    for line in sys.stdin.buffer:
        yield CompletionRequest.model_validate_json(line)


if __name__ == "__main__":
    main()
