"""`flywheel config check`: all that is wrong, each with its key, and what the file refers to."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka_fixture import free_port
from tiny_encoder import make_encoder

from flywheel.cli import cli
from flywheel.ops import up_lock
from flywheel.ops.template import flywheel_toml
from flywheel.settings import load_settings


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Path:
    """The flywheel.toml of a workspace that is right."""
    names = ("kafka", "gateway", "console", "worker", "trainer", "controller")
    ports: dict[str, Any] = {f"{name}_port": free_port() for name in names}
    ports["serving_ports"] = [free_port()]
    text = flywheel_toml("species", ["animal", "plant"], str(base), values=ports)
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    return tmp_path / "flywheel.toml"


def check(config: Path, **environment: str) -> list[dict[str, str]]:
    """What is wrong; the exit code and the text say the same."""
    runner = CliRunner()
    arguments = ["-w", str(config.parent), "config", "check"]
    done = runner.invoke(cli, arguments, env=environment)
    found = json.loads(runner.invoke(cli, [*arguments, "--json"], env=environment).output)
    problems: list[dict[str, str]] = found["problems"]
    assert done.exit_code == (1 if problems else 0), done.output
    assert all(f"{row['key']}: {row['problem']}" in done.output for row in problems)
    return problems


def change(config: Path, before: str, after: str) -> None:
    text = config.read_text("utf-8")
    assert before in text
    config.write_text(text.replace(before, after, 1), "utf-8")


def test_a_workspace_that_is_right_has_no_problems(config: Path) -> None:
    assert check(config) == []


def test_every_wrong_key_is_named_not_the_first_alone(config: Path) -> None:
    text = config.read_text("utf-8")
    config.write_text(
        'log_levle = "info"\n'
        + text.replace("[gateway]", "[gateway]\nburst = 0")
        + "\n[monitoring2]\nport = 1\n",
        "utf-8",
    )
    found = {row["key"]: row for row in check(config)}
    assert set(found) == {"log_levle", "gateway.burst", "monitoring2"}
    assert found["log_levle"]["hint"] == "did you mean 'log_level'?"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("tasks = 3", "tasks"),
        ("tasks.one = 3", "tasks.one"),
        ("kafka = 3", "kafka"),
        ("gateway = []", "gateway"),
        ('workspace = "."', "workspace"),
    ],
)
def test_what_stands_for_a_table_is_refused_by_its_key(config: Path, text: str, key: str) -> None:
    config.write_text(text, "utf-8")
    found = check(config, FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS="broker:9092")
    assert key in {row["key"] for row in found}


def test_a_file_that_is_no_toml_is_named(config: Path) -> None:
    config.write_text("[", "utf-8")
    (row,) = check(config)
    assert (row["key"], "not valid TOML" in row["problem"]) == (str(config), True)


def test_a_base_model_that_is_not_there_is_a_problem(config: Path, base: Path) -> None:
    change(config, str(base), "models/none")
    (row,) = check(config)
    assert row["key"] == "tasks.species.training.base_model"
    assert row["problem"] == f"{config.parent / 'models/none'} holds no base model (no config.json)"
    assert "releases import package:" in row["hint"]


def test_every_taken_port_is_a_problem(config: Path) -> None:
    settings = load_settings(config.parent, {})
    with socket.socket() as one, socket.socket() as other:
        for taken, port in ((one, settings.gateway.port), (other, settings.kafka.local_port + 1)):
            taken.bind(("127.0.0.1", port))
            taken.listen()
        assert [row["key"] for row in check(config)] == ["kafka.local_port", "gateway.port"]


def test_ports_that_our_own_processes_hold_are_none(config: Path) -> None:
    settings = load_settings(config.parent, {})
    held = up_lock.lock(settings)
    with held, socket.socket() as gateway:
        gateway.bind(("127.0.0.1", settings.gateway.port))
        gateway.listen()
        assert check(config) == []


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("FLYWHEEL_SERVING_URLS", "http://one:8101,two:8101", "serving.urls"),
        ("FLYWHEEL_SERVING_URLS", "http://one:99999", "serving.urls"),
        ("FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS", "broker:9092,broker", "kafka.bootstrap_servers"),
        ("FLYWHEEL_DATABASE_URL", "mongodb://host/name", "database_url"),
    ],
)
def test_an_address_that_is_none_is_a_problem(
    config: Path, variable: str, value: str, key: str
) -> None:
    assert [row["key"] for row in check(config, **{variable: value})] == [key]


def test_files_for_the_broker_must_be_there(config: Path) -> None:
    change(config, "[kafka]", '[kafka]\nssl_cafile = "/none/ca.pem"')
    assert [row["key"] for row in check(config)] == ["kafka.ssl_cafile"]


def test_a_store_of_artefacts_is_written_to_and_read_back(config: Path, tmp_path: Path) -> None:
    store = tmp_path / "shared"
    assert check(config, FLYWHEEL_ARTEFACTS_URL=str(store)) == []
    assert not [path for path in store.rglob("*") if path.is_file()]
    (tmp_path / "a-file").write_text("no folder")
    (problem,) = check(config, FLYWHEEL_ARTEFACTS_URL=str(tmp_path / "a-file"))
    assert problem["key"] == "artefacts.url"
    assert str(tmp_path / "a-file") in problem["problem"]
