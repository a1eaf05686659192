"""A program: prints what LiteLLM knows about a model, as JSON. In a process of its own, see model.py."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from kagura_tasks.providers import litellm as provider


def main(model: str) -> None:
    """Print the provider's name ("" where there is none), and the variables with keys that are missing here."""
    # Silent from here on: what LiteLLM prints about a model that it does not know would be in front of ours.
    provider.prepare()
    find = cast(Any, provider.litellm).get_llm_provider
    try:
        name = str(find(model=model)[1])
    except provider.foreign.BadRequestError:
        name = ""
    print(json.dumps({"provider": name, "missing_keys": list(provider.missing_keys(model)) if name else []}))


if __name__ == "__main__":
    main(sys.argv[1])
