"""Variants of a language model: what each recipe writes, what is shared, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from llm_training_process import LORA, run
from tiny_llm import make_dataset, make_llm
from vllm_models import require_compressor

from flywheel.compression.config import STANDARD, Recipe
from flywheel.compression.llm import make_llm_variant
from flywheel.compression.llm_quantize import group_size
from flywheel.compression.variants import VariantReport
from flywheel.contracts.model_folder import read_base, read_description
from flywheel.errors import ArtefactError, ConfigurationError

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow


class Wheel:
    """One trained adapter, from which variants are made."""

    def __init__(self, root: Path) -> None:
        self.root, self.bases, self.trained = root, root / "bases", root / "trained"
        self.dataset = make_dataset(root / "data")
        run(self.dataset, make_llm(root / "tiny"), self.trained, self.bases, LORA)

    def variant(self, name: str, recipe: Recipe | None = None) -> tuple[VariantReport, Path]:
        folder = self.root / "variants" / name
        report = make_llm_variant(
            name,
            recipe or STANDARD[name],
            self.trained,
            self.dataset,
            folder,
            bases=self.bases,
        )
        return report, folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    require_compressor()
    return Wheel(tmp_path_factory.mktemp("wheel"))


def logits(folder: Path, adapter: Path | None = None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        return model(input_ids=torch.arange(40)[None] + 20).logits


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def quantisation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_the_reference_is_the_adapter_as_it_was_trained(wheel: Wheel) -> None:
    report, folder = wheel.variant("none")
    described, trained = read_description(folder), read_description(wheel.trained)
    assert described == trained
    assert (report.method, report.steps) == ("none", ())
    assert described.base is not None
    base = read_base(wheel.bases / described.base.id)
    assert report.bytes == described.size_bytes + sum(f.bytes for f in base.files.values())


def test_adapters_share_a_base_that_is_quantised_once(wheel: Wheel) -> None:
    report, folder = wheel.variant("w8a8")
    described, trained = read_description(folder), read_description(wheel.trained)
    assert described.base is not None
    assert trained.base is not None
    assert described.base.id != trained.base.id
    assert (described.method, described.base.method, report.method) == ("w8a8",) * 3
    assert described.files == trained.files
    base = wheel.bases / described.base.id
    assert read_base(base).name == "tiny"
    assert quantisation(base)["format"] == "int-quantized"
    assert str(weights(base)["model.layers.0.mlp.up_proj.weight"].dtype) == "torch.int8"
    assert str(weights(base)["model.embed_tokens.weight"].dtype) == "torch.float16"
    made = (base / "model.safetensors").stat().st_mtime_ns
    again, _ = wheel.variant("again", STANDARD["w8a8"])
    assert again.bytes == report.bytes
    assert (base / "model.safetensors").stat().st_mtime_ns == made


def test_a_merged_model_answers_as_base_and_adapter_do(wheel: Wheel) -> None:
    import torch

    report, folder = wheel.variant("merged")
    described, trained = read_description(folder), read_description(wheel.trained)
    assert described.base is None
    assert described.prompt == trained.prompt
    assert report.steps == described.steps == ("LoRA adapter merged into its base",)
    assert report.bytes == described.size_bytes
    assert not (folder / "adapter_config.json").exists()
    assert trained.base is not None
    both = logits(wheel.bases / trained.base.id, wheel.trained)
    torch.testing.assert_close(logits(folder), both, rtol=1e-4, atol=1e-4)


def test_a_merged_model_is_calibrated_on_its_dataset(wheel: Wheel) -> None:
    import torch

    report, folder = wheel.variant("merged-w8a8")
    _, whole = wheel.variant("merged")
    assert report.method == read_description(folder).method == "w8a8"
    scheme = quantisation(folder)["config_groups"]["group_0"]
    assert (scheme["weights"]["strategy"], scheme["input_activations"]["dynamic"]) == (
        "channel",
        True,
    )
    near = torch.nn.functional.cosine_similarity(logits(folder), logits(whole), dim=-1)
    assert float(near.mean()) > 0.98


@pytest.mark.parametrize("name", ["w4a16-gptq", "w4a16-awq"])
def test_int4_weights_are_packed_in_groups_that_divide_the_layers(wheel: Wheel, name: str) -> None:
    report, folder = wheel.variant(name)
    described = read_description(folder)
    assert (described.method, report.method) == ("w4a16", "w4a16")
    assert "vLLM serves INT4 weights on a GPU" in report.notes
    # AWQ rescales the inputs that the adapter was trained on.
    assert (described.base is None) == (name == "w4a16-awq")
    model = folder if described.base is None else wheel.bases / described.base.id
    scheme = quantisation(model)
    assert scheme["format"] == "pack-quantized"
    told = scheme["config_groups"]["group_0"]["weights"]
    assert (told["num_bits"], told["group_size"]) == (4, 64)
    packed = weights(model)["model.layers.0.mlp.down_proj.weight_packed"]
    assert (str(packed.dtype), tuple(packed.shape)) == ("torch.int32", (64, 128 // 8))


def test_the_largest_group_that_fits_is_taken() -> None:
    assert [group_size(inputs) for inputs in ([256, 128], [576, 1536], [96, 32])] == [128, 64, 32]
    with pytest.raises(ConfigurationError, match="multiples of 24"):
        group_size([48, 72])


def test_recipes_of_encoders_and_damaged_models_are_refused(wheel: Wheel, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="w8a8"):
        wheel.variant("int8-dynamic")
    with pytest.raises(ConfigurationError, match="prune_ffn"):
        wheel.variant("pruned")
    with pytest.raises(ConfigurationError, match="distil_to"):
        wheel.variant("small", Recipe(distil_to="else", quantise="none"))
    base = read_description(wheel.trained).base
    assert base is not None
    with pytest.raises(ArtefactError, match="base model"):
        make_llm_variant(
            "w8a8",
            STANDARD["w8a8"],
            wheel.trained,
            wheel.dataset,
            tmp_path / "variant",
            bases=tmp_path / "bases",
        )
    assert not (tmp_path / "variant" / "release.json").exists()
