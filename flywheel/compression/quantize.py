"""Makes a trained model small and fast, proves on the calibration split that it still answers as
well, and calibrates it as it will be served."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np

from flywheel.compression.calibrate import fit_temperature, mean_nll
from flywheel.compression.config import CompressionSettings
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.model_folder import (
    COMPRESSION_REPORT,
    CONFIG_FILE,
    RELEASE_FILE,
    TOKENIZER_FILES,
    TRAINING_REPORT,
    WEIGHTS_FILE,
    Method,
    Predictor,
    digest_model_files,
    read_description,
    write_description,
    write_json,
)
from flywheel.errors import ConfigurationError, PipelineError

Load = Callable[[Path, int], Predictor]
_CONFIDENCE = 0.95
_SMALLEST = 1e-30


class CompressionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What compression changed. Accuracies, losses and NLL are of the calibration split, and None
    when it is empty; ``agreement`` is the share of equal answers there."""

    method: str
    bytes_before: int
    bytes_after: int
    calibration_samples: int
    accuracy_before: float | None
    accuracy_after: float | None
    agreement: float | None
    temperature: float
    nll_uncalibrated: float | None
    nll_calibrated: float | None
    seconds: float


def compress(
    model: Path,
    dataset: Path,
    settings: CompressionSettings,
    folder: Path,
    threads: int,
    *,
    load: Load,
) -> CompressionReport:
    """Write what is served to ``folder``: compressed by ``settings``, then calibrated.

    ``load`` opens a model folder as the engine that will serve it does, so accuracy and temperature
    are those of the served model. Raises ArtefactError for a damaged model or dataset, and
    PipelineError when the calibration split proves a loss of more than ``max_accuracy_loss``.
    """
    started = time.perf_counter()
    method: Method = "none" if settings.variants[0] == "none" else "int8-dynamic"
    before = read_description(model)
    lines = read_part(dataset, "calibration")
    targets = _targets([line.label for line in lines], before.labels)
    texts = [line.text for line in lines]
    _write_model(model, folder, method)
    description = msgspec.structs.replace(
        before, method=method, temperature=1.0, files=digest_model_files(folder)
    )
    write_description(folder, description)
    original = _log_probabilities(load(model, threads), texts, before.labels)
    logits = original
    if method != "none":
        logits = _log_probabilities(load(folder, threads), texts, before.labels)
        _refuse_loss(original, logits, targets, settings.max_accuracy_loss)
    temperature = fit_temperature(logits, targets)
    write_description(folder, msgspec.structs.replace(description, temperature=temperature))
    report = CompressionReport(
        method=method,
        bytes_before=before.size_bytes,
        bytes_after=description.size_bytes,
        calibration_samples=len(lines),
        accuracy_before=_mean(original.argmax(axis=1) == targets) if lines else None,
        accuracy_after=_mean(logits.argmax(axis=1) == targets) if lines else None,
        agreement=_mean(original.argmax(axis=1) == logits.argmax(axis=1)) if lines else None,
        temperature=temperature,
        nll_uncalibrated=mean_nll(logits, targets) if lines else None,
        nll_calibrated=mean_nll(logits, targets, temperature) if lines else None,
        seconds=time.perf_counter() - started,
    )
    write_json(folder / COMPRESSION_REPORT, report)
    return report


def smallest_loss(lost: int, gained: int, samples: int) -> float:
    """Lower 95 % bound of the accuracy lost, when ``lost`` answers of ``samples`` became wrong and
    ``gained`` became right (adjusted Wald for paired proportions, Bonett & Price 2012)."""
    worse, better, total = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2), samples + 2
    loss = worse - better
    error = math.sqrt(max(0.0, worse + better - loss * loss) / total)
    return loss - NormalDist().inv_cdf(_CONFIDENCE) * error


def _refuse_loss(
    before: np.ndarray, after: np.ndarray, targets: Sequence[int], allowed: float
) -> None:
    was = before.argmax(axis=1) == targets
    now = after.argmax(axis=1) == targets
    lost, gained = int((was & ~now).sum()), int((now & ~was).sum())
    proven = smallest_loss(lost, gained, len(targets))
    if len(targets) and proven > allowed:
        raise PipelineError(
            f"compression costs too much: {lost} of {len(targets)} calibration answers became "
            f"wrong and {gained} right, a loss of at least {proven:.3f} where {allowed:.3f} is "
            'allowed; set compression.variants = ["none"] or raise compression.max_accuracy_loss'
        )


def _write_model(model: Path, folder: Path, method: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELEASE_FILE).unlink(missing_ok=True)
    for name in (*TOKENIZER_FILES, TRAINING_REPORT):
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    if method == "none":
        shutil.copyfile(model / WEIGHTS_FILE, folder / WEIGHTS_FILE)
        shutil.copyfile(model / CONFIG_FILE, folder / CONFIG_FILE)
        return
    from safetensors.torch import load_file, save_file

    from flywheel.compression.int8 import quantisation_config, quantise_weights

    weights = quantise_weights(load_file(model / WEIGHTS_FILE))
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((model / CONFIG_FILE).read_text("utf-8"))
    config["quantization_config"] = quantisation_config()
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _log_probabilities(
    predictor: Predictor, texts: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
    rows = [[scores[label] for label in labels] for scores in predictor.predict(texts)]
    return np.log(np.maximum(np.array(rows, dtype=np.float64).reshape(-1, len(labels)), _SMALLEST))


def _targets(given: Sequence[str], labels: Sequence[str]) -> list[int]:
    unknown = sorted(set(given) - set(labels))
    if unknown:
        raise ConfigurationError("labels", f"the model was not trained on {unknown}", "train again")
    return [labels.index(label) for label in given]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))
