"""Every recipe makes a folder that is served with the answers that torch computes from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.compression.config import STANDARD, Recipe
from flywheel.compression.fake_quantise import compute_as_int8
from flywheel.compression.variants import Tools, VariantReport, make_variant
from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    digest_model_files,
    read_description,
    write_description,
)
from flywheel.contracts.text_tokens import read_tokens
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.kinds import Choice
from flywheel.serving.runtime import load_classifier
from flywheel.training.config import TrainingSettings
from flywheel.training.encoder import load_trained
from flywheel.training.train import fine_tune, observe, train

LABELS = tuple(TOPICS)
RECIPES: dict[str, Recipe] = {
    **{name: STANDARD[name] for name in ("none", "int8-dynamic", "int8-static", "int8-qat")},
    "pruned": Recipe(prune_ffn=0.5, quantise="none"),
    "heads": Recipe(prune_heads=0.5, quantise="none"),
    "fewer": Recipe(distil_to="layers:1", epochs=4, quantise="none"),
    "all": Recipe(distil_to="layers:1", prune_heads=0.25, prune_ffn=0.25, quantise="int8-static"),
    "all-qat": Recipe(prune_heads=0.25, prune_ffn=0.25, quantise="int8-qat"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    make_encoder(folder / "base")
    build_dataset(
        labelled(240, holdout=90),
        DatasetSettings(),
        Choice(LABELS),
        task="topics",
        watermark="e",
        parent=None,
        folder=folder / "data",
    )
    train(folder / "data", recipe_of_training(folder), LABELS, folder / "trained")
    return folder


def recipe_of_training(root: Path) -> TrainingSettings:
    return TrainingSettings(
        base_model=str(root / "base"),
        learning_rate=3e-3,
        head_learning_rate_factor=3.0,
        epochs=5,
        min_steps=20,
        threads=1,
        max_tokens=32,
        train_embeddings=True,
    )


def tools(root: Path) -> Tools:
    return Tools(
        load=load_classifier,
        fine_tune=partial(fine_tune, recipe_of_training(root)),
        observe=observe,
        threads=1,
    )


@pytest.fixture(scope="module")
def make(root: Path) -> Callable[[str], tuple[VariantReport, Path]]:
    made: dict[str, tuple[VariantReport, Path]] = {}

    def variant(name: str) -> tuple[VariantReport, Path]:
        if name not in made:
            folder = root / "variants" / name
            report = make_variant(
                name, RECIPES[name], root / "trained", root / "data", folder, tools=tools(root)
            )
            made[name] = report, folder
        return made[name]

    return variant


def texts() -> list[str]:
    return [sample.text for sample in labelled(60, seed=5)] + ["", "rain", "word " * 60]


def accuracy(folder: Path) -> float:
    samples = labelled(200, seed=6)
    rows = load_classifier(folder, 1).predict([sample.text for sample in samples])
    right = [max(row, key=row.__getitem__) == s.label for row, s in zip(rows, samples, strict=True)]
    return sum(right) / len(right)


def in_fp32(folder: Path, copy: Path) -> tuple[Path, dict[str, float]]:
    """The model with its INT8 weights written out, and its static scales by layer."""
    copy.mkdir()
    for file in folder.iterdir():
        shutil.copyfile(file, copy / file.name)
    state = load_file(folder / WEIGHTS_FILE)
    scales = {
        name.removesuffix(".input_scale"): float(state.pop(name))
        for name in list(state)
        if name.endswith(".input_scale")
    }
    for name in [name for name in state if f"{name}_scale" in state]:
        state[name] = state[name].to(torch.float32) * state.pop(f"{name}_scale")
    save_file(
        {name: tensor.to(torch.float32) for name, tensor in state.items()}, copy / WEIGHTS_FILE
    )
    description = read_description(folder)
    write_description(
        copy,
        msgspec.structs.replace(description, method="none", files=digest_model_files(copy)),
    )
    return copy, scales


def reference(folder: Path, copy: Path, texts: Sequence[str]) -> list[list[float]]:
    """What the torch module of training answers, computing as if quantised."""
    method = read_description(folder).method
    model, scales = in_fp32(folder, copy)
    network, _ = load_trained(model, LABELS)
    network.eval()
    if method in ("int8-dynamic", "int8-qat"):
        compute_as_int8(network)
    for name, scale in scales.items():
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, given, scale=scale: ((given[0] / scale).round().clamp(-127, 127) * scale,)
        )
    rows = []
    with torch.inference_mode():
        for tokens in read_tokens(model, 32)(texts):
            ids = torch.tensor([tokens.ids])
            logits = network(ids, torch.ones_like(ids))
            rows.append(torch.softmax(logits[0], dim=-1).tolist())
    return rows


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_is_served_is_what_torch_computes(
    name: str, make: Callable[[str], tuple[VariantReport, Path]], tmp_path: Path
) -> None:
    report, folder = make(name)
    about = read_description(folder)
    assert about.temperature == 1.0
    assert about.method == report.method == RECIPES[name].quantise
    assert about.steps == report.steps
    assert about.size_bytes == report.bytes
    served = load_classifier(folder, 1).predict(texts())
    for row, expected in zip(served, reference(folder, tmp_path / "copy", texts()), strict=True):
        assert list(row.values()) == pytest.approx(expected, abs=2e-2)
    assert accuracy(folder) > 0.9
    assert not list(folder.parent.glob(".variant-*"))


def test_pruned_models_have_smaller_matrices(
    make: Callable[[str], tuple[VariantReport, Path]],
) -> None:
    full = make("none")[0].bytes
    report, folder = make("all-qat")
    assert report.bytes < full
    state = load_file(folder / WEIGHTS_FILE)
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert (config["num_attention_heads"], config["head_size"]) == (3, 8)
    assert config["intermediate_size"] == 48
    layer = "bert.encoder.layer.0"
    assert state[f"{layer}.attention.self.query.weight"].shape == (24, 32)
    assert state[f"{layer}.attention.output.dense.weight"].shape == (32, 24)
    assert state[f"{layer}.intermediate.dense.weight"].shape == (48, 32)
    assert "3 of 4 attention heads a layer kept" in report.steps
    assert any("embedded engine" in note for note in report.notes)
    report, folder = make("fewer")
    assert json.loads((folder / CONFIG_FILE).read_text())["num_hidden_layers"] == 1
    assert report.bytes < full


def test_a_student_of_another_base_learns_from_any_teacher(root: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    class Teacher:
        labels = LABELS

        def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
            asked.extend(texts)
            return load_classifier(root / "trained", 1).predict(texts)

    make_encoder(tmp_path / "student", pooling="cls")
    report = make_variant(
        "small",
        Recipe(distil_to=str(tmp_path / "student"), quantise="int8-dynamic", epochs=6),
        root / "trained",
        root / "data",
        tmp_path / "small",
        tools=tools(root),
        teacher=Teacher(),
    )
    about = read_description(tmp_path / "small")
    assert about.pooling == "first_token"
    assert "student" in about.base_model
    assert "distilled to student" in report.steps[0]
    assert len(asked) == len((root / "data/train.jsonl").read_text().splitlines())
    assert accuracy(tmp_path / "small") > 0.8


def test_the_same_input_makes_the_same_variant(
    root: Path, tmp_path: Path, make: Callable[[str], tuple[VariantReport, Path]]
) -> None:
    for name in ("all", "int8-qat"):
        again = tmp_path / name
        make_variant(name, RECIPES[name], root / "trained", root / "data", again, tools=tools(root))
        assert read_description(again).files == read_description(make(name)[1]).files


def coarse(source: Path, folder: Path, size: float) -> Path:
    """The same function in FP32, from weights that INT8 rounds far too coarsely.

    What leaves a LayerNorm sums to a constant once its gain is divided out, so that a multiple of
    that sum may be added to a row of the next layer when the bias takes the constant back.
    """
    shutil.copytree(source, folder)
    state = load_file(folder / WEIGHTS_FILE)
    for layer in (0, 1):
        norm = f"bert.encoder.layer.{layer}.attention.output.LayerNorm"
        dense = f"bert.encoder.layer.{layer}.intermediate.dense"
        gain, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
        state[f"{dense}.weight"] += size / gain
        state[f"{dense}.bias"] -= size * (shift / gain).sum()
    save_file(state, folder / WEIGHTS_FILE)
    description = read_description(source)
    write_description(
        folder, msgspec.structs.replace(description, files=digest_model_files(folder))
    )
    return folder


def test_training_for_int8_repairs_what_rounding_breaks(root: Path, tmp_path: Path) -> None:
    hard = coarse(root / "trained", tmp_path / "hard", 300.0)
    found = {}
    for name in ("none", "int8-dynamic", "int8-qat"):
        make_variant(name, RECIPES[name], hard, root / "data", tmp_path / name, tools=tools(root))
        found[name] = accuracy(tmp_path / name)
    assert found["none"] > 0.95
    assert found["int8-dynamic"] < 0.85
    assert found["int8-qat"] > found["int8-dynamic"] + 0.1


def test_a_recipe_that_is_none_of_an_encoders_is_named(root: Path, tmp_path: Path) -> None:
    def attempt(recipe: Recipe) -> None:
        make_variant(
            "mine", recipe, root / "trained", root / "data", tmp_path / "x", tools=tools(root)
        )

    with pytest.raises(ConfigurationError, match=r"recipes\.mine\.quantise.*language models"):
        attempt(Recipe(quantise="w4a16-gptq"))
    with pytest.raises(ConfigurationError, match=r"recipes\.mine\.merge"):
        attempt(Recipe(merge=True, quantise="none"))
    with pytest.raises(ConfigurationError, match="says no number"):
        attempt(Recipe(distil_to="layers:few"))
    with pytest.raises(ConfigurationError, match="drops no layer"):
        attempt(Recipe(distil_to="layers:2"))
    with pytest.raises(ConfigurationError, match="holds no model"):
        attempt(Recipe(distil_to=str(tmp_path / "nothing")))
    assert not (tmp_path / "x" / "release.json").exists()


def harmed(folder: Path, copy: Path, harm: Callable[[dict, dict], None], **given: object) -> Path:
    """A copy whose config and weights ``harm`` changed; its hashes are right all the same."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / CONFIG_FILE).read_text())
    state = load_file(copy / WEIGHTS_FILE)
    harm(config, state)
    (copy / CONFIG_FILE).write_text(json.dumps(config))
    save_file(state, copy / WEIGHTS_FILE)
    description = read_description(folder)
    write_description(
        copy, msgspec.structs.replace(description, files=digest_model_files(copy), **given)
    )
    return copy


def group(config: dict) -> dict:
    return config["quantization_config"]["config_groups"]["group_0"]


DENSE = "bert.encoder.layer.1.output.dense.weight"
HARMS: dict[str, tuple[Callable[[dict, dict], object], str]] = {
    "method": (
        lambda c, s: c["quantization_config"].update(quant_method="gptq"),
        "quant_method 'gptq'",
    ),
    "format": (
        lambda c, s: c["quantization_config"].update(format="pack-quantized"),
        "format 'pack-quantized'",
    ),
    "bits": (lambda c, s: group(c)["weights"].update(num_bits=4), "weights of"),
    "asymmetric": (lambda c, s: group(c)["input_activations"].update(symmetric=False), "input_act"),
    "static": (lambda c, s: group(c)["input_activations"].update(dynamic=False), "input_act"),
    "nothing": (lambda c, s: c.pop("quantization_config"), "no quantisation"),
    "nonsense": (lambda c, s: c.update(quantization_config="int8"), "no usable classifier"),
    "no scales": (lambda c, s: s.pop(f"{DENSE}_scale"), "no usable classifier"),
    "mixed": (lambda c, s: s.update({DENSE: s[DENSE].float()}), "some dense layers"),
    "shape": (lambda c, s: s.update({DENSE: s[DENSE][:, :32].clone()}), "no usable classifier"),
    "labels": (
        lambda c, s: s.update(
            {
                "classifier.weight": s["classifier.weight"][:2].clone(),
                "classifier.bias": s["classifier.bias"][:2].clone(),
            }
        ),
        "2 answers for 3 labels",
    ),
    "vocabulary": (
        lambda c, s: s.update(
            {
                f"bert.embeddings.word_embeddings.weight{x}": s[
                    f"bert.embeddings.word_embeddings.weight{x}"
                ][:9].clone()
                for x in ("", "_scale")
            }
        ),
        "more tokens than",
    ),
}


@pytest.mark.parametrize("name", sorted(HARMS))
def test_an_unknown_quantisation_is_refused_when_it_is_loaded(
    name: str, make: Callable[[str], tuple[VariantReport, Path]], tmp_path: Path
) -> None:
    harm, words = HARMS[name]
    folder = harmed(make("int8-dynamic")[1], tmp_path / "copy", harm)  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=words):
        load_classifier(folder, 1)


@pytest.mark.parametrize("method", ["none", "int8-static", "w8a8", "w4a16"])
def test_a_method_that_the_weights_are_not_is_refused(
    method: str, make: Callable[[str], tuple[VariantReport, Path]], tmp_path: Path
) -> None:
    folder = harmed(
        make("int8-dynamic")[1], tmp_path / "copy", lambda config, state: None, method=method
    )
    with pytest.raises(ArtefactError):
        load_classifier(folder, 1)


def test_a_compressed_model_is_not_trained_further(
    root: Path, make: Callable[[str], tuple[VariantReport, Path]], tmp_path: Path
) -> None:
    with pytest.raises(ArtefactError, match="can't be trained"):
        make_variant(
            "again",
            RECIPES["int8-qat"],
            make("int8-dynamic")[1],
            root / "data",
            tmp_path / "again",
            tools=tools(root),
        )
