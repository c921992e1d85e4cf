"""params.yaml: what is written is what DVC reads, and what we read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dumps_yaml, load_yaml, parse_yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flywheel.errors import ConfigurationError
from flywheel.settings import load_settings
from flywheel.turn.params import read_params, write_params

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# What YAML 1.1 or 1.2, or DVC's own templates, take for something else than a text.
AWKWARD = ["1e5", "10e4", "1E5", "0o17", "017", "0x1F", "0b1", "1_000", "1:20", ".5", "5.", "+1",
           "on", "off", "yes", "no", "y", "n", "null", "~", "", "true", "True", ".inf", ".nan", "=",
           "<<", "2026-01-01", "2026-01-01T00:00:00Z", "${tasks.mail}", "${x", "#", "a: b", "a #b",
           "- a", "? a", "[a]", "{a}", "!tag", "&a", "*a", "%a", "@a", "`a", "|", ">", "'", '"',
           "\\", "\\x85", "a\nb", "a\r\nb", " a", "a ", "\t", "\x00", "\x85", "\u2028", "\ufeff",
           "\ue000", "\U0001f600", "...", "---"]  # fmt: skip
VALUES = st.recursive(
    TEXTS | st.sampled_from(AWKWARD) | st.integers() | st.floats(allow_nan=False) | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS | st.sampled_from(AWKWARD), VALUES, max_size=4))
@example(dict.fromkeys(AWKWARD, AWKWARD))
def test_dvc_reads_what_was_written(tmp_path: Path, tasks: dict[str, Any]) -> None:
    write_params(tmp_path, tasks)
    assert load_yaml(tmp_path / "params.yaml")["tasks"] == tasks
    assert repr(load_yaml(tmp_path / "params.yaml")["tasks"]) == repr(read_params(tmp_path))
    assert read_params(tmp_path) == tasks


@given(TEXTS | st.sampled_from(AWKWARD))
def test_what_dvc_notes_of_a_text_is_the_text(text: str) -> None:
    """It compares what it noted in dvc.lock; U+0085 alone it notes as another character."""
    if "\x85" not in text:
        assert parse_yaml(dumps_yaml({"labels": [text]}), "dvc.lock")["labels"] == [text]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('labels = ["a\\u0085", "b"]', "tasks.mail.labels"),
        ('labels = ["a", "b"]\n[tasks.mail.label_titles]\na = "x\\u0085y"', "label_titles.a"),
        ('labels = ["a", "b"]\n[tasks.mail.label_titles]\n"\\u0085" = "x"', "label_titles"),
    ],
)
def test_the_one_character_that_dvc_changes_is_refused(tmp_path: Path, line: str, key: str) -> None:
    (tmp_path / "flywheel.toml").write_text(f"[tasks.mail]\n{line}\n")
    with pytest.raises(ConfigurationError, match="U\\+0085") as refused:
        load_settings(tmp_path, {})
    assert key in refused.value.key


def test_labels_that_one_reader_takes_for_one_number_are_another_pipeline(tmp_path: Path) -> None:
    """1e5 is a text to YAML 1.1 and a number to 1.2, the same one as 10e4."""
    read = []
    for label in ("1e5", "10e4"):
        write_params(tmp_path, {"mail": {"labels": [label, "b"]}})
        read.append(load_yaml(tmp_path / "params.yaml")["tasks"]["mail"]["labels"])
    assert read == [["1e5", "b"], ["10e4", "b"]]
