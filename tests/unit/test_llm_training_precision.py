"""The loss scale follows the gradients: off at once when they overflow, up when they vanish."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from flywheel.training.llm.loop import cosine
from flywheel.training.llm.precision import (
    LARGEST_FP16,
    GradientStatistics,
    LossScale,
    choose_precision,
    look_at,
)

GOOD = GradientStatistics(norm=0.5, largest=0.1, zero=0.0, infinite=0.0)
BAD = GradientStatistics(norm=math.inf, largest=math.inf, zero=0.0, infinite=0.25)
FAINT = GradientStatistics(norm=1e-6, largest=1e-7, zero=0.6, infinite=0.0)


def after(scale: LossScale, *seen: GradientStatistics) -> LossScale:
    for statistics in seen:
        scale = scale.after(statistics)
    return scale


def test_the_precision_asked_for_is_taken_and_auto_is_one_that_is_fast_here() -> None:
    assert choose_precision("float16") == "float16"
    able = torch.cpu.get_capabilities()
    fast = able.get("avx512_bf16") or able.get("amx_bf16") or torch.cuda.is_available()
    assert (choose_precision("auto") == "float32") == (not fast)


def test_only_float16_is_scaled() -> None:
    for precision in ("float32", "bfloat16"):
        scale = LossScale.for_precision(precision)
        assert after(scale, *[GOOD] * 100, BAD) == scale
        assert scale.scale == 1.0
    assert LossScale.for_precision("float16").dynamic


def test_it_backs_off_at_once_and_grows_after_a_row_of_good_steps() -> None:
    start = LossScale.for_precision("float16")
    assert after(start, BAD).scale == start.scale / 2
    assert after(start, *[GOOD] * 49).scale == start.scale
    assert after(start, *[GOOD] * 50).scale == start.scale * 2
    assert after(start, *[GOOD] * 49, BAD, *[GOOD] * 49).scale == start.scale / 2


def test_vanishing_gradients_hurry_it_up_and_large_ones_hold_it() -> None:
    start = LossScale.for_precision("float16")
    assert after(start, *[FAINT] * 10).scale == start.scale * 2
    large = GradientStatistics(norm=9.0, largest=8.0, zero=0.0, infinite=0.0)
    assert after(start, *[large] * 500).scale == start.scale


@given(st.lists(st.sampled_from([GOOD, BAD, FAINT]), max_size=400))
def test_it_stays_a_power_of_two_that_fp16_can_hold(seen: list[GradientStatistics]) -> None:
    scale = after(LossScale.for_precision("float16"), *seen)
    assert math.log2(scale.scale).is_integer()
    assert 2.0**-14 <= scale.scale <= 2.0**24
    if seen and seen[-1] is GOOD and scale.good == 0:
        assert scale.scale * GOOD.largest <= LARGEST_FP16 / 2


def test_statistics_have_the_scale_taken_out_again() -> None:
    gradients = [torch.tensor([3.0, 0.0]) * 8, torch.tensor([[4.0, 0.0]]) * 8]
    assert look_at(gradients, 8.0) == GradientStatistics(5.0, 4.0, 0.5, 0.0)
    broken = look_at([torch.tensor([math.inf, math.nan, 1.0, 0.0])], 1.0)
    assert (broken.infinite, broken.zero) == (0.5, 0.25)


def test_the_learning_rate_warms_up_and_falls_by_a_cosine() -> None:
    factors = [cosine(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == [(step + 1) / 10 for step in range(10)]
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert math.isclose(cosine(55, 100, 0.1), 0.5)
    assert factors[-1] < 0.001
