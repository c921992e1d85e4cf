"""A base as a causal language model, on those of transformers' paths that compute what it is.

Eager attention is how an architecture is written down; sdpa is faster, and leaves out what some
architectures add to it. A packed row is exact for those whose tokens meet in attention alone. Both
are looked at with samples of the run before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import structlog
import torch
from torch import Tensor

from flywheel.contracts.model_folder import CONFIG_FILE
from flywheel.errors import ConfigurationError
from flywheel.training.llm.packing import Row, alone, pack, shared_prefix
from flywheel.training.llm.samples import Sample

Attention = Literal["sdpa", "eager"]

_KEY = "training.base_model"
# Of the largest logit: what the order of sums may do in FP32. Other mathematics does far more.
_NOISE = 2e-3
# The longest of a run: a few are enough to tell, and each is computed twice.
_SAMPLES, _PACKED = 3, 8
log = structlog.get_logger(__name__)


def load_causal(base: Path) -> Any:
    """The base's FP32 weights as a causal language model with eager attention.

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
            base, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(_KEY, f"the model cannot be loaded: {error}") from error


def set_attention(causal: Any, samples: Sequence[Sample]) -> Attention:
    """Have the model compute with sdpa where that gives what eager attention gives.

    Raises ConfigurationError for a model that does not compute at all.
    """
    rows = [alone(sample) for sample in _longest(samples)[:_SAMPLES]]
    try:
        expected = _logits(causal, "eager", rows)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigurationError(
            _KEY,
            f"its {type(causal).__name__} cannot be asked: {type(error).__name__}: {error}",
            "use a base of another architecture",
        ) from error
    try:
        causal.set_attn_implementation("sdpa")
        if causal.config._attn_implementation != "sdpa":
            log.info("trained with eager attention: the base has no other")
            return "eager"
        difference = _difference(_logits(causal, "sdpa", rows), expected)
    except (ValueError, ImportError) as error:
        log.warning("trained with eager attention, which is slower", reason=str(error))
    else:
        if difference == 0:
            return "sdpa"
        log.warning(
            "trained with eager attention, which is slower: sdpa computes another model",
            logits_off_by=round(difference, 4),
        )
    causal.set_attn_implementation("eager")
    return "eager"


def packs(causal: Any, attention: Attention, samples: Sequence[Sample], row_tokens: int) -> bool:
    """Whether samples in one row have the logits that they have alone."""
    shared = shared_prefix(samples)
    chosen: list[Sample] = []
    used = shared
    for sample in _longest(samples)[:_PACKED]:
        used += len(sample) - shared
        if used > row_tokens and len(chosen) > 1:
            break
        chosen.append(sample)
    if len(chosen) < 2:
        return True
    expected = _logits(causal, attention, [alone(sample) for sample in chosen])
    try:
        packed = _logits(causal, attention, [pack(chosen, shared)])
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.warning(
            "samples are trained one by one: the base takes no packed row", reason=str(error)
        )
        return False
    difference = _difference(packed, expected)
    if difference:
        log.warning(
            "samples are trained one by one, which is slower: packed, they would not be themselves",
            logits_off_by=round(difference, 4),
        )
    return difference == 0


def forward(model: Any, attention: Attention, row: Row) -> Tensor:
    """(asked tokens, vocabulary): the logits of a row where an answer's token comes next."""
    inputs: dict[str, Any] = {"input_ids": row.ids, "use_cache": False}
    if row.mask is not None:
        # Eager attention adds its mask to the scores; sdpa knows one of truths as well.
        lowest = torch.finfo(torch.float32).min
        added = torch.where(row.mask, 0.0, lowest) if attention == "eager" else row.mask
        inputs |= {"attention_mask": added, "position_ids": row.positions}
    logits: Tensor = model(**inputs, logits_to_keep=row.asked).logits[0]
    return logits


def _logits(causal: Any, attention: Attention, rows: Sequence[Row]) -> Tensor:
    causal.eval()
    with torch.inference_mode():
        return torch.cat([forward(causal, attention, row) for row in rows])


def _difference(logits: Tensor, expected: Tensor) -> float:
    """How far two sets of logits are apart; 0 when no farther than rounding explains."""
    apart = float((logits - expected).abs().max())
    largest = max(1.0, float(expected.abs().max()))
    return apart if not apart <= _NOISE * largest else 0.0


def _longest(samples: Sequence[Sample]) -> list[Sample]:
    """The longest first: they reach beyond a window, if there is one."""
    return sorted(samples, key=len, reverse=True)
