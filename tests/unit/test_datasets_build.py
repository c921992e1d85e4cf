"""What a dataset holds, what it leaves out, and that the same labels give the same bytes."""

import hashlib
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.contracts.answers import normalised
from flywheel.contracts.dataset_folder import PARTS, Manifest, read_manifest, read_part
from flywheel.contracts.ids import unit_fraction
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import automatic_weights, build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.kinds import Choice

LABELS = ("a", "b", "c")
TRUSTED = ("expert", "seed", "user", "outcome")


def sample(number: int, **given: object) -> LabelledSample:
    fields: dict[str, object] = {
        "sample_id": f"s{number:03}",
        "content": f"text {number}",
        "label": LABELS[number % 3],
        "source": "expert",
        "annotators": ("ann",),
        "split": None,
        "inclusion_probability": 1.0,
        "audit": False,
        "settled_at": datetime(2026, 1, 1, tzinfo=UTC),
        "event_id": f"e{number:03}",
    }
    return LabelledSample(**(fields | given))  # type: ignore[arg-type]


def build(
    samples: list[LabelledSample],
    folder: Path,
    seed: int | None = None,
    weights: Mapping[str, float] | None = None,
    **options: float,
) -> Manifest:
    return build_dataset(
        samples,
        DatasetSettings(**options),
        Choice(LABELS),
        task="t",
        watermark="e999",
        parent="d-parent",
        folder=folder,
        shuffle_labels_seed=seed,
        weights=weights,
    )


many = st.lists(
    st.builds(
        sample,
        st.integers(0, 200),
        content=st.sampled_from(
            [f"Text {n}" for n in range(60)] + [f" text  {n} " for n in range(60)]
        ),
        label=st.sampled_from(LABELS),
        source=st.sampled_from([*TRUSTED, "rule", "auto", "model"]),
        split=st.sampled_from([None, None, "train", "holdout"]),
    ),
    max_size=80,
    unique_by=lambda s: s.sample_id,
)


@settings(max_examples=60, deadline=None)
@given(many, st.randoms())
def test_no_text_is_twice_and_order_does_not_matter(
    samples: list[LabelledSample], chance: random.Random
) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        manifest = build(samples, Path(one))
        again = list(samples)
        chance.shuffle(again)
        assert build(again, Path(two)) == manifest
        for name in (*manifest.files, "manifest.json"):
            assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes()
        parts = {part: read_part(Path(one), part) for part in PARTS}
        texts = [normalised(line.text) for lines in parts.values() for line in lines]
        assert len(texts) == len(set(texts))
        assert sum(manifest.count(part) for part in PARTS) + sum(manifest.left_out.values()) == len(
            samples
        )
        assert {line.source for line in parts["calibration"]} <= {"expert", "seed"}
        assert not {line.source for line in parts["holdout"]} & {"auto", "rule", "model"}
        marked = {normalised(s.text) for s in samples if s.split == "holdout"}
        trained = {normalised(line.text) for line in parts["train"] + parts["calibration"]}
        assert not marked & trained
        automatic = [line for line in parts["train"] if line.source in {"auto", "rule", "model"}]
        usable = len(parts["train"]) + len(parts["calibration"]) - len(automatic)
        assert len(automatic) <= usable * 0.5
        assert read_manifest(Path(one)) == manifest


def test_the_most_trusted_and_newest_label_of_a_text_counts(tmp_path: Path) -> None:
    samples = [
        sample(1, content="Same  text", label="a", source="auto", event_id="e9"),
        sample(2, content="same text", label="b", event_id="e1"),
        sample(3, content="SAME TEXT", label="c", event_id="e2"),
        sample(4, split="holdout"),
    ]
    build(samples, tmp_path)
    assert [line.label for line in read_part(tmp_path, "train")] == ["c"]


def test_automatic_labels_are_limited_evenly(tmp_path: Path) -> None:
    experts = [sample(n) for n in range(20)] + [sample(99, split="holdout")]
    automatic = [sample(100 + n, source="auto", label="a" if n < 30 else "b") for n in range(40)]
    manifest = build(experts + automatic, tmp_path, auto_labels_per_expert=0.5)
    assert manifest.auto_labels == 10
    chosen = [line.label for line in read_part(tmp_path, "train") if line.source == "auto"]
    assert chosen.count("a") == chosen.count("b") == 5
    assert manifest.left_out == {"automatic labels over the limit": 30}


def test_calibration_is_a_share_of_each_label(tmp_path: Path) -> None:
    samples = [sample(n) for n in range(60)] + [sample(99, split="holdout")]
    manifest = build(samples, tmp_path, calibration_share=0.1)
    assert manifest.label_counts["calibration"] == {"a": 2, "b": 2, "c": 2}
    assert manifest.parent == "d-parent"
    assert manifest.watermark == "e999"


def test_without_a_marked_holdout_a_share_is_held_out(tmp_path: Path) -> None:
    manifest = build([sample(n) for n in range(200)], tmp_path, holdout_share=0.2)
    assert 20 <= manifest.count("holdout") <= 60
    assert "by hash of the text" in manifest.split_rule


def test_shuffled_labels_keep_texts_counts_and_holdout(tmp_path: Path) -> None:
    samples = [sample(n, split="holdout" if n < 30 else None) for n in range(120)]
    good = build(samples, tmp_path / "good")
    bad = build(samples, tmp_path / "bad", seed=1)
    assert bad.version != good.version
    assert bad.labels_shuffled_with == 1
    assert bad.label_counts == good.label_counts
    assert bad.files["holdout.jsonl"] == good.files["holdout.jsonl"]
    before, after = read_part(tmp_path / "good", "train"), read_part(tmp_path / "bad", "train")
    pairs = zip(before, after, strict=True)
    assert sum(one.label != two.label for one, two in pairs) > 20


def test_weights_reach_automatic_labels_alone(tmp_path: Path) -> None:
    samples = [sample(n, split="holdout" if n < 5 else None) for n in range(40)]
    samples += [sample(100 + n, source="auto") for n in range(3)]
    plain = build(samples, tmp_path / "plain")
    assert plain.weight_rule is None
    assert build(samples, tmp_path / "none", weights={}) == plain
    given = {s.sample_id: 0.5 for s in samples if s.source == "expert"}
    manifest = build(samples, tmp_path / "some", weights=given | {"s100": 2 / 3, "s101": 0.0})
    assert manifest.version != plain.version
    assert "known of 2" in str(manifest.weight_rule)
    weights = {line.sample_id: line.weight for line in read_part(tmp_path / "some", "train")}
    assert {name: weight for name, weight in weights.items() if weight != 1.0} == {
        "s100": 0.667,
        "s101": 0.0,
    }
    assert manifest.files["holdout.jsonl"] == plain.files["holdout.jsonl"]
    assert manifest.files["calibration.jsonl"] == plain.files["calibration.jsonl"]


def test_a_label_weighs_what_was_known_of_its_most_corrected_source() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    samples = [sample(n, source="auto") for n in range(4)] + [sample(9)]
    senders = {"s000": ["app"], "s001": ["app", "batch"], "s002": ["unknown"], "s009": ["app"]}
    rates = {("app", now): 1 / 3, ("batch", now): 1.0, ("unknown", now + timedelta(1)): 0.5}
    assert automatic_weights(samples, senders, rates) == {"s000": 0.667, "s001": 0.0}


def test_a_manifest_from_before_weights_is_read(tmp_path: Path) -> None:
    manifest = build([sample(n) for n in range(30)], tmp_path)
    told = msgspec.json.decode((tmp_path / "manifest.json").read_bytes())
    del told["weight_rule"]
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(told))
    assert read_manifest(tmp_path) == manifest


def test_a_label_that_the_task_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tasks\.t\.labels: .*'zzz' \(1 samples\)"):
        build([sample(1, label="zzz")], tmp_path)


def test_a_changed_part_is_noticed(tmp_path: Path) -> None:
    build([sample(n) for n in range(30)], tmp_path)
    path = tmp_path / "train.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"b"', 1))
    with pytest.raises(ArtefactError, match=r"train\.jsonl is not the file"):
        read_manifest(tmp_path)
    path.write_bytes(b"{not json\n")
    with pytest.raises(ArtefactError, match="damaged"):
        read_part(tmp_path, "train")
    path.unlink()
    with pytest.raises(ArtefactError, match="missing"):
        read_manifest(tmp_path)


def mixed(count: int, *, marked: bool) -> list[LabelledSample]:
    """Samples of every source, some with the text of another."""
    rng = random.Random(7)
    sources = ("expert", "seed", "user", "outcome", "rule", "auto", "model")
    splits = (None, None, "train", "holdout")
    return [
        sample(
            n,
            content=f"text {n % (count * 3 // 4)}",
            source=rng.choice(sources),
            split=rng.choice(splits) if marked else None,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("marked", "expected"),
    [(True, "88896047eedd89b6192d9040b008d06e60c972b93708c63b9856b6e446b20e3c"),
     (False, "ac495bf9f27653eb1e8118e65f882313f690177712df454421b01d06fda8bba7")],
)  # fmt: skip
def test_the_bytes_are_those_of_earlier_versions(
    tmp_path: Path, marked: bool, expected: str
) -> None:
    build(mixed(600, marked=marked), tmp_path, auto_labels_per_expert=0.5)
    files = sorted(tmp_path.iterdir())
    assert hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() == expected


class Compared(LabelledSample, frozen=True, kw_only=True):
    """Counts how often one sample is compared with another."""

    count = 0

    def __eq__(self, other: object) -> bool:
        type(self).count += 1
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


def test_samples_are_not_compared_with_each_other(tmp_path: Path) -> None:
    samples = [Compared(**msgspec.structs.asdict(one)) for one in mixed(400, marked=True)]
    build(samples, tmp_path)
    assert Compared.count == 0, "each with each of the holdout would be quadratic"


def test_nobody_who_writes_texts_chooses_what_is_held_out(tmp_path: Path) -> None:
    """Texts that a hash known to all would hold out, one and all."""
    texts = [f"text {n}" for n in range(4000) if unit_fraction("holdout", f"text {n}") < 0.15]
    samples = [sample(n, content=text) for n, text in enumerate(texts)]
    options = DatasetSettings(holdout_share=0.15)

    def held_out(salt: str) -> set[str]:
        build_dataset(
            samples, options, Choice(LABELS), task="t", watermark="e", parent=None, folder=tmp_path,
            salt=salt,
        )  # fmt: skip
        return {line.sample_id for line in read_part(tmp_path, "holdout")}

    assert len(held_out("")) == len(samples)
    first, second = held_out("one secret"), held_out("another")
    assert 0.08 < len(first) / len(samples) < 0.25
    assert first != second
    assert first == held_out("one secret")


def test_labels_that_were_there_to_begin_with_are_not_counted_as_experts(tmp_path: Path) -> None:
    samples = [sample(n, source="seed" if n < 30 else "expert") for n in range(40)]
    manifest = build(samples, tmp_path, holdout_share=0.0)
    assert (manifest.expert_labels, manifest.seed_labels) == (10, 30)
