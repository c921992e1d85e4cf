"""A causal language model with a LoRA adapter in it, and the adapter's files as vLLM reads them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor, nn

from flywheel.contracts.base_folder import trained_on
from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    RELEASE_FILE,
    TOKENIZER_FILES,
    BaseReference,
    ModelDescription,
    Prompt,
    read_description,
)
from flywheel.contracts.witness import TEXTS, Witness
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.training.config import LoraSettings
from flywheel.training.llm.causal import forward, load_causal, packs, set_attention
from flywheel.training.llm.packing import Row, alone
from flywheel.training.llm.samples import Sample

log = structlog.get_logger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class AdaptedModel:
    """The base, frozen, with trainable FP32 adapters, on the device that trains it. ``packs`` says
    whether samples may share a row, ``attention`` how transformers computes it."""

    def __init__(self, base: Path, lora: LoraSettings, samples: Sequence[Sample]) -> None:
        """``samples`` are those of the run: what its base computes is looked at with some.

        Raises ConfigurationError when the folder holds no base that can be trained, or the settings
        don't fit it.
        """
        from peft import LoraConfig, get_peft_model

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _DTYPES[lora.precision]
        causal = load_causal(base)
        limit = int(getattr(causal.config, "max_position_embeddings", lora.max_tokens))
        if lora.max_tokens > limit:
            raise ConfigurationError(
                "lora.max_tokens", f"{lora.max_tokens} is more than the {limit} the base can read"
            )
        self.attention = set_attention(causal, samples)
        self.packs = packs(causal, self.attention, samples, lora.batch_tokens)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=sorted(lora.targets),
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                # Of a layer that shares its weights: refused below.
                warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
                self.peft: Any = get_peft_model(causal, config)
        except ValueError as error:
            raise ConfigurationError("lora.targets", f"the base has none: {error}") from error
        _refuse_shared(self.peft)
        _say_missing(self.peft, lora.targets)
        self._hold_frozen()
        self.peft.to(self.device).train()
        self.trained: dict[str, nn.Parameter] = {
            name: parameter
            for name, parameter in self.peft.named_parameters()
            if parameter.requires_grad
        }

    def _hold_frozen(self) -> None:
        # Autocast would round the frozen weights anew at every step; once gives the same products.
        # Embeddings stay: the output layer may share them. What is trained stays FP32 too.
        if self.dtype is torch.float32:
            return
        output = self.peft.get_output_embeddings()
        for module in self.peft.modules():
            if type(module) is nn.Linear and module is not output:
                for parameter in module.parameters():
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(self.dtype)

    @contextmanager
    def _products(self) -> Iterator[None]:
        low = self.dtype is not torch.float32
        kind = self.dtype if low else torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=low):
            yield

    def logits(self, row: Row) -> Tensor:
        """(answer tokens, vocabulary) in FP32, of the answers' tokens alone."""
        with self._products():
            row = row._replace(
                ids=row.ids.to(self.device),
                positions=None if row.positions is None else row.positions.to(self.device),
                mask=None if row.mask is None else row.mask.to(self.device),
                asked=row.asked.to(self.device),
            )
            return forward(self.peft, self.attention, row).float()

    def witness(self, base: Path, about: ModelDescription) -> Witness:
        """What it answers to texts that nobody sent, for whoever serves it to compare with."""
        chat = Chat.of_folder(base, about.prompt or Prompt())
        self.peft.eval()
        answers = []
        for text in TEXTS:
            ids, _ = chat.cut(text, about.max_tokens)
            with torch.inference_mode():
                [logits] = self.logits(alone(Sample(tuple(ids), (0,), 1.0)))
            shares = logits[list(about.letters.values())].softmax(dim=0).tolist()
            answers.append(dict(zip(about.letters, shares, strict=True)))
        return Witness(texts=TEXTS, probabilities=tuple(answers))

    def continue_from(self, parent: Path, base: BaseReference, bases: Path | None = None) -> None:
        """Start from the weights of an earlier adapter on the same base, or on one that ``bases``
        says was quantised from it.

        Raises ArtefactError when they don't fit.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors.torch import load_file

        described = read_description(parent)
        own_base = "" if described.base is None else described.base.id
        if bases is not None and own_base:
            own_base = trained_on(bases, own_base)
        if own_base != base.id:
            raise ArtefactError(f"{parent} is no adapter on base {base.id}: train without it")
        state = load_file(parent / ADAPTER_FILE)
        own = get_peft_model_state_dict(self.peft)
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in own.items()}:
            raise ArtefactError(f"{parent} has another rank or other targets: train without it")
        set_peft_model_state_dict(self.peft, state)

    def save(self, folder: Path, base: Path) -> None:
        """Write the adapter and the base's tokenizer to ``folder``, the same bytes for the same
        weights: no path of this machine, and nothing in the order of a set."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / RELEASE_FILE).unlink(missing_ok=True)
        state = {
            name: tensor.detach().to("cpu", torch.float32).contiguous()
            for name, tensor in get_peft_model_state_dict(self.peft).items()
        }
        save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config = self.peft.peft_config["default"].to_dict()
        config["base_model_name_or_path"] = base.name
        config["inference_mode"] = True
        text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
        (folder / ADAPTER_CONFIG_FILE).write_text(text + "\n")
        for name in TOKENIZER_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)


def _refuse_shared(peft: Any) -> None:
    """A layer whose weights are another's too: merged, the adapter would change both."""
    owners: dict[int, list[str]] = {}
    for name, module in peft.base_model.model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    targeted = {f"{name}.base_layer" for name in peft.base_model.targeted_module_names}
    for names in owners.values():
        if len(names) > 1 and (hit := sorted(targeted.intersection(names))):
            both = " and ".join(name.removesuffix(".base_layer") for name in sorted(names))
            raise ConfigurationError(
                "lora.targets",
                f"{hit[0].removesuffix('.base_layer').rpartition('.')[2]!r} shares its weights: "
                f"those of {both} are the same, so that the adapter merged would be another model",
                "leave it out",
            )


def _say_missing(peft: Any, targets: Sequence[str]) -> None:
    """Names of ``lora.targets`` that the base does not have: PEFT passes over them in silence."""
    adapted = {name.rpartition(".")[2] for name in peft.base_model.targeted_module_names}
    missing = sorted(set(targets) - adapted - set(peft.base_model.targeted_module_names))
    if missing:
        log.warning("lora.targets names layers that the base lacks", missing=missing)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
