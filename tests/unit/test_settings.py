"""flywheel.toml and the environment: what is accepted, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.bootstrap.template import DEFAULTS, flywheel_toml
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.settings import FlywheelSettings, load_settings

LABELS = ["animal", "plant"]


def load(folder: Path, text: str, **environ: str) -> FlywheelSettings:
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, environ)


def template(**values: object) -> str:
    return flywheel_toml("species", LABELS, "/models/base", values=values)


def test_the_template_is_valid_and_means_what_it_says(tmp_path: Path) -> None:
    settings = load(tmp_path, template(audit_rate=0.125, **{"training.epochs": 7}))
    task = settings.task("species")
    assert task.labels == ("animal", "plant")
    assert task.triage.audit_rate == 0.125
    assert task.training.epochs == 7
    assert settings.kafka.local
    assert settings.kafka.servers == f"127.0.0.1:{DEFAULTS['kafka_port']}"


def test_quotes_and_other_letters_in_titles_survive(tmp_path: Path) -> None:
    text = flywheel_toml(
        "species", LABELS, "/m", title='What "is" it? é 漢', label_titles={"animal": 'an "animal"'}
    )
    task = load(tmp_path, text).task("species")
    assert task.title == 'What "is" it? é 漢'
    assert task.label_titles == {"animal": 'an "animal"'}


def test_the_commented_rule_of_the_template_works(tmp_path: Path) -> None:
    lines = []
    for line in template().splitlines():
        rule = line.startswith(("# [[tasks", "# name = ", "# pattern = "))
        lines.append(line.removeprefix("# ") if rule else line)
    rule = load(tmp_path, "\n".join(lines)).task("species").triage.rules[0]
    import re

    assert re.search(rule.pattern, "take 20 mg twice")
    assert not re.search(rule.pattern, "take twenty")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("audit_rate = 0.05", "audit_rate = 7", "tasks.species.triage.audit_rate"),
        ("audit_rate = 0.05", "audit_rats = 0.1", "tasks.species.triage.audit_rats"),
        ("port = 8080", 'port = "eighty"', "gateway.port"),
        ("steps = [0.05, 0.25, 0.5]", "steps = [0.5, 0.25]", "tasks.species.rollout"),
        ('variants = ["int8-dynamic"]', 'variants = ["int3"]', "tasks.species.compression"),
        ("[tasks.species]", "[tasks.Species]", "tasks"),
        ('labels = ["animal", "plant"]', 'labels = ["animal"]', "tasks.species"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    text = template()
    assert old in text
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text.replace(old, new))
    assert caught.value.key.startswith(key)
    assert key in str(caught.value)


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = template().replace("[gateway]", '[gateway]\napi_keys = ["s3cret-value"]')
    with pytest.raises(ConfigurationError, match="FLYWHEEL_GATEWAY_API_KEYS") as caught:
        load(tmp_path, text)
    assert "s3cret-value" not in str(caught.value)


def test_secrets_from_the_environment_never_show(tmp_path: Path) -> None:
    settings = load(tmp_path, template(), FLYWHEEL_CONSOLE_API_KEYS="k-one,k-two")
    assert [key.get_secret_value() for key in settings.console.api_keys] == ["k-one", "k-two"]
    assert "k-one" not in repr(settings)
    assert "k-one" not in str(settings.model_dump())


@pytest.mark.parametrize("section", ["gateway", "console"])
def test_an_open_address_needs_credentials(tmp_path: Path, section: str) -> None:
    before, after = template().split(f"[{section}]")
    text = before + f"[{section}]" + after.replace('host = "127.0.0.1"', 'host = "0.0.0.0"', 1)
    variable = f"FLYWHEEL_{section.upper()}_API_KEYS"
    with pytest.raises(ConfigurationError, match=variable):
        load(tmp_path, text)
    assert not getattr(load(tmp_path, text, **{variable: "key"}), section).loopback


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        template(),
        FLYWHEEL_DATABASE_URL="postgresql+psycopg://db/x",
        FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS="broker:9092",
    )
    assert settings.database == "postgresql+psycopg://db/x"
    assert not settings.kafka.local
    assert settings.kafka.servers == "broker:9092"


def test_no_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="flywheel init"):
        load_settings(tmp_path, {})


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"flywheel\.toml"):
        load(tmp_path, "[tasks")


def test_an_unknown_task_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="species"):
        load(tmp_path, template()).task("other")


def test_a_relative_base_model_is_looked_for_in_the_workspace(tmp_path: Path) -> None:
    text = flywheel_toml("species", LABELS, "models/base")
    task = load(tmp_path, text).task("species")
    assert task.training.base_model == str(tmp_path / "models/base")


def test_a_value_that_the_template_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="audit_rats"):
        template(audit_rats=1)
