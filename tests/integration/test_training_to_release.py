"""Labels to a served release: dataset, training, compression, evaluation, release folder, runtime.

The encoder is tiny and random; everything else is what production runs.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import torch
from holdout_metrics import holdout_metrics
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.compression.config import CompressionSettings
from flywheel.contracts.dataset_folder import Manifest, read_manifest
from flywheel.contracts.model_folder import (
    COMPRESSION_REPORT,
    WEIGHTS_FILE,
    read_description,
    write_description,
    write_json,
)
from flywheel.contracts.release import Override, Release
from flywheel.contracts.witness import WITNESS_FILE, read_witness
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError, ConfigurationError, PipelineError
from flywheel.evaluation.answered import read_predictions
from flywheel.kinds import Choice
from flywheel.registry.release_folder import assemble, verify
from flywheel.serving.encoder import integer_products_exact, integer_products_pay
from flywheel.serving.runtime import load_classifier
from flywheel.training.config import TrainingSettings
from flywheel.training.train import TrainingReport, train
from flywheel.turn.compress import CompressionReport, compare_variants, install
from flywheel.turn.variants import VariantSetup

LABELS = tuple(TOPICS)


def recipe(root: Path, **given: object) -> TrainingSettings:
    fields: dict[str, object] = {
        "base_model": str(root / "base"),
        "learning_rate": 3e-3,
        "head_learning_rate_factor": 3.0,
        "epochs": 6,
        "min_steps": 60,
        "threads": 1,
        "max_tokens": 32,
        "train_embeddings": True,
    }
    return TrainingSettings.model_validate(fields | given)


def compress(root: Path, variant: str, folder: Path) -> CompressionReport:
    """The compress stage, told what to take; what it costs is another test's."""
    bench = VariantSetup(
        trained=root / "trained",
        dataset=root / "data",
        settings=CompressionSettings(variants=(variant,), pin=variant, measure_seconds=0),
        training=recipe(root),
        engine="embedded",
        scratch=folder.with_name(f"{folder.name}-variants"),
        bases=root / "bases",
    )
    output = folder.with_name(f"{folder.name}-comparison")
    output.mkdir()
    install(bench, compare_variants(bench, output).chosen, folder)
    return msgspec.json.decode((folder / COMPRESSION_REPORT).read_bytes(), type=CompressionReport)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loop")
    make_encoder(root / "base")
    build_dataset(
        labelled(300, holdout=90),
        DatasetSettings(calibration_share=0.3),
        Choice(LABELS),
        task="topics",
        watermark="e000299",
        parent=None,
        folder=root / "data",
    )
    report = train(root / "data", recipe(root), LABELS, root / "trained")
    small = compress(root, "int8-dynamic", root / "compressed")
    (root / "reports.json").write_bytes(msgspec.json.encode((report, small)))
    return root


def reports(loop: Path) -> tuple[TrainingReport, CompressionReport]:
    raw = (loop / "reports.json").read_bytes()
    return msgspec.json.decode(raw, type=tuple[TrainingReport, CompressionReport])


def release(loop: Path, root: Path, **given: object) -> Release:
    metrics = holdout_metrics(
        load_classifier(loop / "compressed", 1).predict,
        loop / "data",
        Choice(LABELS),
        root / "evaluation",
    )
    fields: dict[str, object] = {
        "metrics": metrics,
        "manifest": read_manifest(loop / "data"),
        "to_root": root / "releases",
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "git_commit": "abc123",
        "parent": None,
        "gate_passed": True,
        "gate_reason": "first release",
        "extras": {"predictions.jsonl": root / "evaluation/predictions.jsonl"},
    }
    return assemble(loop / "compressed", **(fields | given))  # type: ignore[arg-type]


def test_training_learns_and_says_how(loop: Path) -> None:
    report, _ = reports(loop)
    assert report.losses[-1] < report.losses[0] / 2
    assert report.accuracies[-1] > 0.95
    assert report.steps >= 60
    rows = [json.loads(x) for x in (loop / "trained/training.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, report.epochs + 1))


def test_int8_answers_like_fp32_and_is_much_smaller(loop: Path) -> None:
    _, small = reports(loop)
    assert small.bytes_after < small.bytes_before
    assert small.agreement is not None
    assert small.agreement >= 0.97
    texts = [sample.text for sample in labelled(60, seed=5)]
    full = load_classifier(loop / "trained", 1).predict(texts)
    tight = load_classifier(loop / "compressed", 1)
    assert tight.labels == LABELS
    same = 0
    for one, two in zip(full, tight.predict(texts), strict=True):
        assert sum(two.values()) == pytest.approx(1.0)
        same += max(one, key=one.__getitem__) == max(two, key=two.__getitem__)
    assert same >= 57


def test_the_runtime_computes_what_transformers_computes(loop: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertModel

    weights = load_file(loop / "trained" / WEIGHTS_FILE)
    encoder = BertModel.from_pretrained(loop / "base", add_pooling_layer=False).eval()
    encoder.load_state_dict(
        {k.removeprefix("bert."): v for k, v in weights.items() if k.startswith("bert.")},
        strict=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(loop / "trained")
    texts = ["rain", "the price of this bread and the loan near some cloud", ""]
    classifier = load_classifier(loop / "trained", 1)
    for text, given in zip(texts, classifier.predict(texts), strict=True):
        ids = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            state = encoder(**ids).last_hidden_state.mean(dim=1)
            logits = state @ weights["classifier.weight"].T + weights["classifier.bias"]
        expected = torch.softmax(logits[0], dim=-1)
        for label, probability in zip(LABELS, expected, strict=True):
            assert given[label] == pytest.approx(float(probability), abs=1e-4)


def test_what_is_served_is_what_training_answered(loop: Path, tmp_path: Path) -> None:
    witness = read_witness(loop / "trained")
    assert witness is not None
    served = load_classifier(loop / "trained", 1).predict(witness.texts)
    assert witness.apart(served) < 1e-4
    for name in ("base", "data", "trained"):
        shutil.copytree(loop / name, tmp_path / name)
    turned = [
        dict(zip(row, [*list(row.values())[1:], *list(row.values())[:1]], strict=True))
        for row in witness.probabilities
    ]
    other = msgspec.structs.replace(witness, probabilities=tuple(turned))
    write_json(tmp_path / "trained" / WITNESS_FILE, other)
    with pytest.raises(ArtefactError, match="the trained model would be served otherwise"):
        compress(tmp_path, "int8-dynamic", tmp_path / "small")


def test_answers_do_not_depend_on_neighbours_threads_or_length(loop: Path) -> None:
    classifier = load_classifier(loop / "compressed", 1)
    texts = [sample.text for sample in labelled(80, seed=9)] + [
        "",
        "ß日本 🎉",
        *["word " * 500] * 90,
    ]
    together = classifier.predict(texts)
    assert classifier.predict([]) == []
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda text: classifier.predict([text])[0], texts))
    for one, two in zip(together, alone, strict=True):
        assert one == pytest.approx(two, abs=2e-3)


def test_both_kernels_give_the_same_answers(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sample.text for sample in labelled(20, seed=3)]
    answers = []
    # Which of the two a CPU uses depends on its instructions.
    for integer in (integer_products_exact(), False):
        monkeypatch.setattr(
            "flywheel.serving.encoder.integer_products_pay", lambda integer=integer: integer
        )
        answers.append(load_classifier(loop / "compressed", 1).predict(texts))
    for one, two in zip(*answers, strict=True):
        assert one == pytest.approx(two, abs=1e-3)


def test_integer_products_are_used_only_where_they_are_exact_and_no_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return rows.to(torch.int32) @ weight.to(torch.int32)

    def saturating(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (rows.to(torch.int32) @ weight.to(torch.int32)).clamp_(-32768, 32767)

    for product in (slow, saturating):
        monkeypatch.setattr(torch, "_int_mm", product)
        assert not integer_products_pay.__wrapped__()


def test_the_same_dataset_gives_the_same_weights(loop: Path, tmp_path: Path) -> None:
    quick = recipe(loop, epochs=1, min_steps=5)
    train(loop / "data", quick, LABELS, tmp_path / "one")
    train(loop / "data", quick, LABELS, tmp_path / "two")
    one, two = ((tmp_path / n / WEIGHTS_FILE).read_bytes() for n in ("one", "two"))
    assert one == two
    other = recipe(loop, epochs=1, min_steps=5, seed=1)
    train(loop / "data", other, LABELS, tmp_path / "three")
    assert (tmp_path / "three" / WEIGHTS_FILE).read_bytes() != one


def test_training_goes_on_from_an_earlier_model(loop: Path, tmp_path: Path) -> None:
    quick = recipe(loop, epochs=1, min_steps=1, learning_rate=1e-5)
    report = train(loop / "data", quick, LABELS, tmp_path / "next", parent=loop / "trained")
    assert report.accuracies[0] > 0.95
    with pytest.raises(ArtefactError, match="other labels"):
        train(loop / "data", quick, (*LABELS, "more"), tmp_path / "x", parent=loop / "trained")
    with pytest.raises(ArtefactError, match="does not fit"):
        train(loop / "data", quick, LABELS, tmp_path / "x", parent=loop / "compressed")


def test_an_encoder_that_pools_its_first_token_is_served_as_trained(tmp_path: Path) -> None:
    make_encoder(tmp_path / "base", pooling="cls")
    build_dataset(
        labelled(90, holdout=30),
        DatasetSettings(),
        Choice(LABELS),
        task="topics",
        watermark="e",
        parent=None,
        folder=tmp_path / "data",
    )
    report = train(tmp_path / "data", recipe(tmp_path), LABELS, tmp_path / "trained")
    assert report.pooling == "first_token"
    compress(tmp_path, "int8-dynamic", tmp_path / "s")
    metrics = holdout_metrics(
        load_classifier(tmp_path / "s", 1).predict, tmp_path / "data", Choice(LABELS)
    )
    assert metrics["accuracy"] > 0.6


def test_a_loss_that_is_no_number_ends_training(loop: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"diverged.*learning_rate"):
        train(loop / "data", recipe(loop, learning_rate=1e30), LABELS, tmp_path / "x")
    assert not (tmp_path / "x" / "release.json").exists()


def test_a_base_model_that_is_none_is_named(loop: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"training\.base_model: .*holds no model"):
        train(loop / "data", recipe(tmp_path), LABELS, tmp_path / "x")
    with pytest.raises(ConfigurationError, match="max_tokens"):
        train(loop / "data", recipe(loop, max_tokens=512), LABELS, tmp_path / "x")
    with pytest.raises(ConfigurationError, match="which are no labels"):
        train(loop / "data", recipe(loop), LABELS[:2], tmp_path / "x")


def test_no_compression_still_calibrates(loop: Path, tmp_path: Path) -> None:
    report = compress(loop, "none", tmp_path / "same")
    assert report.bytes_after == report.bytes_before
    assert report.nll_calibrated is not None
    assert report.nll_uncalibrated is not None
    assert read_description(tmp_path / "same").temperature == report.temperature != 1.0


def test_a_release_folder_serves_describes_itself_and_is_made_once(
    loop: Path, tmp_path: Path
) -> None:
    override = Override(by="ann", why="a drill")
    made = release(loop, tmp_path, gate_passed=False, gate_reason="no better", override=override)
    folder = tmp_path / "releases" / made.release
    assert folder.name == made.release
    assert made.accuracy_low <= made.accuracy <= made.accuracy_high
    assert verify(folder).size_bytes == made.size_bytes
    card = (folder / "MODEL_CARD.md").read_text()
    for expected in (
        made.release,
        "Put past the gate by ann: a drill",
        "abc123",
        "Trained on",
        "MB became",
        *LABELS,
    ):
        assert expected in card
    assert len(read_predictions(folder / "predictions.jsonl")) == 90
    assert load_classifier(folder, 1).predict(["rain and snow"])
    again = release(loop, tmp_path)
    assert again.release == made.release
    assert release(loop, tmp_path, parts={"prompt": "another"}).release != made.release
    assert not list((tmp_path / "releases").glob(".making*"))


@pytest.mark.parametrize("harm", ["truncated", "changed", "missing", "undescribed", "unlisted"])
def test_a_damaged_release_is_never_served(loop: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "release"
    shutil.copytree(loop / "compressed", folder)
    weights = folder / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    if harm == "truncated":
        weights.write_bytes(data[:-100])
    elif harm == "changed":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif harm == "missing":
        weights.unlink()
    elif harm == "undescribed":
        (folder / "release.json").write_text("{")
    else:
        description = read_description(folder)
        listed = {n: f for n, f in description.files.items() if n != WEIGHTS_FILE}
        write_description(folder, msgspec.structs.replace(description, files=listed))
    with pytest.raises(ArtefactError, match=r"release"):
        load_classifier(folder, 1)


def test_a_release_cannot_be_renamed(loop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / release(loop, tmp_path).release
    renamed = folder.rename(folder.with_name("topics-000000000000"))
    with pytest.raises(ArtefactError, match="renamed"):
        verify(renamed)


def test_variants_are_compared_on_a_holdout_and_without_one_it_is_said(
    loop: Path, tmp_path: Path
) -> None:
    (tmp_path / "holdout.jsonl").write_bytes(b"")
    setup = VariantSetup(
        trained=loop / "trained",
        dataset=tmp_path,
        settings=CompressionSettings(),
        training=TrainingSettings(base_model="base"),
        engine="embedded",
        scratch=tmp_path,
        bases=tmp_path,
    )
    with pytest.raises(PipelineError, match="holdout_share"):
        _ = setup.holdout


def test_the_manifest_survives_the_release(loop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / release(loop, tmp_path).release
    kept = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    assert kept == read_manifest(loop / "data")
