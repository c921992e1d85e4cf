"""Real models for benchmarks, made once and kept under build/bench/models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flywheel.contracts.model_folder import Prompt
from flywheel.contracts.stores import LabelledSample
from flywheel.demo.data import LABELS, TASK, DemoData, load_demo_data

MODELS = Path("build/bench/models")
TRAINED, CALIBRATED, HELD_OUT = 240, 60, 500


def questions() -> list[str]:
    """Texts that no benchmark's model was trained on."""
    return [question.text for question in load_demo_data(holdout_size=HELD_OUT).holdout]


def minilm() -> Path:
    """MiniLM in FP32, fine-tuned on 240 of the demo's questions; its data lies at ``dataset``."""
    return _once("minilm-fp32", _train)


def minilm_int8() -> Path:
    """The same, compressed as a turn does it."""
    return _once("minilm-int8", _compress)


def bases() -> Path:
    """Where the bases of adapters lie, by their ids."""
    folder = MODELS / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def adapter(number: int) -> Path:
    """A LoRA adapter on SmolLM2 in FP32; those of two numbers differ. It is trained for the speed
    of its shapes, not to answer well: one pass over 20 questions."""
    return _once(f"adapter-{number}", lambda folder: _train_adapter(folder, number))


def llm_variant(name: str, number: int) -> Path:
    """Adapter ``number`` by a standard recipe: w8a8 (beside a quantised base), merged-w8a8 …"""
    return _once(f"adapter-{number}-{name}", lambda folder: _llm_variant(folder, name, number))


def dataset() -> Path:
    """The dataset version that the models were trained and calibrated on."""
    return _once("dataset", lambda folder: _build(folder, TRAINED + CALIBRATED))


def _few() -> Path:
    return _once("dataset-few", lambda folder: _build(folder, 24))


def _once(name: str, make: Callable[[Path], None]) -> Path:
    folder = MODELS / name
    if not folder.is_dir():
        making = folder.with_name(f".{name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        make(making)
        making.rename(folder)
    return folder.resolve()


def _build(folder: Path, count: int) -> None:
    from flywheel.datasets.build import build_dataset
    from flywheel.datasets.config import DatasetSettings
    from flywheel.kinds import Choice

    build_dataset(
        _samples(load_demo_data(holdout_size=HELD_OUT), count),
        DatasetSettings(calibration_share=CALIBRATED / (TRAINED + CALIBRATED)),
        Choice(tuple(LABELS)),
        task=TASK,
        watermark=f"e{count + HELD_OUT:06}",
        parent=None,
        folder=folder,
    )


def _samples(data: DemoData, count: int) -> list[LabelledSample]:
    labelled = [*((q, "holdout") for q in data.holdout), *((q, "train") for q in data.stream)]
    return [
        LabelledSample(
            sample_id=f"s{index:06}",
            content=question.text,
            label=question.label,
            source="expert",
            annotators=("ann",),
            split="holdout" if split == "holdout" else "train",
            inclusion_probability=1.0,
            audit=False,
            settled_at=datetime(2026, 1, 1, tzinfo=UTC),
            event_id=f"e{index:06}",
        )
        for index, (question, split) in enumerate(labelled[: len(data.holdout) + count])
    ]


def _train(folder: Path) -> None:
    from flywheel.training.config import TrainingSettings
    from flywheel.training.train import train

    settings = TrainingSettings(base_model=str(load_demo_data().encoder), threads=2)
    train(dataset(), settings, tuple(LABELS), folder)


def _compress(folder: Path) -> None:
    from flywheel.compression.config import CompressionSettings
    from flywheel.training.config import TrainingSettings
    from flywheel.turn.compress import compare_variants, install
    from flywheel.turn.variants import VariantSetup

    name = "int8-dynamic"
    bench = VariantSetup(
        trained=minilm(),
        dataset=dataset(),
        settings=CompressionSettings(variants=(name,), pin=name, measure_seconds=0),
        training=TrainingSettings(base_model=str(load_demo_data().encoder)),
        engine="embedded",
        scratch=folder.with_name(".variants"),
        bases=folder.with_name(".bases"),
    )
    comparison = folder.with_name(".comparison")
    comparison.mkdir(exist_ok=True)
    install(bench, compare_variants(bench, comparison).chosen, folder)
    shutil.rmtree(comparison)


PROMPT = Prompt(
    system="You classify questions.",
    template="Question: {text}\nWhich is asked for?",
    max_answer_tokens=1,
    answers=dict(zip(LABELS, "ABCDEF", strict=True)),
)


def _train_adapter(folder: Path, number: int) -> None:
    from flywheel.demo.llm_base import prepare_base
    from flywheel.training.config import LoraSettings, TrainingSettings
    from flywheel.training.llm.train import train_llm

    base = prepare_base(MODELS / "smollm2-135m-instruct")
    train_llm(
        _few(),
        TrainingSettings(base_model=str(base), threads=2, seed=number),
        LoraSettings(epochs=1, min_steps=1, batch_tokens=512),
        PROMPT,
        tuple(LABELS),
        "label",
        folder,
        bases=bases(),
    )


def _llm_variant(folder: Path, name: str, number: int) -> None:
    from flywheel.compression.config import STANDARD
    from flywheel.compression.llm import make_llm_variant

    make_llm_variant(name, STANDARD[name], adapter(number), _few(), folder, bases=bases())
