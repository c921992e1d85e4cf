"""A text, and a text that answers it."""

from __future__ import annotations

from flywheel.kinds.kind import Kind
from flywheel.kinds.reading import only_of_user

KIND = Kind(
    name="generation",
    has_labels=False,
    models=("llm",),
    read=only_of_user,
    no_classify="has no labels: it generates text",
    listed={"kind": "generation"},
)
