"""flywheel.toml and the environment: what is accepted, and how what is wrong is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from settings_file import LABELS, TASK, load, template

from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.ops.template import default_of, flywheel_toml
from flywheel.retention.sweep import cutoffs
from flywheel.settings import load_settings
from flywheel.training.config import ENCODER_ONLY, LoraSettings


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
        ("answers_needed = 1", "answers_needed = 4", "tasks.species.review.answers_needed"),
        ('["animal", "plant"]', "[]", "tasks.species.labels"),
        ('["animal", "plant"]', '["animal", " "]', "tasks.species.labels"),
        ('["animal", "plant"]', '["animal", "plant", "plant"]', "tasks.species.labels"),
        ('["animal", "plant"]', '["animal", "Animal"]', "tasks.species.labels"),
        ('["animal", "plant"]', '["animal", "plant "]', "tasks.species.labels"),
        ('["animal", "plant"]', '["an imal", "an  imal"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["caf\u00e9", "cafe\u0301"]', "tasks.species.labels"),
        ('["animal", "plant"]', f'["animal", "{"p" * 201}"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "pl\nant"]', "tasks.species.labels"),
        ('["animal", "plant"]', f'["animal", "{"p" * 5000}"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "\u200b\u2060"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "pl\u200bant"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "plant\ufeff"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "plant\u200d"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "\u202eplant"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["plant", "pl\u00adant"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["plant", "\uff30lant"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["an imal", "an\u00a0imal"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["animal", "\u0430nimal"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["non-food", "non\u2011food"]', "tasks.species.labels"),
        ('["animal", "plant"]', r'["Strasse", "Stra\u00dfe"]', "tasks.species.labels"),
        (
            'variants = ["int8-dynamic"]',
            'variants = ["w8a8"]',
            "tasks.species.compression.variants",
        ),
        (
            'variants = ["int8-dynamic"]',
            'variants = ["merged"]',
            "tasks.species.compression.variant",
        ),
        ("port = 8081", "port = 8080", "console.port"),
        ("ports = [8101, 8102]", "ports = [8101, 8101]", "serving.ports"),
        ("ports = [8101, 8102]", "ports = [8101, 19093]", "serving.ports"),
        ("worker_port = 8091", "worker_port = 8102", "monitoring.worker_port"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    text = template()
    assert old in text
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text.replace(old, new))
    assert caught.value.key.startswith(key)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "titles",
    [
        '{ animal = "Being", plant = "being" }',
        '{ animal = "Plant" }',
        '{ animal = "" }',
        '{ animal = " Animal" }',
        r'{ animal = "\u200b" }',
        f'{{ animal = "{"a" * 5000}" }}',
    ],
)
def test_buttons_that_look_alike_are_refused(tmp_path: Path, titles: str) -> None:
    text = TASK.replace("[tasks.species]", f"[tasks.species]\nlabel_titles = {titles}", 1)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert caught.value.key == "tasks.species.label_titles"


def test_labels_are_written_in_any_script(tmp_path: Path) -> None:
    labels = r'["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u2764\ufe0f", '
    labels += r'"\U0001f469\u200d\U0001f4bb", "Ωμέγα", "Аист", "植物"]'
    task = load(tmp_path, template().replace('["animal", "plant"]', labels)).task("species")
    assert len(task.labels) == 6


def test_tasks_whose_names_look_alike_are_refused(tmp_path: Path) -> None:
    text = template()
    task = text[text.index("[tasks.species]") :]
    twin = task.replace("tasks.species", 'tasks."sp\u0435cies"')
    with pytest.raises(ConfigurationError, match="look alike"):
        load(tmp_path, text + "\n" + twin)


@pytest.mark.parametrize("table", ["lora", "prompt"])
def test_what_an_encoder_would_ignore_is_refused(tmp_path: Path, table: str) -> None:
    key = {"lora": "rank = 4", "prompt": 'system = "Sort."'}[table]
    with pytest.raises(ConfigurationError, match='for model = "llm"') as caught:
        load(tmp_path, f"{template()}\n[tasks.species.{table}]\n{key}\n")
    assert caught.value.key == f"tasks.species.{table}.{key.partition(' ')[0]}"


@pytest.mark.parametrize("name", ENCODER_ONLY)
def test_what_a_language_model_would_ignore_is_refused(tmp_path: Path, name: str) -> None:
    text = flywheel_toml("species", LABELS, "/models/base", model="llm")
    told = f"[tasks.species.training]\n{name} = {json.dumps(default_of(f'training.{name}'))}"
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text.replace("[tasks.species.training]", told))
    assert caught.value.key == f"tasks.species.training.{name}"
    assert ("[tasks.NAME.lora]" in caught.value.problem) == (name in LoraSettings.model_fields)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("kafka.partitons = 3", "partitions"),
        ("tasks.species.triage.audit_rats = 0.1", "audit_rate"),
        ("tasks.species.review.Answers_Needed = 1", "answers_needed"),
        ("tasks.species.traning = {epochs = 1}", "training"),
        ("tasks.species.compression.recipes.small.quantize = 'none'", "quantise"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path, key: str, meant: str) -> None:
    given = {"FLYWHEEL_LOG_LEVEL": "info"}
    inside = key.removeprefix("tasks.species.")
    text = key + TASK if inside == key else TASK + inside
    with pytest.raises(ConfigurationError, match=f"no such key — did you mean '{meant}'") as caught:
        load(tmp_path, text, **given)
    assert caught.value.key == key.partition(" =")[0]


def test_the_state_folder_comes_from_the_workspace_alone(tmp_path: Path) -> None:
    assert load(tmp_path, TASK).kafka.state == tmp_path / ".flywheel"
    with pytest.raises(ConfigurationError, match="no such key") as caught:
        load(tmp_path, "kafka.state = '/elsewhere'\n" + TASK)
    assert caught.value.key == "kafka.state"


def test_a_language_model_is_compressed_as_one_unless_the_task_says_how(tmp_path: Path) -> None:
    text = "[serving]\nengine = 'vllm'\n" + TASK + "model = 'llm'\n"
    assert load(tmp_path, text).task("species").compression.variants == ("w8a8",)
    assert load(tmp_path, TASK).task("species").compression.variants == ("int8-dynamic",)


def test_a_port_may_be_used_on_two_addresses(tmp_path: Path) -> None:
    text = template().replace("port = 8081", "port = 8080")
    given = {"FLYWHEEL_CONSOLE_HOST": "127.0.0.2"}
    assert load(tmp_path, text, **given).console.port == 8080


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


def test_every_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = 'database_url = "sqlite:///~/x.db"\ndvc_remote_url = "~/remote"\n'
    text += f'{TASK.replace("/models/base", "~/base")}\n[artefacts]\nurl = "~/store"\n'
    text += '[kafka]\nbootstrap_servers = "k:1"\nssl_cafile = "~/ca.pem"\n'
    text += '[serving.vllm]\npython = "~/vllm/bin/python"\n'
    found = load(tmp_path, text)
    assert found.task("species").training.base_model == "/home/ada/base"
    assert found.database_url == "sqlite:////home/ada/x.db"
    assert found.dvc_remote_url == "/home/ada/remote"
    assert found.artefacts.url == "/home/ada/store"
    assert str(found.kafka.ssl_cafile) == "/home/ada/ca.pem"
    assert str(found.serving.vllm.python) == "/home/ada/vllm/bin/python"


@pytest.mark.parametrize("name", ["n" * 257, "a\\u0007b"], ids=["long", "control character"])
def test_a_rule_is_named_as_an_annotator_can_be(tmp_path: Path, name: str) -> None:
    rule = f'[[tasks.species.triage.rules]]\nname = "{name}"\npattern = "x"\n'
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, TASK + rule)
    assert caught.value.key == "tasks.species.triage.rules.0.name"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/name", "it holds a password"),
        ("ftp://host/name", "no store known here"),
        ("file:///srv/artefacts", "or a folder"),
        ("s3:///name", "does not name the bucket"),
        ("az://", "does not name the container"),
        ("s3://bucket/name?x=1", "behind a [?] or #"),
        ("s3://[bucket", "no URL"),
    ],
)
def test_a_store_of_artefacts_that_cannot_be_is_refused_at_the_start(
    tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        load(tmp_path, f'{TASK}\n[artefacts]\nurl = "{url}"\n')
    assert refused.value.key == "artefacts.url"
    assert "secret" not in str(refused.value)


def test_artefacts_lie_in_the_workspace_or_where_the_file_or_the_environment_says(
    tmp_path: Path,
) -> None:
    assert load(tmp_path, TASK).artefacts.url == ""
    text = f'{TASK}\n[artefacts]\nurl = "shared/artefacts"\n'
    assert load(tmp_path, text).artefacts.url == str(tmp_path / "shared/artefacts")
    given = load(tmp_path, text, FLYWHEEL_ARTEFACTS_URL="s3://bucket/name/")
    assert given.artefacts.url == "s3://bucket/name"


@pytest.mark.parametrize("table", ["retention", "tasks.species.retention"])
def test_more_days_than_a_calendar_has_are_no_way_to_say_for_ever(
    tmp_path: Path, table: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, f"{TASK}\n[{table}]\ntraffic = 1000000\n")
    assert refused.value.key == f"{table}.traffic"
    kept = load(tmp_path, f"{TASK}\n[{table}]\ntraffic = 36500\n")
    found = kept.task("species").retention.within(kept.retention)
    assert cutoffs(found, datetime.now(UTC))
