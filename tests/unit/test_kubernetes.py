"""deploy/kubernetes, by what there is: queues and their lists, profiles, settings, secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from kombu.transport.redis import Channel

from kagura_tasks.cli.processes import patience_s
from kagura_tasks.queues import PRIORITY_STEPS, all_queues
from kagura_tasks.schemas import Priority
from kagura_tasks.settings import ENV_PREFIX, Settings
from tests.support import compose
from tests.support.workers import ROOT
from workers.profiles import PROFILES

FOLDER = ROOT / "deploy" / "kubernetes"
CUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
OBJECTS: list[dict[str, Any]] = [
    one for name in CUSTOMIZATION["resources"] for one in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))
]
WORKERS = ["worker-llm", "worker-batch", "worker-routing", "worker-files"]


def found(kind: str, name: str) -> dict[str, Any]:
    (one,) = (one for one in OBJECTS if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return one


def pods() -> dict[str, dict[str, Any]]:
    """What each Deployment and StatefulSet runs."""
    kinds = ("Deployment", "StatefulSet")
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in OBJECTS if one["kind"] in kinds}


def container(name: str) -> dict[str, Any]:
    (one,) = pods()[name]["containers"]
    return one


def profile(name: str) -> str:
    args = container(name)["args"]
    return args[args.index("--profile") + 1]


def test_each_file_is_applied():
    """None is forgotten in kustomization.yaml."""
    assert {path.name for path in FOLDER.iterdir()} == {"kustomization.yaml", *CUSTOMIZATION["resources"]}


def test_the_services_are_those_of_the_compose_file():
    """The same programs with the same arguments; only Redis has a password more."""
    services = compose.services({"FLOWER_BASIC_AUTH": "name:password"})
    assert set(pods()) == set(services)
    for name, service in services.items():
        args = [word for word in container(name)["args"] if word not in ("--requirepass", "$(REDIS_PASSWORD)")]
        assert args == service["command"]


def test_each_queue_is_served():
    """By one kind of worker each, at least."""
    served = {queue for name in WORKERS for queue in PROFILES[profile(name)].queues}
    assert served == {queue.name for queue in all_queues()}


@pytest.mark.parametrize("name", WORKERS)
def test_workers_are_scaled_by_all_that_waits_for_them(name: str):
    """By the sum of all lists of the first queue of their profile: one for each priority, as kombu names them."""
    spec = found("ScaledObject", name)["spec"]
    channel = type("_", (), {"sep": Channel.sep, "priority": lambda _, step: step})()
    queue = PROFILES[profile(name)].queues[0]
    lists = {trigger["metadata"]["listName"] for trigger in spec["triggers"]}
    assert lists == {Channel._q_for_pri(channel, queue, step) for step in PRIORITY_STEPS}
    names = [trigger["name"] for trigger in spec["triggers"]]
    assert names == [priority.name.lower() for priority in Priority]
    assert spec["advanced"]["scalingModifiers"]["formula"] == " + ".join(names)
    assert spec["scaleTargetRef"] == {"name": name}


def test_keda_finds_redis():
    """From its own namespace, with the password that the workers have."""
    (port,) = (port["port"] for port in found("Service", "redis")["spec"]["ports"])
    for name in WORKERS:
        for trigger in found("ScaledObject", name)["spec"]["triggers"]:
            assert trigger["metadata"]["address"] == f"redis.{CUSTOMIZATION['namespace']}.svc:{port}"
            assert trigger["metadata"]["passwordFromEnv"] in {one["name"] for one in container(name)["env"]}


def test_the_workers_differ_in_what_they_serve_alone():
    """Name, profile and memory: whatever else is changed, is changed for all."""

    def alike(name: str) -> str:
        text = yaml.safe_dump(found("Deployment", name)["spec"])
        text = re.sub(r"memory: [12]Gi", "memory: ?", text)
        return text.replace(name, "?").replace(name.removeprefix("worker-") + "@", "?").replace(profile(name), "?")

    assert len({alike(name) for name in WORKERS}) == 1


@pytest.mark.parametrize("name", [*WORKERS, "flower", "redis", "cache"])
def test_nothing_has_more_rights_than_it_needs(name: str):
    """Not root, no capability, nothing to write to but what is mounted, no key to the cluster."""
    pod, one = pods()[name], container(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_secrets_are_referred_to_and_never_written_down():
    """A value that is here is an address, with the password's name in it."""
    assert "Secret" not in {one["kind"] for one in OBJECTS}
    for name in pods():
        for variable in container(name).get("env", []):
            value = variable.get("value", "$(REDIS_PASSWORD)")
            assert "$(REDIS_PASSWORD)" in value
    keys = {
        one["valueFrom"]["secretKeyRef"]["key"]
        for name in pods()
        for one in container(name)["env"]
        if "valueFrom" in one
    }
    commands = (FOLDER / "kustomization.yaml").read_text("utf-8")
    assert all(f"--from-literal={key}=" in commands for key in keys)


def test_settings_are_ours():
    """Each variable with our prefix is a setting with a value that is allowed; a worker has time to end."""
    given = found("ConfigMap", "kagura-tasks")["data"]
    settings = Settings(**{name.removeprefix(ENV_PREFIX).lower(): value for name, value in given.items()})
    used = {one["name"] for name in pods() for one in container(name)["env"]}
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    assert {name for name in used if name.startswith(ENV_PREFIX)} <= known
    for name in WORKERS:
        assert pods()[name]["terminationGracePeriodSeconds"] >= patience_s(settings.shutdown_timeout_s)


def test_health_checks_are_those_of_the_image():
    """A worker that lost Redis is unready within a minute, and ended much later."""
    for name in WORKERS:
        ready, alive = container(name)["readinessProbe"], container(name)["livenessProbe"]
        assert {ready["exec"]["command"][0], alive["exec"]["command"][0]} == {compose.HEALTHCHECK.name}
        assert alive["periodSeconds"] * alive["failureThreshold"] >= 900


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH")
def test_kustomize_takes_it():
    """Also what reads YAML as Kubernetes does finds the lists' names."""
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(OBJECTS)
    triggers = [one for made_one in made for one in made_one.get("spec", {}).get("triggers", [])]
    lists = {trigger["metadata"]["listName"] for trigger in triggers}
    assert f"llm{Channel.sep}3" in lists
