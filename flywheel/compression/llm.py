"""Makes one variant of a language model by its recipe: merge the adapter or not, quantise.

A base that adapters share must not depend on any one dataset, or each turn would make another and
nothing would be shared: W8A8 rounds without data, and INT4 is calibrated on texts that the base
itself writes (as in Liu et al. 2023, arXiv 2305.17888), drawn with a fixed seed. A merged model
belongs to one release and is calibrated on that release's training texts.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flywheel.compression.config import Quantisation, Recipe
from flywheel.compression.llm_quantize import copy_tokenizer, method_of, quantise_model
from flywheel.compression.variants import VariantReport
from flywheel.contracts.base_folder import MADE_FILE, BaseOrigin, put_base
from flywheel.contracts.chat import Chat
from flywheel.contracts.dataset_folder import DatasetLine, read_part
from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    CONFIG_FILE,
    MERGED,
    RELEASE_FILE,
    TRAINING_REPORT,
    WEIGHTS_FILE,
    BaseReference,
    ModelDescription,
    Prompt,
    digest_model_files,
    read_base,
    read_description,
    write_description,
    write_json,
)
from flywheel.errors import ArtefactError, ConfigurationError

CALIBRATION_TEXTS = 128
# Many short calls would take most of the time.
_ROW_TOKENS = 512
_WRITTEN_TEXTS = 32
_WRITTEN_TOKENS = 64
_SEED = 20
# Random tokens that a merged model is compared on, and what the order of sums may do to a logit,
# as a share of the largest.
_PROBE_TOKENS = 48
_NOISE = 2e-3
_log = structlog.get_logger(__name__)


def make_llm_variant(
    name: str, recipe: Recipe, trained: Path, dataset: Path, folder: Path, *, bases: Path
) -> VariantReport:
    """Write the variant ``name`` of the adapter in ``trained`` to ``folder``, not yet calibrated.

    Without merging, that is the adapter on its base quantised as the recipe says, which is kept
    under ``bases`` for later turns; with it, a model that is complete. Raises ArtefactError for a
    damaged model or dataset, ConfigurationError for a recipe that is none of a language model's.
    """
    started = time.perf_counter()
    method = method_of(recipe.quantise)
    _refuse_encoder_steps(name, recipe)
    described = read_description(trained)
    if described.kind != "llm":
        raise ConfigurationError("compression.variants", f"{trained} holds no language model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    if (trained / TRAINING_REPORT).is_file():
        shutil.copyfile(trained / TRAINING_REPORT, folder / TRAINING_REPORT)
    job = _Variant(recipe.quantise, described, trained, dataset, folder, bases)
    notes: tuple[str, ...] = ()
    if recipe.quantise == "w4a16-awq" and not recipe.merge and described.base is not None:
        notes = ("merged: AWQ rescales what layers read, which an adapter beside it would miss",)
    if described.base is None or recipe.merge or notes:
        made = job.complete()
    else:
        made = job.beside(described.base)
    if method == "w4a16":
        notes = (*notes, "vLLM serves INT4 weights on a GPU")
    made = msgspec.structs.replace(
        made, method=method, temperature=1.0, files=digest_model_files(folder)
    )
    write_description(folder, made)
    shared = 0
    if made.base is not None:
        files = read_base(bases / made.base.id).files
        shared = sum(file.bytes for file in files.values())
        notes = (
            *notes,
            f"an adapter of {made.size_bytes / 1e6:.1f} MB on a base of {shared / 1e6:.1f} MB, "
            "which every release on it shares",
        )
    return VariantReport(
        name=name,
        method=method,
        steps=made.steps,
        bytes=made.size_bytes + shared,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


@dataclass(frozen=True)
class _Variant:
    quantise: Quantisation
    described: ModelDescription
    trained: Path
    dataset: Path
    folder: Path
    bases: Path

    def beside(self, base: BaseReference) -> ModelDescription:
        """The adapter as it is, on its base quantised."""
        for file in (ADAPTER_FILE, ADAPTER_CONFIG_FILE):
            shutil.copyfile(self.trained / file, self.folder / file)
        copy_tokenizer(self.trained, self.folder)
        quantised = quantised_base(base, self.quantise, self.bases)
        return msgspec.structs.replace(self.described, base=quantised)

    def complete(self) -> ModelDescription:
        """The adapter merged into its base, then quantised."""
        steps = self.described.steps
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".merged-") as temporary:
            source = self.trained
            if self.described.base is not None:
                base = self.bases / self.described.base.id
                read_base(base)
                merge(base, self.trained, Path(temporary))
                source = Path(temporary)
                steps = (*steps, MERGED)
            if self.quantise == "none":
                for file in (CONFIG_FILE, WEIGHTS_FILE):
                    shutil.copyfile(source / file, self.folder / file)
                copy_tokenizer(source, self.folder)
            else:
                lines = read_part(self.dataset, "train")
                chats = calibration_chats(source, lines, self.described.prompt)
                quantise_model(source, self.folder, self.quantise, chats)
        return msgspec.structs.replace(self.described, base=None, steps=steps)


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """Write the base with an adapter added into its weights, in FP32.

    Raises ArtefactError when that is another model than the adapter beside its base: where layers
    share weights, what is added to one changes the others too.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    beside: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    random_ids = torch.Generator().manual_seed(_SEED)
    asked = torch.randint(vocabulary, (1, _PROBE_TOKENS), generator=random_ids)
    with torch.inference_mode():
        expected = beside(asked, use_cache=False).logits
        merged = beside.merge_and_unload()
        apart = float((merged(asked, use_cache=False).logits - expected).abs().max())
    largest = max(1.0, float(expected.abs().max()))
    if not apart <= _NOISE * largest:
        raise ArtefactError(
            f"{adapter} merged into its base is another model: its logits are {apart:.3g} apart "
            f"(the largest is {largest:.3g}); serve it unmerged, or train one without "
            "embeddings in lora.targets"
        )
    merged.save_pretrained(folder, max_shard_size="1000GB")
    copy_tokenizer(base, folder)


def quantised_base(base: BaseReference, quantise: Quantisation, bases: Path) -> BaseReference:
    """``base`` quantised, made once and kept under ``bases``."""
    if quantise == "none":
        return base
    wanted = BaseOrigin(base.id, quantise)
    for file in sorted(bases.glob(f"*/{MADE_FILE}")):
        if _made(file) == wanted:
            return read_base(file.parent).reference
    source = bases / base.id
    name = read_base(source).name
    with tempfile.TemporaryDirectory(dir=bases, prefix=".quantised-") as temporary:
        texts = [] if quantise == "w8a8" else written_texts(source)
        quantise_model(source, Path(temporary), quantise, texts)
        made = put_base(Path(temporary), bases, name=name, method=method_of(quantise))
    write_json(bases / made.id / MADE_FILE, wanted)
    _log.info("base quantised", base=made.id, source=base.id, quantise=quantise)
    return made


def calibration_chats(
    model: Path, lines: Sequence[DatasetLine], prompt: Prompt | None
) -> list[list[int]]:
    """Token ids of training texts as they are asked, with their answers: 128 at most, by seed, one
    after the other in rows of 512 tokens or more."""
    if not lines or prompt is None:
        raise ArtefactError("quantising a merged model needs training texts and a prompt")
    chat = Chat.of_folder(model, prompt)
    chosen = random.Random(_SEED).sample(list(lines), min(CALIBRATION_TEXTS, len(lines)))
    rows: list[list[int]] = [[]]
    for line in chosen:
        if len(rows[-1]) >= _ROW_TOKENS:
            rows.append([])
        rows[-1] += chat.ids(line.text) + chat.answer(prompt.answers.get(line.label, line.label))
    return rows


def written_texts(model: Path) -> list[list[int]]:
    """Token ids of texts that the model writes by itself, the same ones each time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    writer = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    if torch.cuda.is_available():
        writer.to("cuda")
    first = tokenizer.bos_token_id or tokenizer.eos_token_id or 0
    start = torch.full((_WRITTEN_TEXTS, 1), first, device=writer.device)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(_SEED)
        written = writer.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            min_new_tokens=_WRITTEN_TOKENS,
            max_new_tokens=_WRITTEN_TOKENS,
            pad_token_id=first,
        )
    texts: list[list[int]] = written.cpu().tolist()
    return texts


def _refuse_encoder_steps(name: str, recipe: Recipe) -> None:
    wanted = {
        "distil_to": bool(recipe.distil_to),
        "prune_heads": recipe.prune_heads > 0,
        "prune_ffn": recipe.prune_ffn > 0,
    }
    steps = [step for step, is_wanted in wanted.items() if is_wanted]
    if steps:
        raise ConfigurationError(
            "compression.variants",
            f"{name!r} says {', '.join(steps)}, which are for encoders",
            "a language model takes none, w8a8, w4a16-gptq, w4a16-awq, merged or merged-w8a8",
        )


def _made(file: Path) -> BaseOrigin | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=BaseOrigin)
    except (OSError, msgspec.MsgspecError):
        return None
