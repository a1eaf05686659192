"""What this process's environment says: versions, variables, keys."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Final

from kagura_tasks import __version__
from kagura_tasks.cli.checks.check import Check
from kagura_tasks.embedded_redis import SERVER_VARIABLE
from kagura_tasks.settings import ENV_PREFIX, Settings

_PACKAGES: Final = ("celery", "kombu", "redis", "litellm", "flower")

#: How providers call the variables that hold their keys.
_KEYS: Final = re.compile(
    r"(?!KAGURA_)[A-Z0-9_]+_API_(KEY|TOKEN)|AWS_(ACCESS_KEY_ID|BEARER_TOKEN_BEDROCK)|GOOGLE_APPLICATION_CREDENTIALS"
)


def versions() -> Iterator[Check]:
    """What is installed; what is not is no fault: an application needs no LiteLLM."""
    found = [f"{name} {_version(name)}" for name in _PACKAGES]
    yield Check("versions", "ok", f"kagura-tasks {__version__}, Python {platform.python_version()}, {', '.join(found)}")


def unknown_variables() -> Iterator[Check]:
    """Variables with our prefix that nobody reads: most likely a slip of the pen."""
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | {SERVER_VARIABLE}
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            similar = get_close_matches(name.upper(), known, n=1)
            mend = f"did you mean {similar[0]}?" if similar else "unset it"
            yield Check("settings", "warning", f"{name} is no setting", mend)


def provider_keys() -> list[str]:
    """The names of the variables here that hold a provider's key. Their values are nobody's concern."""
    return [name for name in sorted(os.environ) if _KEYS.fullmatch(name) and os.environ[name]]


def keys() -> Iterator[Check]:
    """Which providers' keys are here."""
    here = ", ".join(provider_keys()) or "no provider's key"
    yield Check("keys", "ok", f"{here} in this environment (workers read their own)")


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "not installed"
