"""What a folder in the layout of Hugging Face, or an installed package, may bring in."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_files import safetensors
from tokenizer_table import write_tokenizer_of

from flywheel.contracts.model_folder import read_description
from flywheel.errors import ArtefactError
from flywheel.registry.formats import check_file, check_safetensors
from flywheel.registry.hugging_face import HEAD, install, look, make_model
from flywheel.registry.packages import find_model

HEAD_TENSORS = {
    "bert.embeddings.word_embeddings.weight": [10, 4],
    "bert.pooler.dense.weight": [4, 4],
    "classifier.weight": [2, 4],
}
LABELS = ("yes", "no")


def write(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    values: dict[str, Any] = {
        "architectures": [HEAD],
        "model_type": "bert",
        "id2label": {"1": "yes", "0": "no"},
        "max_position_embeddings": 64,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values | config))
    (folder / "model.safetensors").write_bytes(safetensors(tensors or HEAD_TENSORS))
    write_tokenizer_of("bert", folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"model_max_length": 48}))
    return folder


def made(folder: Path, target: Path) -> Any:
    target.mkdir()
    return make_model(folder, "topics", LABELS, target, source="hub")


def test_a_classifier_keeps_the_order_of_its_own_head(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub")
    assert look(folder).holds == "classifier"
    description = made(folder, tmp_path / "model")
    assert description.labels == ("no", "yes")
    assert (description.pooling, description.max_tokens) == ("cls", 48)
    assert read_description(tmp_path / "model") == description


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "answers a, b"),
        ({"id2label": {"0": "no"}}, "the labels of topics"),
        ({"id2label": {"0": "no", "2": "yes"}}, "counts up from 0"),
        ({"id2label": ["no"]}, "id2label"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"problem_type": "multi_label_classification"}, "not for one label"),
    ],
)
def test_a_classifier_that_does_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        made(write(tmp_path / "hub", **change), tmp_path / "model")


@pytest.mark.parametrize("missing", sorted(HEAD_TENSORS))
def test_a_classifier_with_a_part_missing(tmp_path: Path, missing: str) -> None:
    tensors = {name: shape for name, shape in HEAD_TENSORS.items() if name != missing}
    with pytest.raises(ArtefactError, match=missing):
        made(write(tmp_path / "hub", tensors), tmp_path / "model")


def test_a_head_of_another_width(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", HEAD_TENSORS | {"classifier.weight": [3, 4]})
    with pytest.raises(ArtefactError, match="3 outputs for 2 labels"):
        made(folder, tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "x.pth", "x.pkl", "x.ckpt", "x.joblib", "tf.h5"]
)
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "hub")
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ArtefactError, match=r"may run code when it is read.*safetensors"):
        look(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtefactError):
        look(folder, strict=False)


def test_a_pickle_that_calls_itself_safetensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub")
    (folder / "model.safetensors").write_bytes(b"\x80\x04}" + b"x" * 60)
    with pytest.raises(ArtefactError, match="no safetensors file"):
        look(folder)


def test_a_model_that_needs_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="auto_map"):
        look(write(tmp_path / "one", auto_map={"AutoModel": "modeling.Net"}))
    folder = write(tmp_path / "two")
    (folder / "modeling.py").write_text("import os")
    with pytest.raises(ArtefactError, match="is code"):
        look(folder)
    folder = write(tmp_path / "three")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {}}')
    with pytest.raises(ArtefactError, match="auto_map"):
        look(folder)


def test_a_tokenizer_that_is_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtefactError, match=r"has no tokenizer\.json"):
        look(folder)


def sharded(folder: Path, **index: str) -> Path:
    """The classifier of ``write``, its weights in two files."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    names = list(HEAD_TENSORS)
    write(folder)
    (folder / "model.safetensors").unlink()
    (folder / first).write_bytes(safetensors({name: HEAD_TENSORS[name] for name in names[:2]}))
    (folder / second).write_bytes(safetensors({names[2]: HEAD_TENSORS[names[2]]}))
    where = {name: first if name in names[:2] else second for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where | index}))
    return folder


def test_a_classifier_in_several_files_becomes_one(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "hub")
    assert look(folder).holds == "classifier"
    made(folder, tmp_path / "model")
    found = check_safetensors(tmp_path / "model/model.safetensors")
    assert {name: tensor["shape"] for name, tensor in found.items()} == HEAD_TENSORS


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"bert.more": "model-00002-of-00002.safetensors"}, r"has no bert\.more"),
        ({"classifier.weight": "model-00003-of-00003.safetensors"}, "which is not there"),
        ({"classifier.weight": "../model.safetensors"}, "which is not there"),
    ],
)
def test_files_of_weights_that_do_not_go_together(
    tmp_path: Path, index: dict[str, str], words: str
) -> None:
    with pytest.raises(ArtefactError, match=words):
        made(sharded(tmp_path / "hub", **index), tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_decoder": True}, "causal mask"),
        ({"add_cross_attention": True}, "another model"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "silu"}, "silu"),
    ],
)
def test_a_classifier_that_is_computed_otherwise(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArtefactError, match=f"hub is not read here: .*{words}"):
        made(write(tmp_path / "hub", **change), tmp_path / "model")


def test_a_tokenizer_that_its_file_does_not_say(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub")
    write_tokenizer_of("bert, marks in texts are letters", folder)
    with pytest.raises(ArtefactError, match="makes other tokens of"):
        made(folder, tmp_path / "model")


def test_a_kind_of_model_that_nothing_serves(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", architectures=["T5ForConditionalGeneration"], model_type="t5")
    with pytest.raises(ArtefactError, match="T5ForConditionalGeneration of type 't5'"):
        look(folder)
    with pytest.raises(ArtefactError, match=r"it has no config\.json"):
        look(tmp_path)


def test_a_base_is_installed_with_its_pooling_and_nothing_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", architectures=["BertModel"])
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "README.md").write_text("words")
    found = look(folder)
    assert found.holds == "encoder"
    for _ in range(2):
        install(folder, found, tmp_path / "bases")
    taken = {str(p.relative_to(tmp_path / "bases")) for p in (tmp_path / "bases").rglob("*.*")}
    assert taken == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
    }
    (tmp_path / "bases/config.json").write_text("{}")
    with pytest.raises(ArtefactError, match="holds another model"):
        install(folder, found, tmp_path / "bases")


@pytest.mark.parametrize(
    "module", [{"type": "os.system", "path": ""}, {"type": "sentence_transformers.X", "path": ".."}]
)
def test_a_base_that_names_what_it_should_not(tmp_path: Path, module: dict[str, str]) -> None:
    folder = write(tmp_path / "hub", architectures=["BertModel"])
    (folder / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(ArtefactError, match=r"modules\.json"):
        look(folder)


def test_a_language_model_in_several_files_needs_its_index(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", architectures=["LlamaForCausalLM"], model_type="llama")
    assert look(folder).holds == "llm"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors({"b": [1]}))
    with pytest.raises(ArtefactError, match="index"):
        look(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "model-00002-of-00002.safetensors" in look(folder).files


@given(st.binary(max_size=200))
def test_bytes_that_are_no_safetensors_are_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "model.safetensors"
        path.write_bytes(data)
        with pytest.raises(ArtefactError):
            check_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 7},
        [],
    ],
)
def test_tensors_that_are_not_where_they_should_be(tmp_path: Path, header: Any) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    with pytest.raises(ArtefactError):
        check_file(path)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def package(root: Path, name: str, files: dict[str, bytes]) -> None:
    info = root / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}")
    (info / "RECORD").write_text("\n".join(lines) + "\n")


def test_a_package_that_carries_a_model(packages: Path) -> None:
    files = {
        "carrier/__init__.py": b"raise SystemExit('imported')",
        "carrier/model/config.json": b"{}",
        "carrier/model/model.safetensors": safetensors({"w": [1]}),
    }
    package(packages, "carrier", files)
    found = find_model("carrier")
    assert (found.folder, found.version) == (packages / "carrier/model", "1.0")
    assert "carrier" not in sys.modules
    (packages / "carrier/model/model.safetensors").write_bytes(safetensors({"w": [2]}))
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        find_model("carrier")


def test_packages_without_a_model_or_with_several(packages: Path) -> None:
    package(packages, "plain", {"plain/config.json": b"{}", "plain/model.pkl": b"x"})
    with pytest.raises(ArtefactError, match="carries no model"):
        find_model("plain")
    with pytest.raises(ArtefactError, match="no package 'absent'"):
        find_model("absent")
    package(packages, "many", {"many/a.gguf": b"a", "many/b.gguf": b"b"})
    with pytest.raises(ArtefactError, match="several models"):
        find_model("many")
    assert find_model("many/b.gguf").gguf == packages / "many/b.gguf"
