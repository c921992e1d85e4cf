"""A merged model is the adapter on its base, or there is none."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tiny_llm import make_llm

from flywheel.compression.llm import merge
from flywheel.errors import ArtefactError


def adapter(folder: Path, base: Path, target: str) -> Path:
    """An adapter of random weights, made by PEFT itself and of earlier versions of ours."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules=[target, "q_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`")
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("tied", [True, False])
def test_merging_into_weights_that_are_shared_is_refused(
    tmp_path: Path, target: str, tied: bool
) -> None:
    base = make_llm(tmp_path / "base", tie_word_embeddings=tied)
    made = adapter(tmp_path / "adapter", base, target)
    if not tied:
        merge(base, made, tmp_path / "merged")
        assert (tmp_path / "merged" / "model.safetensors").is_file()
        return
    with pytest.raises(ArtefactError, match="is another model"):
        merge(base, made, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
