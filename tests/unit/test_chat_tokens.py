"""What is trained is what is asked: prompts, letters and answers are the same tokens everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from byte_tokens import KINDS, token_of, write_byte_tokenizer

from flywheel.contracts.chat import Chat
from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.model_folder import ModelDescription, Prompt
from flywheel.errors import ArtefactError, ConfigurationError

LABELS = ("warm", "cold")
PROMPT = Prompt(system="Pick.", answers={"warm": "A", "cold": "B"})


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    write_byte_tokenizer(folder, request.param)
    return AutoTokenizer.from_pretrained(folder)


def line(text: str, label: str) -> DatasetLine:
    return DatasetLine(sample_id=text, text=text, label=label, source="seed")


def test_the_letter_trained_is_the_one_that_follows_the_prompt(tokenizer: Any) -> None:
    from flywheel.training.llm.samples import encode

    told = [line("it is hot", "warm"), line("it freezes", "cold")]
    encoded = encode(told, tokenizer, PROMPT, LABELS, "label", max_tokens=200, auto_label_weight=1)
    assert encoded.letters == {"warm": token_of("A"), "cold": token_of("B")}
    for sample, letter in zip(encoded.samples, "AB", strict=True):
        chat = tokenizer.apply_chat_template(
            PROMPT.messages("it is hot" if letter == "A" else "it freezes"),
            add_generation_prompt=True,
            tokenize=False,
        )
        whole = tokenizer.encode(chat + letter, add_special_tokens=False)
        assert [*sample.prompt, *sample.answer] == whole


def test_an_answer_of_words_stands_as_it_does_after_the_prompt(tokenizer: Any) -> None:
    from flywheel.training.llm.samples import encode

    [sample] = encode(
        [line("hello", "Say it")], tokenizer, Prompt(), (), "text", max_tokens=90,
        auto_label_weight=1,
    ).samples  # fmt: skip
    assert sample.answer[-1] == tokenizer.eos_token_id
    before = tokenizer.decode(sample.prompt)
    after = tokenizer.decode([*sample.prompt, *sample.answer[:-1]])
    assert after == f"{before}Say it", "no space comes before what an expert wrote"


@pytest.mark.parametrize("text", ["very long " * 50, "ünï✓ " * 60, "x" * 400, "  \n spaces " * 40])
def test_a_text_that_is_too_long_is_cut_to_fit_and_keeps_its_beginning(
    tokenizer: Any, text: str
) -> None:
    chat = Chat(tokenizer, PROMPT)
    ids, lost = chat.cut(text, 150)
    assert lost == len(chat.ids(text)) - len(ids) > 0
    assert len(ids) <= 150
    whole, empty = chat.ids(text), chat.ids("")
    same = next(i for i, pair in enumerate(zip(ids, whole, strict=False)) if pair[0] != pair[1])
    assert same > 150 - len(empty), "it is the end of the text that goes"
    assert ids[-1] == empty[-1], "and never that of the prompt"
    assert chat.cut("short", 150) == (chat.ids("short"), 0)
    with pytest.raises(ConfigurationError, match="without any text"):
        chat.cut(text, 10)


def test_letters_that_are_one_token_with_what_stands_before_are_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_byte_tokenizer(tmp_path, "gemma")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    # A space before the answer: it and the letter are one token, "▁A".
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} Answer: "
    with pytest.raises(ConfigurationError, match="not one token of its own after"):
        Chat(tokenizer, PROMPT).letters(LABELS)
    # The text itself stands before the answer: after some of them the letter is another token.
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    prompt = Prompt(template="{text} ", answers=PROMPT.answers)
    with pytest.raises(ConfigurationError, match="not one token of its own after"):
        Chat(tokenizer, prompt).letters(LABELS)


def test_a_template_without_a_system_message_gets_it_before_the_text(tokenizer: Any) -> None:
    plain = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
        + plain
    )
    try:
        chat = Chat(tokenizer, PROMPT)
        assert "Pick.\n\nis it hot" in tokenizer.decode(chat.ids("is it hot"))
        assert chat.letters(LABELS)["warm"] == token_of("A")
        tokenizer.chat_template = "{{ raise_exception('never') }}"
        with pytest.raises(ConfigurationError, match="takes no such chat: never"):
            Chat(tokenizer, PROMPT)
    finally:
        tokenizer.chat_template = plain


def test_letters_of_a_release_are_those_it_was_trained_with(tokenizer: Any) -> None:
    chat = Chat(tokenizer, PROMPT)
    kept = describe({"warm": token_of("A"), "cold": token_of("B")})
    assert chat.trained_letters(kept) == kept.letters
    with pytest.raises(ArtefactError, match="was trained with"):
        chat.trained_letters(describe({"warm": token_of("▁A"), "cold": token_of("▁B")}))
    # A release that kept none was trained with them as they stand alone.
    alone = tokenizer.encode("A", add_special_tokens=False)[0]
    assert chat.trained_letters(describe({}))["warm"] == alone


def describe(letters: dict[str, int]) -> ModelDescription:
    return ModelDescription(
        task="t",
        labels=LABELS,
        temperature=1.0,
        max_tokens=64,
        method="none",
        pooling="mean",
        base_model="b",
        dataset_version="d",
        files={},
        kind="llm",
        prompt=PROMPT,
        letters=letters,
    )
