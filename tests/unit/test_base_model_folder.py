"""A base model's folder, looked at file by file: what could not be trained from is said before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_encoder import make_encoder

from flywheel.training.base_model import base_model_problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "base")


def test_a_whole_encoder_is_usable(folder: Path) -> None:
    assert base_model_problem(folder, "encoder") is None


def test_a_missing_folder_and_a_file_are_named(tmp_path: Path) -> None:
    for name in ("none", "file"):
        (tmp_path / "file").write_text("")
        said = f"{tmp_path / name} holds no base model (no config.json)"
        assert base_model_problem(tmp_path / name, "encoder") == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "(no config.json)"),
        ("model.safetensors", "model.safetensors"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, said: str) -> None:
    (folder / name).unlink()
    problem = base_model_problem(folder, "encoder")
    assert said in str(problem)


def test_another_family_is_named(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "model_type": "llama"}))
    assert "'llama', which is no base for an encoder" in str(base_model_problem(folder, "encoder"))
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in str(base_model_problem(folder, "encoder"))


def test_a_network_that_is_computed_otherwise_is_named(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    for change in ({"is_decoder": True}, {"hidden_act": "silu"}):
        (folder / "config.json").write_text(json.dumps(about | change))
        said = str(base_model_problem(folder, "encoder"))
        assert f"is not read here: {next(iter(change))}" in said


def test_an_encoder_is_no_base_for_a_language_model(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "base")
    assert "holds a BertModel, which is no base for an llm" in str(
        base_model_problem(encoder, "llm")
    )


@pytest.mark.parametrize(
    "weights",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 90868376\n",
        b"",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x02\0\0\0\0\0\0\0{}and more",
    ],
)
def test_weights_that_were_not_fetched_whole_are_named(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").write_bytes(weights)
    assert "fetch it again" in str(base_model_problem(folder, "encoder"))


def test_cut_weights_are_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert f"has {len(whole) - 1} bytes instead of {len(whole)}" in str(
        base_model_problem(folder, "encoder")
    )
