"""A flywheel.toml of one task, written and read."""

from __future__ import annotations

from pathlib import Path

from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings

LABELS = ["animal", "plant"]
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
