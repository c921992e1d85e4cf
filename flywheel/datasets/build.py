"""Settled labels → an immutable dataset: what is left out, what is held out, and its version."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from flywheel.contracts.answers import spelt
from flywheel.contracts.dataset_folder import (
    MANIFEST_FILE,
    PARTS,
    DatasetLine,
    Manifest,
    Part,
    encode_lines,
    image_path,
)
from flywheel.contracts.ids import unit_fraction
from flywheel.contracts.labels import AUTOMATIC, CALIBRATES, rank
from flywheel.contracts.sample import ImagePart, fingerprint, images, not_plain, shows_nothing
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.kinds import Answers

WEIGHT_DIGITS = 3

# The bytes of an image by its part of an input. Raises ArtefactError.
ImageBytes = Callable[[ImagePart], bytes]


def _no_images(part: ImagePart) -> bytes:
    raise ArtefactError(f"there is nowhere to take image {part.sha256} from")


def build_dataset(
    samples: Sequence[LabelledSample],
    settings: DatasetSettings,
    answers: Answers,
    *,
    task: str,
    watermark: str,
    parent: str | None,
    folder: Path,
    shuffle_labels_seed: int | None = None,
    weights: Mapping[str, float] | None = None,
    salt: str = "",
    retired: Sequence[str] = (),
    image_bytes: ImageBytes = _no_images,
) -> Manifest:
    """Write a dataset version to ``folder`` and return its manifest.

    The same samples, weights and settings give the same bytes, in whatever order they come. A
    sample of the holdout is in ``holdout.jsonl`` only, and so is any other sample with the same
    text. ``weights`` (``automatic_weights``) says by sample id how much an automatic label counts
    in training; a sample that is not in it counts fully, and so does any other label.
    ``shuffle_labels_seed`` permutes the labels of training and calibration among their samples: a
    dataset known to be bad, for drills. ``answers`` are those of the task. ``salt`` is the task's
    secret for the draws among texts, which clients write: without it they could choose what is held
    out. Samples whose label is ``retired`` are left out. Images lie in ``images/`` under their
    digests; ``image_bytes`` has them. Raises ConfigurationError for other labels that the task
    lacks, and what ``image_bytes`` raises for one that is not there.
    """
    left_out: Counter[str] = Counter()
    if retired:
        known = len(samples)
        samples = [sample for sample in samples if sample.label not in retired]
        left_out["label retired"] += known - len(samples)
    _refuse_unknown(samples, answers, task)
    seen = [sample for sample in samples if not shows_nothing(sample.content)]
    left_out["nothing to be seen in the text"] += len(samples) - len(seen)
    holdout, rest = _hold_out(seen, settings, left_out, salt)
    trusted = [sample for sample in rest if sample.source not in AUTOMATIC]
    automatic = _limit_automatic(
        [sample for sample in rest if sample.source in AUTOMATIC],
        int(len(trusted) * settings.auto_labels_per_expert),
        left_out,
        answers,
        salt,
    )
    calibration = _choose_calibration(trusted, settings.calibration_share, answers, salt)
    kept = {sample.sample_id for sample in calibration}
    train = [s for s in trusted if s.sample_id not in kept] + automatic
    parts: dict[Part, list[DatasetLine]] = {
        "train": _lines(train, weights or {}),
        "calibration": _lines(calibration),
        "holdout": _lines(holdout),
    }
    if shuffle_labels_seed is not None:
        for part in ("train", "calibration"):
            parts[part] = _shuffled(parts[part], shuffle_labels_seed)
    return _write(
        parts,
        folder,
        task=task,
        answers=answers,
        watermark=watermark,
        parent=parent,
        split_rule=_split_rule(samples, settings, answers),
        left_out=dict(sorted(left_out.items())),
        shuffled=shuffle_labels_seed,
        weight_rule=_weight_rule(automatic, weights or {}),
        image_bytes=image_bytes,
    )


def automatic_weights(
    samples: Iterable[LabelledSample],
    senders: Mapping[str, Sequence[str]],
    correction_rates: Mapping[tuple[str, datetime], float],
) -> dict[str, float]:
    """Sample id → what its automatic label counts: 1 − the share of experts' labels that had
    corrected its source when it was settled.

    ``senders`` holds the sources of a sample; of several the most corrected decides.
    ``correction_rates`` is by source and moment. Samples of which nothing was known are left out.
    """
    weights: dict[str, float] = {}
    for sample in samples:
        if sample.source not in AUTOMATIC:
            continue
        moments = [(sender, sample.settled_at) for sender in senders.get(sample.sample_id, ())]
        rates = [correction_rates[moment] for moment in moments if moment in correction_rates]
        if rates:
            weights[sample.sample_id] = round(1.0 - max(rates), WEIGHT_DIGITS)
    return weights


def _refuse_unknown(samples: Iterable[LabelledSample], answers: Answers, task: str) -> None:
    unknown = Counter(sample.label for sample in samples if not answers.knows(sample.label))
    if unknown:
        listed = ", ".join(f"{label!r} ({n} samples)" for label, n in sorted(unknown.items()))
        raise ConfigurationError(
            f"tasks.{task}.labels",
            f"settled labels are not among them: {listed}",
            "add the labels back, label these samples again, or name the labels in "
            f"tasks.{task}.retired_labels, which leaves the samples out",
        )


def _hold_out(
    samples: Sequence[LabelledSample],
    settings: DatasetSettings,
    left_out: Counter[str],
    salt: str,
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """(holdout, rest), each text once, no text in both."""
    marked = [sample for sample in samples if sample.split == "holdout"]
    rest = [sample for sample in samples if sample.split != "holdout"]
    if not marked:
        marked, rest = _draw_holdout(samples, settings.holdout_share, left_out, salt)
    measured = [sample for sample in marked if sample.source not in AUTOMATIC]
    holdout = _one_a_text(measured)
    held_out = {sample.sample_id for sample in marked}
    rest = [sample for sample in rest if sample.sample_id not in held_out]
    left_out["holdout labelled automatically"] += len(marked) - len(measured)
    left_out["same text as another"] += len(measured) - len(holdout)
    inputs = {fingerprint(sample.content) for sample in marked}
    unseen = [sample for sample in rest if fingerprint(sample.content) not in inputs]
    left_out["same text as a holdout sample"] += len(rest) - len(unseen)
    single = _one_a_text(unseen)
    left_out["same text as another"] += len(unseen) - len(single)
    return holdout, single


def _draw_holdout(
    samples: Sequence[LabelledSample], share: float, left_out: Counter[str], salt: str
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """(held out, all that may be used), by a draw among texts.

    Earlier versions drew a text with invisible characters apart from the one that looks the same.
    Where their draw went the other way the sample is left out: trained on, it would have been held
    out of a model before, and held out, trained on.
    """
    held: list[LabelledSample] = []
    usable: list[LabelledSample] = []
    for sample in samples:
        if sample.source not in CALIBRATES:
            usable.append(sample)
            continue
        content = fingerprint(sample.content)
        before = spelt(sample.content) if isinstance(sample.content, str) else content
        drawn = unit_fraction("holdout", content, salt=salt) < share
        if content != before and drawn != (unit_fraction("holdout", before, salt=salt) < share):
            left_out["drawn otherwise by an earlier version"] += 1
            continue
        usable.append(sample)
        if drawn:
            held.append(sample)
    return held, usable


def _one_a_text(samples: Iterable[LabelledSample]) -> list[LabelledSample]:
    """One sample of each text: the one whose label is most trusted, then the newest."""
    best: dict[str, LabelledSample] = {}
    for sample in sorted(samples, key=lambda s: (s.settled_at, s.event_id, s.sample_id)):
        content = fingerprint(sample.content)
        if content not in best or rank(sample.source) <= rank(best[content].source):
            best[content] = sample
    return list(best.values())


def _limit_automatic(
    samples: Sequence[LabelledSample],
    limit: int,
    left_out: Counter[str],
    answers: Answers,
    salt: str,
) -> list[LabelledSample]:
    """At most ``limit``, as evenly over their labels as there are, the rest by a fixed draw."""
    by_label: dict[str, list[LabelledSample]] = {}
    drawn = sorted(samples, key=lambda s: unit_fraction("auto", fingerprint(s.content), salt=salt))
    for sample in drawn:
        by_label.setdefault(answers.counted_as(sample.label), []).append(sample)
    rounds = (
        (position, label, sample)
        for label, chosen in by_label.items()
        for position, sample in enumerate(chosen)
    )
    ordered = [sample for _, _, sample in sorted(rounds, key=lambda row: row[:2])]
    left_out["automatic labels over the limit"] += max(0, len(ordered) - limit)
    return ordered[:limit]


def _choose_calibration(
    samples: Sequence[LabelledSample], share: float, answers: Answers, salt: str
) -> list[LabelledSample]:
    """The share of each label's experts' and seed samples whose text hashes lowest."""
    by_label: dict[str, list[LabelledSample]] = {}
    for sample in samples:
        if sample.source in CALIBRATES:
            by_label.setdefault(answers.counted_as(sample.label), []).append(sample)
    chosen: list[LabelledSample] = []
    for same in by_label.values():
        same.sort(key=lambda s: unit_fraction("calibration", fingerprint(s.content), salt=salt))
        chosen += same[: round(len(same) * share)]
    return chosen


def _lines(
    samples: Iterable[LabelledSample], weights: Mapping[str, float] | None = None
) -> list[DatasetLine]:
    return sorted(
        (
            DatasetLine(
                sample_id=s.sample_id,
                text=s.text,
                messages=not_plain(s.content) or msgspec.UNSET,
                label=s.label,
                source=s.source,
                weight=_weight(s, weights or {}),
            )
            for s in samples
        ),
        key=lambda line: line.sample_id,
    )


def _weight(sample: LabelledSample, weights: Mapping[str, float]) -> float:
    if sample.source not in AUTOMATIC:
        return 1.0
    # Rounded: the last digits of a division are no reason for another version.
    return round(weights.get(sample.sample_id, 1.0), WEIGHT_DIGITS)


def _weight_rule(automatic: Iterable[LabelledSample], weights: Mapping[str, float]) -> str | None:
    known = sum(sample.sample_id in weights for sample in automatic)
    if not known:
        return None
    return (
        "automatic labels: 1 - the share of experts' labels that had corrected their source when "
        f"they were settled; known of {known}, the others count fully"
    )


def _shuffled(lines: list[DatasetLine], seed: int) -> list[DatasetLine]:
    labels = [line.label for line in lines]
    random.Random(seed).shuffle(labels)
    return [
        msgspec.structs.replace(line, label=label)
        for line, label in zip(lines, labels, strict=True)
    ]


def _split_rule(
    samples: Iterable[LabelledSample], settings: DatasetSettings, answers: Answers
) -> str:
    if any(sample.split == "holdout" for sample in samples):
        held = "holdout: the samples ingested as holdout"
    else:
        held = f"holdout: {settings.holdout_share:g} of expert and seed labels, by hash of the text"
    whose = answers.drawn_from
    return (
        f"{held}; calibration: {settings.calibration_share:g} of {whose} expert and seed "
        "samples, by hash of the text; train: the rest, one sample a text"
    )


def _write(
    parts: dict[Part, list[DatasetLine]],
    folder: Path,
    *,
    task: str,
    answers: Answers,
    watermark: str,
    parent: str | None,
    split_rule: str,
    left_out: dict[str, int],
    shuffled: int | None,
    weight_rule: str | None,
    image_bytes: ImageBytes,
) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for part in PARTS:
        data = encode_lines(parts[part])
        (folder / f"{part}.jsonl").write_bytes(data)
        files[f"{part}.jsonl"] = hashlib.sha256(data).hexdigest()
    content = hashlib.sha256(msgspec.json.encode([task, answers.labels, sorted(files.items())]))
    version = f"d-{content.hexdigest()[:12]}"
    # Named by their digests in the lines, so the version is of them as well.
    files |= _write_images(parts, folder, image_bytes)
    manifest = Manifest(
        version=version,
        task=task,
        labels=answers.labels,
        watermark=watermark,
        parent=None if parent == version else parent,
        split_rule=split_rule,
        files=files,
        counts={part: _count(line.source for line in lines) for part, lines in parts.items()},
        label_counts={
            part: _count(answers.counted_as(line.label) for line in lines)
            for part, lines in parts.items()
        },
        left_out={reason: count for reason, count in left_out.items() if count},
        labels_shuffled_with=shuffled,
        weight_rule=weight_rule,
    )
    pretty = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
    (folder / MANIFEST_FILE).write_bytes(pretty + b"\n")
    return manifest


def _write_images(
    parts: Mapping[Part, Sequence[DatasetLine]], folder: Path, image_bytes: ImageBytes
) -> dict[str, str]:
    """Each image of the lines once; its file → its SHA-256."""
    lines = [line for of_part in parts.values() for line in of_part]
    pictures = {image.sha256: image for line in lines for image in images(line.content)}
    written = {}
    for digest, image in sorted(pictures.items()):
        name = image_path(image)
        (folder / name).parent.mkdir(exist_ok=True)
        try:
            data = image_bytes(image)
        except ArtefactError as error:
            if error.retryable:
                raise
            shown_by = sorted(one.sample_id for one in lines if image in images(one.content))
            raise ArtefactError(
                f"{error}; it is shown by {', '.join(shown_by[:5])}: put the image back, or take "
                "the sample out with `flywheel erase --sample ID --why TEXT`"
            ) from error
        (folder / name).write_bytes(data)
        written[name] = digest
    return written


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
