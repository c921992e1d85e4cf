"""The feature store, with the real Feast."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import msgspec
import pandas as pd
import pytest
from storage_events import at

from storage.features import FeatureStore, SourceHistory, store


def row(source: str, samples: int, corrections: int, seconds: float) -> SourceHistory:
    return SourceHistory(
        source=source,
        samples=samples,
        mean_confidence=0.5,
        expert_labels=4,
        corrections=corrections,
        latest=at(seconds),
    )


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def asked(*moments: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": [source for source, _ in moments],
            "event_timestamp": [at(seconds) for _, seconds in moments],
        }
    )


def files(features: FeatureStore) -> int:
    return len(list((features._path / "source_history").iterdir()))


def test_the_latest_features_are_online(features: FeatureStore) -> None:
    assert features.online("task", ["app"]) == {}
    assert features.online("task", []) == {}
    features.write_history("task", [row("app", 1, 0, 1), row("batch", 7, 4, 1)])
    features.write_history("task", [row("app", 2, 1, 2)])
    features.write_history("task", [])
    assert features.online("task", ["app", "unknown", "batch", "app"]) == {
        "app": {
            "samples": 2.0,
            "mean_confidence": 0.5,
            "expert_labels": 4.0,
            "corrections": 1.0,
            "correction_rate": 0.25,
        },
        "batch": {
            "samples": 7.0,
            "mean_confidence": 0.5,
            "expert_labels": 4.0,
            "corrections": 4.0,
            "correction_rate": 1.0,
        },
    }


def test_training_sees_features_as_they_were(features: FeatureStore) -> None:
    features.write_history("task", [row("app", 1, 0, 10), row("batch", 5, 1, 10)])
    features.write_history("task", [row("app", 2, 1, 20)])
    features.write_history("task", [row("app", 3, 2, 30)])
    moments = asked(
        ("app", 25), ("app", 9), ("app", 10), ("app", 99), ("batch", 99), ("unknown", 99)
    )
    found = features.historical("task", moments)
    assert list(found["source"]) == list(moments["source"])
    assert [None if pd.isna(n) else int(n) for n in found["samples"]] == [2, None, 1, 3, 5, None]
    assert found["correction_rate"][0] == 0.25


def test_of_one_moment_what_was_written_last_counts(features: FeatureStore) -> None:
    features.write_history("task", [row("app", 1, 0, 10)])
    features.write_history("task", [row("app", 1, 3, 10)])
    assert list(features.historical("task", asked(("app", 10)))["corrections"]) == [3]


def test_tasks_keep_their_own_history_of_a_source(features: FeatureStore) -> None:
    features.write_history("topic", [row("app", 9, 4, 10)])
    features.write_history("urgency", [row("app", 2, 0, 10)])
    for task, samples, rate in (("topic", 9, 1.0), ("urgency", 2, 0.0)):
        online = features.online(task, ["app"])["app"]
        assert (online["samples"], online["correction_rate"]) == (samples, rate)
        then = features.historical(task, asked(("app", 10)))
        assert (then["samples"][0], then["correction_rate"][0]) == (samples, rate)
    assert features.online("a third", ["app"]) == {}


def test_a_history_of_an_earlier_version_counts_until_a_task_has_its_own(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(store, "_entity", lambda _task, source: source)
        features.write_history("", [row("app", 1, 1, 10), row("app", 2, 2, 20)])
    features.write_history("topic", [row("app", 3, 3, 30)])
    found = features.historical("topic", asked(("app", 9), ("app", 15), ("app", 25), ("app", 35)))
    assert [None if pd.isna(n) else int(n) for n in found["corrections"]] == [None, 1, 2, 3]
    other = features.historical("urgency", asked(("app", 35)))
    assert list(other["corrections"]) == [2]


def test_the_history_stays_in_few_files(
    features: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_FILES_AT_MOST", 5)
    for i in range(12):
        features.write_history("task", [row("app", i, 0, i), row("batch", 1, 0, 0)])
        features.write_history("task", [row("app", i, 0, i)])
    assert files(features) <= 5
    found = features.historical("task", asked(("app", 3), ("app", 11), ("batch", 5)))
    assert list(found["samples"]) == [3, 11, 1]
    assert files(features) == 1


def test_what_was_known_long_ago_is_forgotten_but_for_what_was_known_last(
    features: FeatureStore,
) -> None:
    for second in (1, 2, 3, 10):
        features.write_history("task", [row("app", second, 0, second)])
        features.write_history("another", [row("app", second, 0, second)])
    features.write_history("task", [row("silent", 7, 0, 1)])
    assert features.forget("task", at(5)) == 2
    assert features.forget("task", at(5)) == 0
    known = features.historical("task", asked(("app", 2), ("app", 5), ("app", 11), ("silent", 9)))
    assert known["samples"].isna().tolist() == [True, False, False, False]
    assert known["samples"].dropna().tolist() == [3, 10, 7]
    others = features.historical("another", asked(("app", 2)))
    assert others["samples"].tolist() == [2]
    assert features.online("task", ["app"])["app"]["samples"] == 10


def test_two_stores_on_one_folder(features: FeatureStore) -> None:
    other = FeatureStore(features._path)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.ensure(), [features, other]))
        list(
            pool.map(
                lambda i: (features, other)[i % 2].write_history(
                    "task", [row(f"source {i}", i, 0, i)]
                ),
                range(10),
            )
        )
    assert set(features.online("task", [f"source {i}" for i in range(10)])) == {
        f"source {i}" for i in range(10)
    }
    again = FeatureStore(features._path)
    assert again.online("task", ["source 9"])["source 9"]["samples"] == 9.0


def test_nothing_is_imported_or_rewritten_needlessly(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from storage.features import FeatureStore
store = FeatureStore(Path(sys.argv[1]))
assert "feast" not in sys.modules
store.ensure()
assert "torch" not in sys.modules
import importlib.util
assert importlib.util.find_spec("torch") is not None
# Typeguard has not rewritten Feast's classes, and would do so for whoever uses it later.
import feast, typeguard
assert not any("check" in name for name in feast.FeatureView.__init__.__code__.co_names)
assert typeguard.typechecked.__name__ == "typechecked"
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "features")], check=True)


def online_samples(features: FeatureStore, source: str = "app") -> float:
    return features.online("task", [source])[source]["samples"]


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "another process"])
def test_an_older_aggregate_never_takes_the_place_of_a_newer_one(
    features: FeatureStore, restarted: bool
) -> None:
    features.write_history("task", [row("app", 9, 2, 30), row("batch", 1, 0, 5)])
    late = FeatureStore(features._path) if restarted else features
    late.write_history("task", [row("app", 4, 1, 20), row("batch", 2, 0, 6)])
    assert online_samples(features) == online_samples(late) == 9
    assert online_samples(features, "batch") == 2
    found = features.historical("task", asked(("app", 25), ("app", 35)))
    assert list(found["samples"]) == [4, 9]
    late.write_history("task", [row("app", 10, 2, 31)])
    assert online_samples(features) == 10


def test_what_was_read_earlier_is_never_written_later(features: FeatureStore) -> None:
    other = FeatureStore(features._path)
    other.ensure()
    reads = Event()

    def newer() -> list[SourceHistory]:
        reads.set()
        return [row("app", 2, 1, 10)]

    def older() -> list[SourceHistory]:
        overtaking.start()
        assert not reads.wait(0.5)
        # Nor does anybody who asks what is online wait for the database.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(features.online, "task", ["app"]).result(60) == {}
        return [row("app", 1, 0, 10)]

    overtaking = Thread(target=lambda: other.refresh("task", newer))
    features.refresh("task", older)
    overtaking.join()
    assert online_samples(features) == 2


def test_an_aggregate_whose_last_moment_went_back_is_written(features: FeatureStore) -> None:
    for restarted in (features, FeatureStore(features._path)):
        restarted.refresh("task", lambda: [row("app", 5, 3, 30)])
        restarted.refresh("task", lambda: [row("app", 5, 2, 20)])
        assert features.online("task", ["app"])["app"]["corrections"] == 2
        before = files(features)
        restarted.refresh("task", lambda: [row("app", 5, 2, 20)])
        assert files(features) == before


@pytest.mark.parametrize(
    "moment", [datetime(9999, 12, 31, tzinfo=UTC), datetime(2262, 4, 12, tzinfo=UTC)], ids=str
)
def test_a_moment_that_is_still_to_come_is_now(features: FeatureStore, moment: datetime) -> None:
    ahead = msgspec.structs.replace(row("app", 1, 0, 0), latest=moment)
    features.refresh("task", lambda: [ahead])
    assert online_samples(features) == 1
    now = datetime.now(UTC)
    found = features.historical("task", pd.DataFrame({"source": ["app"], "event_timestamp": [now]}))
    assert list(found["samples"]) == [1]
    features.refresh("task", lambda: [msgspec.structs.replace(ahead, samples=2)])
    features.write_history(
        "task", [msgspec.structs.replace(ahead, samples=3, latest=datetime.now(UTC))]
    )
    assert online_samples(features) == 3
