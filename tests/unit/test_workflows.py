"""What runs on a push: by the published schema, with the least rights, from pinned actions."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support import compose
from tests.unit.test_compose import schema_of

FILES = sorted((compose.ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    """YAML 1.1 takes the key `on` for a truth value."""
    document = yaml.safe_load(request.param.read_text("utf-8"))
    return {("on" if name is True else name): value for name, value in document.items()}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_it_is_a_workflow(workflow: dict[str, Any]):
    """By the JSON schema of workflows."""
    jsonschema.validate(workflow, schema_of("github-workflows"))


def test_it_may_read_and_nothing_else(workflow: dict[str, Any]):
    """No job asks for more, keeps the token, runs with secrets on what a stranger sent, or runs for ever."""
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 30
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(workflow["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_actions_are_pinned(workflow: dict[str, Any]):
    """By the whole commit: whoever owns a tag can move it."""
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)


def test_what_it_runs_is_there(workflow: dict[str, Any]):
    """Programs of this repository, targets of the Makefile, services of the compose file."""
    makefile = (compose.ROOT / "Makefile").read_text("utf-8")
    services = compose.services({"FLOWER_BASIC_AUTH": "name:password"})
    for command in (step["run"] for step in steps(workflow) if "run" in step):
        program, *words = command.split()
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE)
            assert all((compose.ROOT / path).exists() for path in re.findall(r"tests/\S+\.py", command))
        elif program == "docker":
            assert set(re.findall(r"\b(?:worker-\w+|flower)\b", command)) <= set(services)
        else:
            assert (compose.ROOT / program).stat().st_mode & 0o111
