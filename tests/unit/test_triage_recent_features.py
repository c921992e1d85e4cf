"""What a feature store knows of sources is asked for once in a while, and no failure remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from flywheel.errors import StorageError
from flywheel.triage import recent_features
from flywheel.triage.recent_features import RecentFeatures


class Store:
    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.now, self.share = 0.0, 0.1
        self.away = False

    def clock(self) -> float:
        return self.now

    def __call__(self, task: str, sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        self.asked.append((task, list(sources)))
        if self.away:
            raise StorageError("the store is away")
        return {one: {"corrected": self.share} for one in sources if one != "unknown"}


def test_a_source_is_asked_for_again_when_its_answer_is_old() -> None:
    store = Store()
    features = RecentFeatures(store, 3.0, store.clock)
    assert features("a", ["web", "unknown"]) == {"web": {"corrected": 0.1}, "unknown": {}}
    store.share = 0.5
    assert features("a", ["web", "unknown", "app"])["web"] == {"corrected": 0.1}
    assert features("b", ["web"]) == {"web": {"corrected": 0.5}}
    assert store.asked == [("a", ["web", "unknown"]), ("a", ["app"]), ("b", ["web"])]
    store.now = 3.0
    assert features("a", ["web"]) == {"web": {"corrected": 0.5}}


def test_a_failure_is_not_remembered() -> None:
    store = Store()
    features = RecentFeatures(store, 3.0, store.clock)
    store.away = True
    with pytest.raises(StorageError):
        features("a", ["web"])
    store.away = False
    assert features("a", ["web"]) == {"web": {"corrected": 0.1}}


def test_clients_that_make_up_sources_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_features, "MOST", 10)
    store = Store()
    features = RecentFeatures(store, 3.0, store.clock)
    for number in range(100):
        assert set(features("a", [f"s{number}", "web"])) == {f"s{number}", "web"}
    assert sum("web" in sources for _, sources in store.asked) > 1, "it was forgotten meanwhile"
