"""Packed rows hold every sample once, and each token has the states that it would have alone."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llm import LABELS, PROMPT, TEXT_PROMPT, make_llm

from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.model_folder import Prompt
from flywheel.errors import ConfigurationError, PipelineError


@given(
    own=st.lists(st.integers(1, 80), min_size=1, max_size=60),
    shared=st.integers(0, 40),
    row_tokens=st.integers(64, 300),
    seed=st.integers(0, 5),
)
def test_rows_hold_every_sample_once_and_no_more_than_fits(
    own: list[int], shared: int, row_tokens: int, seed: int
) -> None:
    from flywheel.training.llm.packing import plan_rows

    lengths = [length + shared for length in own]
    rows = plan_rows(lengths, shared, row_tokens, random.Random(seed))
    assert sorted(index for row in rows for index in row) == list(range(len(own)))
    for row in rows:
        assert row
        assert shared + sum(own[i] for i in row) <= row_tokens or len(row) == 1
    assert rows == plan_rows(lengths, shared, row_tokens, random.Random(seed))


def test_epochs_are_added_until_there_are_steps_enough() -> None:
    from flywheel.training.llm.packing import plan_steps

    plan = plan_steps([20] * 10, 10, 64, 2, 9, seed=0)
    assert sum(map(len, plan)) >= 9
    assert sum(map(len, plan[:-1])) < 9
    assert plan[0] != plan[1]


def lines(*pairs: tuple[str, str]) -> list[DatasetLine]:
    return [
        DatasetLine(sample_id=f"s{i}", text=text, label=label, source="auto" if i == 1 else "seed")
        for i, (text, label) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("base") / "tiny")


def read_tokenizer(base: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def test_packed_and_single_samples_have_the_same_losses_and_gradients(base: Path) -> None:
    import torch

    from flywheel.training.config import LoraSettings
    from flywheel.training.llm.adapter import AdaptedModel
    from flywheel.training.llm.packing import pack, shared_prefix
    from flywheel.training.llm.samples import encode

    told = lines(("rain", "a storm"), ("how much is it", "ten"), ("", "nothing at all"))
    encoded = encode(
        told,
        read_tokenizer(base),
        TEXT_PROMPT,
        (),
        "text",
        max_tokens=256,
        auto_label_weight=0.5,
    )
    samples = encoded.samples
    assert [sample.weight for sample in samples] == [1.0, 0.5, 1.0]
    torch.manual_seed(0)
    model = AdaptedModel(base, LoraSettings(precision="float32"), samples)
    for name, parameter in model.trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.peft.double()  # so that what differs is not the order of sums

    def losses(groups: list[list[int]], shared: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.peft.zero_grad()
        found = []
        for group in groups:
            row = pack([samples[i] for i in group], shared)
            each = torch.nn.functional.cross_entropy(
                model.logits(row), row.targets, reduction="none"
            )
            found.append(each * row.weights)
        together = torch.cat(found)
        together.sum().backward()
        return together.detach(), [p.grad.clone() for p in model.trained.values()]

    shared = shared_prefix(samples)
    assert shared > 20
    alone, single = losses([[0], [1], [2]], 0)
    packed, gradients = losses([[0, 1, 2]], shared)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, single, rtol=1e-5, atol=1e-6)
    unshared, _ = losses([[0, 1, 2]], 0)
    torch.testing.assert_close(unshared, alone, rtol=1e-5, atol=1e-5)


def test_what_is_too_long_loses_the_end_of_its_text_and_keeps_its_answer(base: Path) -> None:
    from flywheel.training.llm.samples import encode

    tokenizer = read_tokenizer(base)
    told = lines(("rain " * 50, "weather"), ("a price", "money"))
    encoded = encode(
        told, tokenizer, PROMPT, LABELS, "label", max_tokens=120, auto_label_weight=1.0
    )
    assert encoded.cut == 1
    long, short = encoded.samples
    assert len(long) <= 120
    text = tokenizer.decode(long.prompt)
    assert "rain rain" in text
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert [tokenizer.decode(sample.answer) for sample in (long, short)] == ["A", "B"]
    with pytest.raises(ConfigurationError, match=r"lora\.max_tokens"):
        encode(told, tokenizer, PROMPT, LABELS, "label", max_tokens=40, auto_label_weight=1.0)


def test_letters_and_labels_that_do_not_fit_are_refused(base: Path) -> None:
    from flywheel.training.llm.samples import encode

    tokenizer = read_tokenizer(base)

    def refused(told: list[DatasetLine], prompt: Prompt, match: str, error: type) -> None:
        with pytest.raises(error, match=match):
            encode(told, tokenizer, prompt, LABELS, "label", max_tokens=256, auto_label_weight=1.0)

    both = lines(("x", "weather"), ("y", "money"))
    unfit = Prompt(answers={"weather": "AA", "money": "B", "food": "C"})
    refused(both, unfit, "one token of its own", ConfigurationError)
    refused(both, Prompt(answers={"weather": "A", "money": "A"}), "money", ConfigurationError)
    refused(lines(("x", "else"), ("y", "money")), PROMPT, "no labels", ConfigurationError)
    refused(lines(("x", "money"), ("y", "money")), PROMPT, "fewer than two", PipelineError)
    refused([], PROMPT, "empty", PipelineError)
