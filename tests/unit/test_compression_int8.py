"""INT8 and pruning as arithmetic: what is kept, and that no more is lost than said."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flywheel.compression.fake_quantise import fake_rows
from flywheel.compression.int8 import WORDS, quantisation_config, quantise_rows, quantise_weights
from flywheel.compression.observe import Histogram, percentile_scale
from flywheel.compression.prune import Moments, keep_layers, prune_ffn, prune_heads, spread
from flywheel.serving.encoder import Int8Linear, StaticInt8Linear
from flywheel.serving.encoder import quantise_rows as quantise_inputs

matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@given(matrices)
def test_a_value_moves_by_half_a_step_at_most(given: np.ndarray) -> None:
    weight = torch.from_numpy(given)
    values, scale = quantise_rows(weight)
    assert values.dtype == torch.int8
    assert values.to(torch.int32).abs().max() <= 127
    moved = (values.to(torch.float32) * scale - weight).abs()
    assert bool((moved <= scale * 0.5001 + 1e-6).all())


@given(matrices)
def test_int8_of_int8_changes_nothing(given: np.ndarray) -> None:
    values, scale = quantise_rows(torch.from_numpy(given))
    again, same = quantise_rows(values.to(torch.float32) * scale)
    kept = values.abs().amax(dim=1) > 0
    assert torch.equal(values[kept], again[kept])
    assert torch.allclose(scale[kept], same[kept], rtol=1e-5)


@given(matrices)
def test_training_sees_what_serving_computes(given: np.ndarray) -> None:
    x = torch.from_numpy(given)
    values, scale = quantise_inputs(x)
    step = float(scale.max()) * 1.01
    # The two may round a tie differently, which is one step.
    difference = (fake_rows(x) - values.to(torch.float32) * scale).abs()
    assert float(difference.max()) <= step
    assert float((difference > step / 1000).float().mean()) <= 0.2


def test_gradients_pass_straight_through() -> None:
    x = torch.linspace(-3, 3, 48).reshape(4, 12).requires_grad_()
    fake_rows(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_static_and_dynamic_products_are_close_to_exact_ones() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(40, 64), torch.randn(32, 64), torch.randn(32)
    values, scale = quantise_rows(weight)
    exact = x @ weight.T + bias
    known = float(x.abs().max()) / 127
    for integer in (True, False):
        dynamic = Int8Linear(values, scale, bias, integer=integer)(x)
        static = StaticInt8Linear(values, scale, known, bias, integer=integer)(x)
        for got in (dynamic, static):
            assert float((got - exact).norm() / exact.norm()) < 0.02


@given(hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-50, 50, width=32)))
def test_a_histogram_holds_every_value_and_its_scales_are_ordered(given: np.ndarray) -> None:
    seen = Histogram()
    parts = np.array_split(given, 3)
    for part in parts:
        if len(part):
            seen.add(torch.from_numpy(part))
    largest = float(np.abs(given).max())
    if largest < 1e-6:
        return
    assert np.count_nonzero(given) <= float(seen.counts.sum()) <= len(given)
    assert percentile_scale(seen, 100) * 127 >= largest * 0.999
    assert percentile_scale(seen, 100) * 127 <= largest + seen.top / 1000
    assert 0 < percentile_scale(seen, 50) <= percentile_scale(seen) <= percentile_scale(seen, 100)


def test_one_outlier_does_not_decide_the_scale_of_a_million_values() -> None:
    torch.manual_seed(0)
    seen = Histogram()
    seen.add(torch.randn(1_000_000))
    calm = percentile_scale(seen)
    seen.add(torch.tensor([20.0]))
    assert percentile_scale(seen, 100) * 127 >= 20
    assert percentile_scale(seen) == pytest.approx(calm, rel=0.02)
    assert 3.5 < calm * 127 < 4.3


def test_nothing_observed_gives_a_scale_all_the_same() -> None:
    assert percentile_scale(Histogram()) == 1.0
    seen = Histogram()
    seen.add(torch.zeros(10))
    assert percentile_scale(seen) == 1.0


def bert(layers: int = 4, width: int = 32, heads: int = 4, inner: int = 64) -> dict[str, Any]:
    """Weights of a BERT in the names that matter here, and its config."""
    torch.manual_seed(1)
    state = {WORDS: torch.randn(10, width), "classifier.weight": torch.randn(3, width)}
    for index in range(layers):
        prefix = f"bert.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            state[f"{prefix}.attention.self.{part}.weight"] = torch.randn(width, width)
            state[f"{prefix}.attention.self.{part}.bias"] = torch.randn(width)
        state[f"{prefix}.attention.output.dense.weight"] = torch.randn(width, width)
        state[f"{prefix}.attention.output.LayerNorm.weight"] = torch.full((width,), float(index))
        state[f"{prefix}.intermediate.dense.weight"] = torch.randn(inner, width)
        state[f"{prefix}.intermediate.dense.bias"] = torch.randn(inner)
        state[f"{prefix}.output.dense.weight"] = torch.randn(width, inner)
    config = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    return {"state": state, "config": config}


@pytest.mark.parametrize(("share", "kept"), [(0.25, 48), (0.5, 32), (0.99, 16), (0.01, 64)])
def test_ffn_channels_with_the_smallest_norms_go(share: float, kept: int) -> None:
    made = bert()
    state, config = made["state"], made["config"]
    weak = "bert.encoder.layer.2.intermediate.dense"
    state[f"{weak}.weight"][:5] *= 1e-3
    state["bert.encoder.layer.2.output.dense.weight"][:, :5] *= 1e-3
    pruned = prune_ffn(state, config, share)
    assert config["intermediate_size"] == kept
    for index in range(4):
        prefix = f"bert.encoder.layer.{index}"
        assert pruned[f"{prefix}.intermediate.dense.weight"].shape == (kept, 32)
        assert pruned[f"{prefix}.intermediate.dense.bias"].shape == (kept,)
        assert pruned[f"{prefix}.output.dense.weight"].shape == (32, kept)
    if kept < 64:
        assert torch.equal(
            pruned[f"{weak}.bias"],
            state[f"{weak}.bias"][torch.isin(state[f"{weak}.bias"], pruned[f"{weak}.bias"])],
        )
        assert not torch.isin(state[f"{weak}.bias"][:5], pruned[f"{weak}.bias"]).any()


def test_a_whole_head_goes_from_every_projection() -> None:
    made = bert()
    state, config = made["state"], made["config"]
    attention = "bert.encoder.layer.1.attention"
    for part in ("query", "key", "value"):
        state[f"{attention}.self.{part}.weight"][8:16] *= 1e-3
    state[f"{attention}.output.dense.weight"][:, 8:16] *= 1e-3
    pruned = prune_heads(state, config, 0.25)
    assert (config["num_attention_heads"], config["head_size"]) == (3, 8)
    left = torch.cat([torch.arange(8), torch.arange(16, 32)])
    for part in ("query", "key", "value"):
        name = f"{attention}.self.{part}"
        assert torch.equal(pruned[f"{name}.weight"], state[f"{name}.weight"][left])
        assert torch.equal(pruned[f"{name}.bias"], state[f"{name}.bias"][left])
    out = f"{attention}.output.dense.weight"
    assert torch.equal(pruned[out], state[out][:, left])
    again = prune_heads(pruned, config, 0.5)
    assert (config["num_attention_heads"], config["head_size"]) == (2, 8)
    assert again[out].shape == (32, 16)


@pytest.mark.parametrize("redundant", [True, False])
def test_what_is_left_takes_over_what_went(redundant: bool) -> None:
    made = bert(layers=1)
    state, config = made["state"], made["config"]
    up, down = "bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"
    state[f"{down}.bias"] = torch.zeros(32)
    state[f"{up}.weight"][:16] *= 1e-3
    state[f"{down}.weight"][:, :16] *= 0.5
    inputs = torch.randn(2000, 64)
    if redundant:
        inputs[:, :16] = inputs[:, 16:] @ torch.randn(48, 16) + 3.0
    before = inputs @ state[f"{down}.weight"].T
    moments = Moments.empty(64)
    moments.add(inputs[:500])
    moments.add(inputs[500:])
    lost = {}
    for name, seen in (("cut", None), ("passed on", {down: moments})):
        pruned = prune_ffn(state, dict(config), 0.25, seen)
        after = inputs[:, 16:] @ pruned[f"{down}.weight"].T + pruned[f"{down}.bias"]
        lost[name] = float((after - before).norm() / before.norm())
    if redundant:
        assert lost["cut"] > 0.5
        assert lost["passed on"] < 0.1
    else:
        assert lost["passed on"] < lost["cut"] * 1.01


@given(st.integers(1, 24), st.integers(1, 24))
def test_layers_are_spread_from_the_first(layers: int, count: int) -> None:
    if count > layers:
        return
    kept = list(spread(layers, count))
    assert len(set(kept)) == count
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert kept[-1] < layers


def test_every_other_layer_is_kept_and_numbered_anew() -> None:
    made = bert()
    state, config = made["state"], made["config"]
    small = keep_layers(state, config, 2)
    assert config["num_hidden_layers"] == 2
    norm = "attention.output.LayerNorm.weight"
    assert float(small[f"bert.encoder.layer.0.{norm}"][0]) == 0
    assert float(small[f"bert.encoder.layer.1.{norm}"][0]) == 2
    assert not [name for name in small if name.startswith("bert.encoder.layer.2")]
    assert torch.equal(small[WORDS], state[WORDS])


def test_static_scales_lie_beside_the_weights_under_their_names() -> None:
    state = bert(layers=1)["state"]
    dense = [n.removesuffix(".weight") for n in state if "encoder" in n and "dense.weight" in n]
    dense += [f"bert.encoder.layer.0.attention.self.{p}" for p in ("query", "key", "value")]
    static = quantise_weights(state, dict.fromkeys(dense, 0.25))
    for name in dense:
        assert static[f"{name}.input_scale"].tolist() == [0.25]
        assert static[f"{name}.weight"].dtype == torch.int8
    assert not [name for name in quantise_weights(state) if name.endswith("input_scale")]
    inputs = [
        quantisation_config(static=static)["config_groups"]["group_0"]["input_activations"]
        for static in (True, False)
    ]
    assert [(one["strategy"], one["dynamic"]) for one in inputs] == [
        ("tensor", False),
        ("token", True),
    ]
