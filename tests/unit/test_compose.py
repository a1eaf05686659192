"""docker-compose.yml, by the compose specification and by what there is: queues, settings, files."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from kagura_tasks.queues import all_queues
from kagura_tasks.settings import ENV_PREFIX, Settings
from tests.support import compose
from tests.support.workers import ROOT
from workers.profiles import PROFILES

GIVEN = {"FLOWER_BASIC_AUTH": "name:password", "OPENAI_API_KEY": "key"}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")


def schema_of(name: str) -> dict[str, Any]:
    """A published schema, from the package that brings it: pinned by our lock."""
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


@pytest.fixture
def services() -> dict[str, Any]:
    return compose.services(GIVEN)


@pytest.fixture
def workers(services: dict[str, Any]) -> dict[str, Any]:
    """Those that `--scale` is for."""
    return {name: service for name, service in services.items() if name.startswith("worker-")}


def test_the_file_is_what_the_specification_says():
    """By the JSON schema of the compose specification; and a slip would not pass."""
    schema = schema_of("compose-spec")
    document = yaml.safe_load(compose.FILE.read_text("utf-8"))
    jsonschema.validate(document, schema)
    document["services"]["redis"]["comand"] = ["redis-server"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(document, schema)


def test_any_number_of_each_worker_can_run(workers: dict[str, Any]):
    """Nothing that only one container can have: a name, a port of the machine, a name of its own in the fleet."""
    for service in workers.values():
        assert not {"container_name", "hostname", "ports", "mac_address"} & set(service)
        (name,) = (word for word in service["command"] if word.startswith("--hostname="))
        assert name.endswith("@%h")


def test_each_queue_is_served(workers: dict[str, Any]):
    """By the profiles of the workers, each of which there is."""
    profiles = [service["command"][service["command"].index("--profile") + 1] for service in workers.values()]
    served = {queue for name in profiles for queue in PROFILES[name].queues}
    assert served == {queue.name for queue in all_queues()}
    assert len(profiles) == len(set(profiles))


def test_variables_are_settings_of_ours_or_of_providers(services: dict[str, Any]):
    """None of ours is misspelt."""
    used = {name for service in services.values() for name in service.get("environment", {})}
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    assert {name for name in used if name.startswith(ENV_PREFIX)} <= known


def test_nothing_is_open_but_flower_and_that_on_loopback(services: dict[str, Any]):
    """No server of Redis has a port outside."""
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"flower": ["127.0.0.1:5555:5555"]}


def test_flower_is_not_started_without_a_login():
    """`docker compose up` itself says which variable, before anything runs."""
    with pytest.raises(compose.NotSet, match="FLOWER_BASIC_AUTH: set it to name:password"):
        compose.services({})


def test_what_runs_our_code_may_do_nothing_else(services: dict[str, Any]):
    """No capability, no file system to write to, no way to more rights; only the servers of Redis are as they come."""
    for name in set(services) - compose.SERVERS:
        service = services[name]
        assert service["read_only"] is True
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_the_image_is_made_of_what_there_is():
    """Each file that is copied is there and let through; each extra is one of ours; no step is without hashes."""
    let_through = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for sources in re.findall(r"^COPY ((?!--from).*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in let_through
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", DOCKERFILE)) <= set(extras)
    steps = re.findall(r"pip install(?:\\\n|[^&\n])*", DOCKERFILE)
    assert all("--require-hashes" in step or "dist/*.whl" in step for step in steps)


def test_the_lock_has_what_the_image_installs():
    """The step that cuts uv out of it finds uv alone; each extra is in it, in releases that pyproject.toml allows."""
    (cut,) = re.findall(r"^RUN (awk .*) >uv\.txt", DOCKERFILE, re.MULTILINE)
    done = subprocess.run(["sh", "-ec", cut], cwd=ROOT, capture_output=True, text=True, check=True)
    first, *hashes = done.stdout.split(" \\\n")
    assert first.startswith("uv==")
    assert hashes
    assert all(one.strip().startswith("--hash=sha256:") for one in hashes)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in re.findall(r"--extra (\w+)", DOCKERFILE):
        wanted += project["optional-dependencies"][extra]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert locked[requirement.name.lower()] in requirement.specifier


def test_the_image_runs_as_nobody_special():
    """Not as root, through the check of its environment, and with a health check."""
    stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", stage, re.MULTILINE)
    assert 'ENTRYPOINT ["entrypoint.sh"]' in stage
    assert 'CMD ["healthcheck.sh"]' in stage
    assert f"{ENV_PREFIX}HEARTBEAT_FILE=/tmp/" in stage
    assert all((ROOT / "deploy" / name).stat().st_mode & 0o111 for name in ("entrypoint.sh", "healthcheck.sh"))
