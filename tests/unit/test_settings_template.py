"""What `flywheel init` writes: every key, at its default, and valid with any line uncommented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from settings_file import LABELS, load, template

from flywheel.contracts.configuration import Settings, table_of
from flywheel.errors import ConfigurationError
from flywheel.ops.template import DEFAULTS, flywheel_toml
from flywheel.settings import FlywheelSettings


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


def test_a_value_that_the_template_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="audit_rats"):
        template(audit_rats=1)
