"""The model card of a release: what it is, what it learned from, how good it is, how to call it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flywheel.contracts.dataset_folder import Manifest
from flywheel.contracts.model_folder import ModelDescription
from flywheel.contracts.percentages import percentage, rounded
from flywheel.contracts.release import Release
from flywheel.kinds import answers_of

_METHODS = {
    "none": "FP32, as trained",
    "int8-dynamic": "INT8 weights (one scale an output) and token embeddings, inputs quantised "
    "per token",
    "int8-static": "INT8 weights and token embeddings, inputs quantised with calibrated scales",
    "int8-qat": "INT8, trained with its rounding",
    "w8a8": "INT8 weights and activations (compressed-tensors, by llm-compressor)",
    "w4a16": "INT4 weights in groups, FP16 activations (compressed-tensors, by llm-compressor)",
}


def model_card(release: Release, model: ModelDescription, manifest: Manifest) -> str:
    """Markdown, the same for the same release."""
    sections = (
        _identity(release, model),
        _quality(release.metrics),
        _gate(release),
        _making(release.metrics),
        *_comparison(release.metrics),
        _data(release, manifest),
        _recipe(release.recipe),
        _calling(release, model),
    )
    return "\n\n".join(sections) + "\n"


def _identity(release: Release, model: ModelDescription) -> str:
    base = model.base
    rows = (
        ("Task", release.task),
        ("Answers with", answers_of(model.output, model.labels).described),
        ("Made", f"{release.created_at:%Y-%m-%d %H:%M:%S %Z}".strip()),
        ("Base model", model.base_model),
        *([("LoRA adapter on", f"{base.name} ({base.id}, {base.method})")] if base else []),
        ("Parent release", release.parent or "none: the first"),
        ("Compression", "; ".join([*model.steps, _METHODS[model.method]])),
        ("Size", f"{release.size_bytes / 1e6:.1f} MB"),
        ("Reads", f"{model.max_tokens} tokens at most; the rest of a text is cut off"),
    )
    return f"# {release.release}\n\n" + _table(("", ""), rows)


def _quality(metrics: Mapping[str, Any]) -> str:
    level = f"{percentage(metrics.get('confidence', 0.95))}%"
    names = {
        "macro_f1": "Macro F1",
        "chrf": "chrF (0 to 100)",
        "token_f1": "F1 of words",
        "ece": "Expected calibration error",
        "brier": "Brier score",
        "nll": "Negative log-likelihood",
    }
    rows = [
        (answers_of(metrics.get("output", "label")).accuracy_name, _interval(metrics)),
        *((words, f"{metrics[key]:.3f}") for key, words in names.items() if key in metrics),
    ]
    if "latency_p50_ms" in metrics:
        rows.append(
            (
                "Latency of one request, median and 95th percentile",
                f"{metrics['latency_p50_ms']:.1f} ms, {metrics['latency_p95_ms']:.1f} ms "
                "on the machine that evaluated it",
            )
        )
    text = (
        f"## Quality\n\nMeasured on {metrics['samples']} held-out samples that no training saw; "
        f"intervals at {level}.\n\n" + _table(("Measure", "Value"), rows)
    )
    if "chrf_signature" in metrics:
        return text + f"\n\nchrF is `{metrics['chrf_signature']}`."
    classes = [
        (label, str(row["samples"]), _interval(row), f"{row['precision']:.3f}", f"{row['f1']:.3f}")
        for label, row in metrics["classes"].items()
    ]
    return text + "\n\n" + _table(("Label", "Samples", "Accuracy", "Precision", "F1"), classes)


def _gate(release: Release) -> str:
    verdict = "Passed" if release.gate_passed else "Failed"
    text = f"## Gate\n\n{verdict}: {release.gate_reason}."
    if release.override is not None:
        text += f"\n\nPut past the gate by {release.override.by}: {release.override.why}."
    return text


def _making(metrics: Mapping[str, Any]) -> str:
    lines = ["## How it was made"]
    if training := metrics.get("training"):
        lines.append(
            f"Trained on {training['samples']} samples in {training['epochs']} epochs of "
            f"{training['steps'] // training['epochs']} steps ({training['seconds']:.0f} s); the "
            f"loss went from {training['losses'][0]:.3f} to {training['losses'][-1]:.3f}."
            + (f" {training['cut']} were longer than it reads." if training.get("cut") else "")
        )
    if made := metrics.get("compression"):
        text = f"{made['bytes_before'] / 1e6:.1f} MB became {made['bytes_after'] / 1e6:.1f} MB"
        text += f" as variant `{made['variant']}`." if "variant" in made else "."
        if made["calibration_samples"]:
            text += (
                f" On {made['calibration_samples']} calibration samples accuracy went from "
                f"{made['accuracy_before']:.3f} to {made['accuracy_after']:.3f}, with "
                f"{rounded(made['agreement'])}% of answers equal; "
                f"temperature {made['temperature']:.3f} brought the "
                f"negative log-likelihood from {made['nll_uncalibrated']:.3f} to "
                f"{made['nll_calibrated']:.3f}."
            )
        lines.append(text)
    if len(lines) == 1:
        lines.append("Its training and compression left no report.")
    return "\n\n".join(lines)


def _comparison(metrics: Mapping[str, Any]) -> list[str]:
    """Every variant that was made beside the model as it was trained, and which was taken."""
    comparison = metrics.get("comparison")
    if not comparison:
        return []
    rows = [_variant(row, chosen=row["name"] == comparison["chosen"]) for row in comparison["rows"]]
    head = (
        *("Variant", "Size", "Accuracy", "Difference", "p50 / p95", "Answers/s", "Compute/answer"),
        *("Memory", "Verdict"),
    )
    return [
        f"## Variants compared\n\nServed by the {comparison['engine']} engine on the machine that "
        f"made this release, all on the same held-out samples. `{comparison['chosen']}` was taken: "
        f"{comparison['reason']}. A loss of {percentage(comparison['margin'])}% is allowed; "
        f"differences are to `{comparison['reference']}`, the model as it was trained, with "
        f"{_intervals(comparison)}.\n\n" + _table(head, rows)
    ]


def _intervals(comparison: Mapping[str, Any]) -> str:
    """What the intervals of differences are; releases made earlier have others."""
    confidence = f"{percentage(comparison['confidence'])}%"
    if "resamples" in comparison:
        return f"paired bootstrap intervals at {confidence} ({comparison['resamples']:,} resamples)"
    return f"the interval of the exact paired test that decides, each end at {confidence}"


def _variant(row: Mapping[str, Any], *, chosen: bool) -> tuple[str, ...]:
    name = ", ".join([f"**{row['name']}**" if chosen else row["name"], *row["steps"]])
    speed = row["speed"]
    timed = ("–", "–", "–", "–")
    if speed:
        timed = (
            f"{speed['p50_ms']:.1f} / {speed['p95_ms']:.1f} ms",
            f"{speed['per_second']:.0f}",
            f"{speed['cost_ms']:.1f} ms",
            f"{speed['memory_bytes'] / 1e6:.0f} MB",
        )
    if not row["samples"]:
        return (name, "–", "–", "–", *timed, f"failed: {row['reason']}")
    difference = "–"
    if row["standing"] != "reference":
        low, high = row["difference_low"], row["difference_high"]
        difference = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return (
        name,
        f"{row['bytes'] / 1e6:.1f} MB",
        _interval(row),
        difference,
        *timed,
        row["reason"],
    )


def _data(release: Release, manifest: Manifest) -> str:
    rows = [
        (part, str(sum(counts.values())), ", ".join(f"{s} {n}" for s, n in counts.items()) or "–")
        for part, counts in manifest.counts.items()
    ]
    text = (
        f"## Data\n\nDataset `{manifest.version}`"
        + (f", after `{manifest.parent}`" if manifest.parent else "")
        + f", in git as `{release.git_commit}`, with labels up to event `{manifest.watermark}`.\n\n"
        + _table(("Part", "Samples", "Labelled by"), rows)
        + f"\n\nSplit: {manifest.split_rule}."
    )
    if manifest.left_out:
        left_out = ", ".join(f"{n} {reason}" for reason, n in manifest.left_out.items())
        text += f"\n\nLeft out: {left_out}."
    if release.auto_label_error is not None:
        text += (
            f"\n\nAudited bound on the error of automatic labels: {release.auto_label_error:.3f}."
        )
    if manifest.labels_shuffled_with is not None:
        text += "\n\n**The training labels were shuffled on purpose: this release is for drills.**"
    return text


def _recipe(recipe: Mapping[str, Any]) -> str:
    body = json.dumps(recipe, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    return f"## Recipe\n\n```json\n{body}\n```"


def _calling(release: Release, model: ModelDescription) -> str:
    body = json.dumps(
        {"model": release.task, "messages": [{"role": "user", "content": "…the text…"}]},
        ensure_ascii=False,
    )
    answers = answers_of(model.output).content_words(model.temperature)
    return (
        "## How to call it\n\nThrough the gateway, which answers with whichever release serves "
        "the task:\n\n```sh\ncurl $GATEWAY/v1/chat/completions \\\n"
        "  -H 'content-type: application/json' \\\n"
        f"  -d '{body}'\n```\n\nThe answer's content {answers}."
    )


def _interval(row: Mapping[str, Any]) -> str:
    if not row["samples"]:
        return "–"
    return f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f}–{row['accuracy_high']:.3f})"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
