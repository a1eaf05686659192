"""Flower as a program, with our pages: `python -m kagura_tasks.cli.dashboard.program --port=5555`, say."""

# Flower has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

_LOGIN: Final = "FLOWER_BASIC_AUTH"


def main(arguments: Sequence[str]) -> None:
    """Run Flower with these arguments of its own until it is stopped."""
    from celery.bin.celery import celery

    if not os.environ.get(_LOGIN):
        # Flower would take an empty one for a login that nobody has.
        os.environ.pop(_LOGIN, None)
    add_pages()
    celery.main(["-A", "workers.main", "flower", *arguments], prog_name="celery", auto_envvar_prefix="CELERY")


def add_pages() -> None:
    """Add our pages to the Flower that is started after this, and their place in its navigation."""
    from flower import urls
    from tornado.web import url

    from kagura_tasks.cli.dashboard.handlers import LlmPage, Metrics
    from kagura_tasks.cli.dashboard.templates import Templates

    # In front: the first one that fits answers.
    urls.handlers[:0] = [url(r"/llm", LlmPage, name="llm"), url(r"/metrics", Metrics)]
    cast(Any, urls.settings)["template_loader"] = Templates(str(urls.settings["template_path"]))


if __name__ == "__main__":
    main(sys.argv[1:])
