"""A base is trained as what it is: packed or not, with sdpa or not, whatever its architecture."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_llm import make_llm

from flywheel.errors import ConfigurationError

# Of 40, 22 and 15 tokens with 6 that are the same: the longest reaches beyond a window of 16.
_OWN = (34, 16, 9)


def samples() -> list[Any]:
    from flywheel.training.llm.samples import Sample

    chance = random.Random(1)

    def ids(count: int) -> list[int]:
        return [chance.randrange(3, 250) for _ in range(count)]

    shared = ids(6)
    return [Sample((*shared, *ids(count)), (65 + count % 3,), 1.0) for count in _OWN]


def adapted(folder: Path, architecture: str, targets: tuple[str, ...] = (), **config: Any) -> Any:
    from flywheel.training.config import LoraSettings
    from flywheel.training.llm.adapter import AdaptedModel

    base = make_llm(folder / "base", architecture, **config)
    told = {"targets": targets} if targets else {}
    return AdaptedModel(base, LoraSettings(precision="float32", **told), samples())


def expected(folder: Path) -> Any:
    """The logits after each prompt as transformers computes the architecture when simply asked."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    with torch.inference_mode():
        rows = [model(torch.tensor([sample.prompt])).logits[0, -1] for sample in samples()]
    return torch.stack(rows)


_QKV, _FUSED = ("q_proj", "v_proj"), ("query_key_value",)
KINDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], bool, str]] = {
    "Llama": ("Llama", _QKV, {}, True, "sdpa"),
    "Qwen3": ("Qwen3", _QKV, {}, True, "sdpa"),
    "GPT-2": ("GPT2", ("c_attn",), {}, True, "sdpa"),
    "Mistral, window longer than a row": ("Mistral", _QKV, {"sliding_window": 99}, True, "sdpa"),
    "Mistral, window shorter": ("Mistral", _QKV, {"sliding_window": 16}, False, "sdpa"),
    "Gemma 2, with its softcap": ("Gemma2", _QKV, {"sliding_window": 16}, False, "eager"),
    "Lfm2, with convolutions": ("Lfm2", _QKV, {}, False, "sdpa"),
    "Bloom, by distance": ("Bloom", _FUSED, {}, False, "eager"),
    "Falcon, by distance": ("Falcon", _FUSED, {}, False, "eager"),
}


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_logits_that_they_have_alone(tmp_path: Path, kind: str) -> None:
    import torch

    from flywheel.training.llm.packing import alone, pack, shared_prefix

    architecture, targets, config, is_packed, attention = KINDS[kind]
    model = adapted(tmp_path, architecture, targets, **config)
    assert (model.packs, model.attention) == (is_packed, attention)
    given = samples()
    rows = [pack(given, shared_prefix(given))] if model.packs else [alone(one) for one in given]
    model.peft.eval()
    with torch.inference_mode():
        found = torch.cat([model.logits(row) for row in rows])
    torch.testing.assert_close(found, expected(tmp_path), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_layer_that_shares_its_weights_gets_no_adapter(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s)lora\.targets.*{target}.*the same"):
        adapted(tmp_path, "Llama", ("q_proj", target))
    apart = adapted(tmp_path / "untied", "Llama", ("q_proj", target), tie_word_embeddings=False)
    assert any(target in name for name in apart.trained)
