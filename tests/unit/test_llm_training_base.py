"""A base is put once, by its id; pickles and halves of models are refused."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_llm import make_llm

from flywheel.contracts.base_folder import put_base
from flywheel.contracts.model_folder import WEIGHTS_FILE, read_base
from flywheel.errors import ArtefactError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("base") / "tiny")


def test_a_base_is_put_once_under_its_id(tiny: Path, tmp_path: Path) -> None:
    first = put_base(tiny, tmp_path / "bases", name="tiny")
    folder = tmp_path / "bases" / first.id
    assert read_base(folder).reference == first
    assert {"config.json", WEIGHTS_FILE, "tokenizer.json"} <= read_base(folder).files.keys()
    assert (folder / WEIGHTS_FILE).stat().st_ino == (tiny / WEIGHTS_FILE).stat().st_ino
    made = folder.stat().st_mtime_ns
    assert put_base(tiny, tmp_path / "bases", name="tiny") == first
    assert folder.stat().st_mtime_ns == made
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [first.id]


def test_a_damaged_base_is_put_anew(tiny: Path, tmp_path: Path) -> None:
    reference = put_base(tiny, tmp_path, name="tiny")
    weights = tmp_path / reference.id / WEIGHTS_FILE
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1])
    with pytest.raises(ArtefactError, match="bytes"):
        read_base(tmp_path / reference.id)
    assert put_base(tiny, tmp_path, name="tiny") == reference
    assert weights.read_bytes() == data


def test_weights_in_several_files_belong_to_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny = make_llm(tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(tiny)
    (tiny / WEIGHTS_FILE).unlink()
    model.save_pretrained(tiny, max_shard_size="100KB")
    reference = put_base(tiny, tmp_path / "bases", name="tiny")
    files = read_base(tmp_path / "bases" / reference.id).files
    shards = set(
        json.loads((tiny / f"{WEIGHTS_FILE}.index.json").read_text())["weight_map"].values()
    )
    assert len(shards) > 1
    assert {*shards, f"{WEIGHTS_FILE}.index.json"} <= files.keys()
    (tiny / f"{WEIGHTS_FILE}.index.json").unlink()
    with pytest.raises(ArtefactError, match=r"no model\.safetensors\.index\.json"):
        put_base(tiny, tmp_path / "bases", name="tiny")


@pytest.mark.parametrize("missing", [WEIGHTS_FILE, "config.json", "tokenizer.json"])
def test_what_holds_no_whole_model_is_refused(tiny: Path, tmp_path: Path, missing: str) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / missing).unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    match = r"pytorch_model\.bin, which can run code" if missing == WEIGHTS_FILE else missing
    with pytest.raises(ArtefactError, match=match):
        put_base(broken, tmp_path / "bases", name="tiny")
    assert not (tmp_path / "bases").exists()
