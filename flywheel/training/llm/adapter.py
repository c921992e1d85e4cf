"""A causal language model with a LoRA adapter in it, and the adapter's files as vLLM reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flywheel.contracts.base_folder import trained_on
from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    CONFIG_FILE,
    RELEASE_FILE,
    TOKENIZER_FILES,
    BaseReference,
    read_description,
)
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.training.config import LoraSettings
from flywheel.training.llm.packing import Row

_KEY = "training.base_model"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class AdaptedModel:
    """The base, frozen, with trainable FP32 adapters, on the device that trains it."""

    def __init__(self, base: Path, lora: LoraSettings) -> None:
        from peft import LoraConfig, get_peft_model

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _DTYPES[lora.precision]
        causal = load_causal(base)
        limit = int(getattr(causal.config, "max_position_embeddings", lora.max_tokens))
        if lora.max_tokens > limit:
            raise ConfigurationError(
                "lora.max_tokens", f"{lora.max_tokens} is more than the {limit} the base can read"
            )
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=sorted(lora.targets),
            task_type="CAUSAL_LM",
        )
        try:
            self.peft: Any = get_peft_model(causal, config)
        except ValueError as error:
            raise ConfigurationError("lora.targets", f"the base has none: {error}") from error
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
            out = self.peft(
                input_ids=row.ids.to(self.device),
                position_ids=row.positions.to(self.device),
                attention_mask=row.mask.to(self.device),
                logits_to_keep=row.asked.to(self.device),
                use_cache=False,
            )
        logits: Tensor = out.logits[0].float()
        return logits

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


def load_causal(base: Path) -> Any:
    """The base's FP32 weights as a causal language model.

    Raises ConfigurationError when the folder holds none that can be trained.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if "quantization_config" in json.loads((base / CONFIG_FILE).read_text("utf-8")):
        raise ConfigurationError(
            _KEY, "its weights are quantised", "train on the full ones and quantise afterwards"
        )
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(_KEY, f"the model cannot be loaded: {error}") from error


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
