"""From a dataset version to a LoRA adapter: it learns, is the same each time, survives a kill."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llm_training_process import LORA, run
from tiny_encoder import labelled
from tiny_llm import LABELS, PROMPT, TEXT_PROMPT, make_dataset, make_llm, read_log

from flywheel.contracts.model_folder import read_base, read_description
from flywheel.errors import ArtefactError, ConfigurationError, PipelineError
from flywheel.training.config import LoraSettings, TrainingSettings

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "topics")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path, dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    assert run(dataset, tiny, folder, folder.parent / "bases") == 0
    return folder


def settings(base: Path) -> TrainingSettings:
    return TrainingSettings(base_model=str(base), threads=1)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_it_learns_and_says_what_it_made(trained: Path, dataset: Path) -> None:
    described = read_description(trained)
    assert (described.kind, described.output, described.method) == ("llm", "label", "none")
    assert described.prompt == PROMPT
    assert described.labels == LABELS
    assert described.base is not None
    base = read_base(trained.parent / "bases" / described.base.id)
    assert base.reference == described.base
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= (
        described.files.keys()
    )
    report = json.loads((trained / "training.json").read_text())
    assert report["losses"][-1] < report["losses"][0]
    assert report["accuracies"][-1] > report["accuracies"][0]
    rows = read_log(trained / "training.jsonl")
    assert [row["step"] for row in rows] == list(range(1, report["steps"] + 1))
    assert all(0 < row["gradient_norm"] < math.inf for row in rows)
    assert all(row["scale"] == 1.0 and not row["skipped"] for row in rows)
    assert not trained.with_name("model.checkpoint").exists()


def test_the_adapter_is_what_other_engines_load(trained: Path, tiny: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    names = load_file(trained / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in names
    config = json.loads((trained / "adapter_config.json").read_text())
    assert (config["r"], config["peft_type"]) == (4, "LORA")
    assert str(tiny.parent) not in json.dumps(config)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), str(trained))
    assert sum("lora_B" in name for name, _ in model.named_parameters()) == 2 * 7


def test_a_killed_run_goes_on_bit_for_bit(
    trained: Path, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    arguments = [str(path) for path in (dataset, tiny, folder, tmp_path / "bases")]
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "llm_training_process.py"), *arguments],
        env={"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin"},
        cwd=TESTS.parent,
        stdout=subprocess.DEVNULL,
    )
    log = folder.with_name("model.checkpoint") / "training.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 7):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not folder.exists()
    resumed_at = run(dataset, tiny, folder, tmp_path / "bases")
    assert resumed_at >= 6
    assert weights(folder) == weights(trained)

    def losses(where: Path) -> list[tuple[int, float]]:
        return [(row["step"], row["loss"]) for row in read_log(where / "training.jsonl")]

    assert losses(folder) == losses(trained)
    assert (
        json.loads((folder / "training.json").read_text())["losses"]
        == (json.loads((trained / "training.json").read_text())["losses"])
    )


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_used(
    trained: Path, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    checkpoint = folder.with_name("model.checkpoint") / "checkpoint.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert run(dataset, tiny, folder, tmp_path / "bases") == 0
    assert weights(folder) == weights(trained)


def test_training_goes_on_from_a_parent_of_the_same_shape(
    trained: Path, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    from flywheel.training.llm.train import train_llm

    short = LORA.model_copy(update={"epochs": 1, "min_steps": 1})

    def go_on(lora: LoraSettings) -> float:
        report = train_llm(
            dataset,
            settings(tiny),
            lora,
            PROMPT,
            LABELS,
            "label",
            tmp_path / "model",
            bases=tmp_path / "bases",
            parent=trained,
        )
        assert report.continued_from == "model"
        return report.losses[0]

    began = json.loads((trained / "training.json").read_text())["losses"][0]
    assert go_on(short) < began / 2
    with pytest.raises(ArtefactError, match="another rank"):
        go_on(short.model_copy(update={"rank": 2}))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_learns_with_fp32_master_weights(
    precision: str, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    lora = LORA.model_copy(update={"precision": precision, "dropout": 0.0, "min_steps": 55})
    run(dataset, tiny, folder, tmp_path / "bases", lora)
    kinds = {str(t.dtype) for t in load_file(folder / "adapter_model.safetensors").values()}
    assert kinds == {"torch.float32"}
    report = json.loads((folder / "training.json").read_text())
    assert report["losses"][-1] < report["losses"][0] / 3
    rows = read_log(folder / "training.jsonl")
    if precision == "float16":
        assert rows[0]["scale"] == 4096.0
        assert rows[-1]["scale"] == 8192.0  # fifty good steps
    # Nothing is learned from: the second matrix of each pair starts at zero.
    assert rows[0]["gradient_zero"] > 0.4


def test_free_text_is_learned_to_its_end(tiny: Path, tmp_path: Path) -> None:
    import msgspec
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flywheel.training.llm.train import train_llm

    told = [
        msgspec.structs.replace(sample, label=f"{sample.label[0]}!")
        for sample in labelled(60, holdout=6)
    ]
    train_llm(
        make_dataset(tmp_path / "data", told),
        settings(tiny),
        LORA.model_copy(update={"dropout": 0.0, "min_steps": 120, "rank": 16}),
        TEXT_PROMPT,
        (),
        "text",
        tmp_path / "model",
        bases=tmp_path / "bases",
    )
    described = read_description(tmp_path / "model")
    assert (described.output, described.labels) == ("text", ())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny), str(tmp_path / "model")
    )
    chat = tokenizer.apply_chat_template(
        TEXT_PROMPT.messages("rain storm snow"), add_generation_prompt=True, tokenize=False
    )
    ids = torch.tensor([tokenizer.encode(chat, add_special_tokens=False)])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )
    answer = tokenizer.decode(written[0, ids.shape[1] :])
    assert answer in {"w!<|im_end|>", "m!<|im_end|>", "f!<|im_end|>"}


def test_what_cannot_be_trained_is_refused(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    def refused(error: type, match: str, lora: LoraSettings = LORA, base: Path = tiny) -> None:
        with pytest.raises(error, match=match):
            run(dataset, base, tmp_path / "model", tmp_path / "bases", lora)

    refused(PipelineError, "diverged", LORA.model_copy(update={"learning_rate": 1e38}))
    refused(ConfigurationError, "targets", LORA.model_copy(update={"targets": ("nothing",)}))
    refused(ConfigurationError, "512", LORA.model_copy(update={"max_tokens": 1024}))
    refused(ConfigurationError, "holds no model", base=tmp_path)
    quantised = make_llm(tmp_path / "quantised", quantization_config={"quant_method": "x"})
    refused(ConfigurationError, "quantised", base=quantised)
