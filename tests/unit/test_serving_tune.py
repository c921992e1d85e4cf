"""Which of the settings that were tried is recommended."""

from __future__ import annotations

from flywheel.compression.compare import Speed
from flywheel.ops.tune import Trial, best, candidates


def trial(threads: int, per_second: float, p50_ms: float) -> Trial:
    speed = Speed(
        p50_ms=p50_ms,
        p95_ms=2 * p50_ms,
        per_second=per_second,
        in_flight=16,
        cost_ms=1.0,
        memory_bytes=1 << 30,
    )
    return Trial("float32", threads, 20.0, speed)


def test_the_fastest_under_load_is_best_and_a_near_tie_goes_to_the_quicker_answer() -> None:
    assert best([trial(1, 100, 5), trial(2, 200, 9)]) == trial(2, 200, 9)
    assert best([trial(1, 198, 5), trial(2, 200, 9)]) == trial(1, 198, 5)


def test_what_could_not_be_served_is_never_best() -> None:
    failed = Trial("bfloat16", 1, problem="not enough memory")
    assert best([failed]) is None
    assert best([failed, trial(1, 1, 900)]) == trial(1, 1, 900)


def test_candidates_are_no_more_than_the_machine_has() -> None:
    assert candidates(1, gpu=False) == [("float32", 1), ("bfloat16", 1)]
    assert [t for d, t in candidates(8, gpu=False) if d == "float32"] == [1, 4, 8]
    assert {t for _, t in candidates(8, gpu=True)} == {0}
