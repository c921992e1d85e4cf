"""A text, and one of the task's labels."""

from __future__ import annotations

from flywheel.kinds.kind import Kind

KIND = Kind(
    name="classification",
    has_labels=True,
    ignored={
        "llm": {"prompt.max_answer_tokens": "a classification is answered with one letter"},
    },
)
