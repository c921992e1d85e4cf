"""flywheel.toml and the environment: what is accepted, and how what is wrong is said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.contracts.addresses import LOOPBACK_NAMES, own_names
from flywheel.contracts.configuration import Settings, table_of
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.ops.template import DEFAULTS, default_of, flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.training.config import ENCODER_ONLY, LoraSettings

LABELS = ["animal", "plant"]
KEY, OTHER = "a-key-of-sixteen", "another-key-of-more"
TASK = """
[tasks.species]
labels = ["animal", "plant"]
training.base_model = "/models/base"
"""


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


def tables(kind: type[Settings]) -> Iterator[type[Settings]]:
    yield kind
    for field in kind.model_fields.values():
        below = table_of(field.annotation)
        if below is not None:
            yield from tables(below)


def test_every_setting_says_what_it_does() -> None:
    silent = [
        f"{kind.__name__}.{name}"
        for kind in tables(FlywheelSettings)
        for name, field in kind.model_fields.items()
        if not field.description and not table_of(field.annotation) and not field.exclude
    ]
    assert silent == []


KINDS = [("encoder", "classification"), ("llm", "classification"), ("llm", "generation")]


def whole(model: str, kind: str) -> str:
    labels = LABELS if kind == "classification" else []
    return flywheel_toml("species", labels, "/models/base", model=model, kind=kind)


def test_init_writes_every_key(tmp_path: Path) -> None:
    written = "\n".join(whole(*one) for one in KINDS)
    missing = [
        f"{kind.__name__}.{name}"
        for kind in tables(FlywheelSettings)
        for name, field in kind.model_fields.items()
        if not field.exclude
        and not table_of(field.annotation)
        and not re.search(rf"^(# )?{name}( =|: From|: Bearer)", written, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_init_writes_every_key_at_its_default(tmp_path: Path, model: str, kind: str) -> None:
    settings = load(tmp_path, whole(model, kind))
    least = "[serving]\nengine = 'vllm'\n" if model == "llm" else ""
    least += f"[tasks.species]\nmodel = '{model}'\nkind = '{kind}'\ntitle = 'species'\n"
    least += f"labels = {LABELS}\n" if kind == "classification" else ""
    least += "training.base_model = '/models/base'\n"
    assert settings == load(tmp_path, least)


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_any_line_that_init_left_commented_is_valid(tmp_path: Path, model: str, kind: str) -> None:
    lines = whole(model, kind).splitlines()
    commented = [i for i, line in enumerate(lines) if re.match(r"# (\w+ = |\[)", line)]
    assert len(commented) > 50
    example: list[int] = []
    for i in commented:
        if lines[i].startswith("# ["):
            example = [i]
        elif not (example and lines[i - 1].startswith(("#", " "))):
            example = []
        # A table's first keys are required: an example is taken as a whole up to the line.
        example += [i] if example else []
        chosen = set(example or [i])
        text = [line.removeprefix("# ") if n in chosen else line for n, line in enumerate(lines)]
        if lines[i].startswith("# [[") or (example and "# name =" in lines[i]):
            continue
        label = "\n".join(text).replace('label = "…"', 'label = "animal"')
        load(tmp_path, label)


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = template().replace("[gateway]", '[gateway]\napi_keys = ["s3cret-value"]')
    with pytest.raises(ConfigurationError, match="FLYWHEEL_GATEWAY_API_KEYS") as caught:
        load(tmp_path, text)
    assert "s3cret-value" not in str(caught.value)


def test_secrets_from_the_environment_never_show(tmp_path: Path) -> None:
    settings = load(tmp_path, template(), FLYWHEEL_CONSOLE_API_KEYS=f"{KEY}, {OTHER} ")
    assert settings.console.keys == (KEY, OTHER)
    assert KEY not in repr(settings)
    assert KEY not in str(settings.model_dump())


@pytest.mark.parametrize(
    "variable",
    ["FLYWHEEL_GATEWAY_API_KEYS", "FLYWHEEL_CONSOLE_API_KEYS", "FLYWHEEL_METRICS_KEY"],
)
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (" ", "blank key"),
        ("x", "at least"),
        ("fifteen-letters", "16"),
        ("a key with spaces in it", "without spaces"),
        ("a-key-with-ümläuts", "ASCII"),
    ],
)
def test_a_key_that_could_be_guessed_or_not_be_sent_is_refused(
    tmp_path: Path, variable: str, keys: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(tmp_path, template(), **{variable: keys})
    assert caught.value.key == variable
    assert keys not in str(caught.value) or len(keys) < 2


@pytest.mark.parametrize("keys", [",", f"{KEY},", f",{KEY}", f"{KEY}, ,{OTHER}"])
def test_a_blank_key_among_others_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigurationError, match="FLYWHEEL_GATEWAY_API_KEYS: it holds a blank"):
        load(tmp_path, template(), FLYWHEEL_GATEWAY_API_KEYS=keys)


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    empty = {"FLYWHEEL_GATEWAY_API_KEYS": "", "FLYWHEEL_METRICS_KEY": ""}
    settings = load(tmp_path, template(), **empty)
    assert settings.gateway.keys == settings.monitoring.metrics_keys == ()


@pytest.mark.parametrize("section", ["gateway", "console"])
def test_an_open_address_needs_credentials(tmp_path: Path, section: str) -> None:
    before, after = template().split(f"[{section}]")
    text = before + f"[{section}]" + after.replace('host = "127.0.0.1"', 'host = "0.0.0.0"', 1)
    variable = f"FLYWHEEL_{section.upper()}_API_KEYS"
    with pytest.raises(ConfigurationError, match=variable):
        load(tmp_path, text)
    assert not getattr(load(tmp_path, text, **{variable: KEY}), section).loopback


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


@pytest.mark.parametrize(
    ("host", "keys", "allowed", "names"),
    [
        ("127.0.0.1", False, (), LOOPBACK_NAMES),
        ("::1", False, (), LOOPBACK_NAMES),
        ("127.0.0.1", False, ("Box.lan",), LOOPBACK_NAMES | {"box.lan"}),
        ("127.0.0.1", True, (), None),
        ("0.0.0.0", True, ("models.example",), LOOPBACK_NAMES | {"models.example"}),  # noqa: S104
        ("0.0.0.0", False, (), None),  # noqa: S104
    ],
)
def test_the_names_that_a_listener_answers_to(host, keys, allowed, names) -> None:
    assert own_names(host, keys=keys, allowed=allowed) == names


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
