"""`kagura-tasks flower`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Final

import typer

from kagura_tasks.errors import ConfigurationError

#: Flower's own variables and options for a login.
_BASIC: Final = "FLOWER_BASIC_AUTH"
_LOGINS: Final = ("auth", "basic_auth")

#: Lets anybody call Flower's API, which sends tasks and stops workers.
_OPEN_API: Final = "FLOWER_UNAUTHENTICATED_API"


def flower(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="Where to listen; beyond this machine only with a login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="On which port.")] = 5555,
) -> None:
    """Run Flower: its own pages, one about LLM work (/llm), and the fleet's numbers for Prometheus (/metrics).

    Whatever else is given goes to Flower as it is. Its login is FLOWER_BASIC_AUTH=name:password.
    """
    from kagura_tasks.cli.fleet import is_installed
    from kagura_tasks.settings import load_settings

    if not is_installed("flower"):
        raise ConfigurationError("Flower is not installed: pip install 'kagura-tasks[flower]'")
    _ = load_settings()  # a wrong one is named now, not on a page
    require_login(address, os.environ, context.args)
    from kagura_tasks.cli.dashboard.program import main

    try:
        main([f"--address={address}", f"--port={port}", *context.args])
    except OSError as error:
        raise ConfigurationError(f"Flower cannot listen on {address}:{port} ({error.strerror})") from None


def require_login(address: str, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Raise ConfigurationError where Flower would be open to anybody who reaches this address, or its login is none."""
    if any(map(_is_address, arguments)):
        raise ConfigurationError(
            "Flower's address is said twice: give --address alone, in front of Flower's own options"
        )
    login = environment.get(_BASIC, "")
    if login and not all(":" in one.strip(":") for one in login.split(",")):
        raise ConfigurationError(f"{_BASIC} has to be name:password")
    if is_loopback(address):
        return
    if not login and not environment.get("FLOWER_AUTH") and not any(map(_is_login, arguments)):
        raise ConfigurationError(f"Flower on {address or 'all addresses'} would be open: set {_BASIC}=name:password")
    if environment.get(_OPEN_API):
        raise ConfigurationError(f"{_OPEN_API} would open Flower's API on {address or 'all addresses'}: unset it")


def is_loopback(address: str) -> bool:
    """Only this machine can reach it. A name other than localhost may mean anything."""
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _is_login(argument: str) -> bool:
    name, value = _option(argument)
    return name in _LOGINS and bool(value)


def _is_address(argument: str) -> bool:
    return argument.startswith("-") and _option(argument)[0] in ("address", "unix_socket")


def _option(argument: str) -> tuple[str, str]:
    """Its name and value, as Flower reads them: with one dash as with two."""
    name, _, value = argument.lstrip("-").partition("=")
    return name.replace("-", "_"), value
