"""Splits: followed live, kept over restarts, never moved back by replayed history."""

from __future__ import annotations

from pathlib import Path

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.gateway.splits import Splits


def changed(champion: str, task: str = "t") -> RolloutChanged:
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=task,
        rollout_id="r",
        state="serving",
        split=TrafficSplit(task=task, champion=champion),
        decided_by="test",
        reason="",
    )


def champion(splits: Splits, task: str = "t") -> str | None:
    split = splits.current(task)
    return split.champion if split else None


def test_history_is_applied_when_its_end_is_reached(tmp_path: Path) -> None:
    splits = Splits(tmp_path / "splits.json")
    for name in ("a", "b", "c"):
        splits.update(changed(name))
    assert champion(splits) is None
    assert splits.problem() is not None
    splits.mark_caught_up()
    assert champion(splits) == "c"
    assert splits.problem() is None
    splits.update(changed("d"))
    assert champion(splits) == "d"


def test_a_restart_without_the_log_serves_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "splits.json"
    splits = Splits(path)
    splits.mark_caught_up()
    splits.update(changed("a"))
    splits.update(changed("z", task="other"))
    splits.update(changed("b"))
    again = Splits(path)
    assert champion(again) == "b"
    assert champion(again, "other") == "z"
    # Replayed history does not bring back a release that was replaced.
    again.update(changed("a"))
    assert champion(again) == "b"
    again.update(changed("c"))
    again.mark_caught_up()
    assert champion(again) == "c"
    assert champion(again, "other") == "z"


def test_a_damaged_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_bytes(b'{"t": {"cham')
    assert champion(Splits(path)) is None


def test_a_file_that_cannot_be_written_does_not_stop_the_split(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    splits = Splits(tmp_path / "file" / "splits.json")
    splits.mark_caught_up()
    splits.update(changed("a"))
    assert champion(splits) == "a"


def test_a_new_gateway_begins_with_what_others_here_know(tmp_path: Path) -> None:
    known = tmp_path / "one.json"
    splits = Splits(known)
    splits.mark_caught_up()
    splits.update(changed("b"))
    broken, own = tmp_path / "broken.json", tmp_path / "two.json"
    broken.write_text("{", "utf-8")
    second = Splits(own, [tmp_path / "gone.json", broken, known])
    assert champion(second) == "b"
    second.mark_caught_up()
    second.update(changed("c"))
    assert champion(Splits(own)) == "c"
    assert champion(Splits(known)) == "b", "each writes its own"
