"""A program that sends canvas and waits for it, from an application that imports no task module.

Reads JSON from its standard input: the parts to sum up, and the tenant. Prints the answer, and what it has imported.
"""

from __future__ import annotations

import json
import sys

from celery import Celery, chord, group

from kagura_tasks import Settings, signatures
from kagura_tasks.app import create_app
from kagura_tasks.settings import load_settings


def sent_by(app: Celery, prompts: list[str], tenant: str) -> object:
    """The result of a chord over the prompts, one of which may fail."""
    header = group(signatures.complete(app, prompt, tenant=tenant, on_error="collect") for prompt in prompts)
    template = "{{ count }} answers: {{ parts | join('; ') }}. {{ failed | length }} failed."
    return chord(header, signatures.reduce(app, template, tenant=tenant))().get(timeout=60)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    settings: Settings = load_settings()
    result = sent_by(create_app(settings), given["prompts"], given["tenant"])
    imported = [name for name in sys.modules if name.startswith(("kagura_tasks.worker", "workers", "litellm"))]
    print(json.dumps({"result": result, "imported": imported}))
