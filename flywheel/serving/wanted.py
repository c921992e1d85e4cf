"""Which releases a model server should hold: what the splits name, and what is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from flywheel.contracts.split import TrafficSplit


class Wanted:
    """Not thread-safe: whoever has it guards it. ``asked`` are those that somebody waits for."""

    def __init__(self) -> None:
        self._splits: dict[str, TrafficSplit] = {}
        self._kept: set[str] = set()
        self.asked: set[str] = set()

    def keep(self, releases: Iterable[str]) -> None:
        """These are champions whatever the splits say."""
        self._kept.update(releases)

    def change(self, task: str, split: TrafficSplit) -> set[str]:
        """Take in one split; the releases that it names."""
        self._splits[task] = split
        return _named(split)

    def all(self) -> set[str]:
        """Every release that a split names, and what is kept."""
        named = {release for split in self._splits.values() for release in _named(split)}
        return named | self._kept

    def champions(self) -> set[str]:
        """Those that everybody is answered by."""
        return {split.champion for split in self._splits.values()} | self._kept

    def needed(self) -> set[str]:
        """What stays loaded: both arms of every rollout, and what is kept."""
        running = (split for split in self._splits.values() if split.challenger)
        return {release for split in running for release in _named(split)} | self._kept

    def by_urgency(self) -> list[tuple[str, bool]]:
        """(release, whether it is urgent): what somebody waits for, then rollouts, then champions,
        who answer everybody."""
        champions, needed = self.champions(), self.needed()
        order = sorted(
            self.all(), key=lambda r: (r not in self.asked, r not in needed, r not in champions, r)
        )
        return [(release, release in self.asked or release in needed) for release in order]


def _named(split: TrafficSplit) -> set[str]:
    return {split.champion} | ({split.challenger} if split.challenger else set())
