"""flywheel.toml of language models: tasks that generate, prompts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.errors import ConfigurationError
from flywheel.settings import FlywheelSettings, load_settings

GENERATION = """
[serving]
engine = "vllm"

[tasks.replies]
kind = "generation"
model = "llm"
title = "Reply to a customer"
# more

[tasks.replies.prompt]
system = "Answer in one sentence."
template = "Customer: {text}"
max_answer_tokens = 40

[tasks.replies.training]
base_model = "models/base"

[[tasks.replies.triage.rules]]
name = "greeting"
pattern = "^hello$"
label = "Hello! How can we help?"
"""
CLASSIFICATION = """
[serving]
engine = "vllm"

[tasks.topic]
model = "llm"
title = "What is it about?"
labels = ["cars", "boats", "planes"]
label_titles = { boats = "Ships and boats" }

[tasks.topic.training]
base_model = "models/base"
"""


def load(folder: Path, text: str) -> FlywheelSettings:
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, {})


def test_a_task_that_generates_has_a_prompt_and_no_labels(tmp_path: Path) -> None:
    task = load(tmp_path, GENERATION).task("replies")
    prompt = task.release_prompt
    assert task.labels == ()
    assert prompt is not None
    assert prompt.answers == {}
    assert prompt.max_answer_tokens == 40
    assert prompt.messages("My {text} parcel?") == [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Customer: My {text} parcel?"},
    ]
    assert task.triage.rules[0].label == "Hello! How can we help?"


def test_a_classification_by_a_language_model_has_a_letter_per_label(tmp_path: Path) -> None:
    prompt = load(tmp_path, CLASSIFICATION).task("topic").release_prompt
    assert prompt is not None
    assert prompt.answers == {"cars": "A", "boats": "B", "planes": "C"}
    assert prompt.max_answer_tokens == 1
    assert "What is it about?" in prompt.system
    assert "B: Ships and boats" in prompt.system


def test_an_encoder_has_no_prompt(tmp_path: Path) -> None:
    text = CLASSIFICATION.replace('model = "llm"\n', "")
    assert load(tmp_path, text).task("topic").release_prompt is None


@pytest.mark.parametrize(
    ("text", "old", "new", "words"),
    [
        (GENERATION, "# more", 'labels = ["a", "b"]', "labels has no meaning"),
        (GENERATION, 'model = "llm"', 'model = "encoder"', 'needs model = "llm"'),
        (GENERATION, "Customer: {text}", "Customer:", "must hold {text} exactly once"),
        (GENERATION, "Customer: {text}", "{text} {text}", "must hold {text} exactly once"),
        (GENERATION, "max_answer_tokens = 40", "max_answer_tokens = 0", "greater than or equal"),
        (GENERATION, "Hello! How can we help?", "  ", "label of rule 'greeting': the text is emp"),
        (GENERATION, "# more", 'label_titles = { a = "b" }', "which are no labels"),
        (GENERATION, 'engine = "vllm"', 'engine = "embedded"', "cannot serve"),
        (CLASSIFICATION, '"cars", "boats", "planes"', '"boats"', "at least two"),
        (
            CLASSIFICATION,
            '"cars", "boats", "planes"',
            ", ".join(f'"{n}"' for n in [*range(62), "boats"]),
            "tells 62 apart",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, text: str, old: str, new: str, words: str
) -> None:
    assert old in text
    with pytest.raises(ConfigurationError, match=words):
        load(tmp_path, text.replace(old, new))


def test_a_language_model_may_be_served_elsewhere(tmp_path: Path) -> None:
    text = GENERATION.replace('engine = "vllm"', 'urls = ["http://models:8000"]')
    assert load(tmp_path, text).serving.endpoints == ("http://models:8000",)
