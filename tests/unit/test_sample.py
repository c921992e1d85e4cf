"""What a sample is: one spelling of each input, one fingerprint, and a text of whatever it is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.answers import normalised, same_text
from flywheel.contracts.sample import (
    LARGEST_SIDE,
    Content,
    ImagePart,
    Message,
    TextPart,
    as_text,
    content_of,
    content_problem,
    decode_content,
    encode_messages,
    fingerprint,
    images,
    messages_of,
    same_content,
    shows_nothing,
    written,
)

CAT = ImagePart("c" * 64, "image/png", 640, 480)
DOG = ImagePart("d" * 64, "image/jpeg", 8, 8)
_texts = st.builds(TextPart, st.text(max_size=20))
_images = st.builds(
    ImagePart,
    st.sampled_from(["a" * 64, "b" * 64]),
    st.sampled_from(["image/png", "image/webp"]),
    st.integers(1, LARGEST_SIDE),
    st.integers(1, LARGEST_SIDE),
)
_messages = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant"]),
    st.lists(_texts | _images, min_size=1, max_size=3).map(tuple),
)
contents = st.lists(_messages, min_size=1, max_size=4).map(content_of)


def said(*turns: str) -> Content:
    """A conversation that a user begins."""
    roles = ("user", "assistant")
    return content_of([Message(roles[n % 2], (TextPart(one),)) for n, one in enumerate(turns)])


def test_what_one_user_says_in_texts_alone_is_plain_text() -> None:
    assert said("Where?") == "Where?"
    assert content_of([Message("user", (TextPart("one"), TextPart("two")))]) == "one\ntwo"
    assert not isinstance(content_of([Message("assistant", (TextPart("one"),))]), str)
    assert not isinstance(content_of([Message("user", (TextPart("one"), CAT))]), str)


@given(contents)
def test_one_input_has_one_spelling_in_memory_in_json_and_in_a_store(content: Content) -> None:
    assert content_of(messages_of(content)) == content
    again = msgspec.json.decode(msgspec.json.encode(content), type=Content)
    assert again == content
    assert decode_content(as_text(content), encode_messages(content)) == content
    assert written(content) == written(again)


@given(contents, contents)
def test_inputs_are_the_same_where_their_fingerprints_are(one: Content, other: Content) -> None:
    assert same_content(one, other) == (fingerprint(one) == fingerprint(other))
    if isinstance(one, str) and isinstance(other, str):
        assert same_content(one, other) == same_text(one, other)
        assert fingerprint(one) == normalised(one)
    elif isinstance(one, str) or isinstance(other, str):
        assert not same_content(one, other)


def test_case_and_spacing_tell_no_two_conversations_apart_but_order_role_and_image_do() -> None:
    one = said("Where is it?", "In Rome.")
    assert same_content(one, said(" where  is it?", "in rome."))
    assert not same_content(one, said("In Rome.", "Where is it?"))
    assert not same_content(one, as_text(one))
    shown = content_of([Message("user", (TextPart("What?"), CAT))])
    assert not same_content(shown, content_of([Message("user", (TextPart("What?"), DOG))]))
    # How large an image says it is, is no part of which image it is.
    as_other = ImagePart(CAT.sha256, CAT.media_type, 1, 1)
    assert same_content(shown, content_of([Message("user", (TextPart("what?"), as_other))]))


def test_what_only_reads_text_reads_roles_and_what_an_image_is() -> None:
    assert as_text("Where?") == "Where?"
    assert as_text(said("Where?", "Rome.")) == "user: Where?\nassistant: Rome."
    shown = content_of([Message("user", (TextPart("What?"), CAT))])
    assert as_text(shown) == "user: What? [image/png of 640×480]"
    assert images(shown) == (CAT,)
    assert images("What?") == ()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("Where?", None),
        ("  \u200b", "the text is empty"),
        (said("\u200b", " "), "nothing to be seen"),
        (said("a" * 150_000, "b" * 150_000), "characters; at most"),
        (said("Where?", "a\0b"), "NUL"),
        (content_of([Message("user", (CAT,))]), None),
    ],
)
def test_an_input_that_no_sample_can_have_is_named(content: Content, problem: str | None) -> None:
    found = content_problem(content)
    assert found is None if problem is None else problem in (found or "")
    assert shows_nothing(content) == (problem in ("the text is empty", "nothing to be seen"))


@pytest.mark.parametrize(
    "wrong",
    [
        "[]",
        '[{"role":"tool","parts":[{"type":"text","text":"a"}]}]',
        '[{"role":"user","parts":[]}]',
        '[{"role":"user","parts":[{"type":"sound","sha256":"a"}]}]',
        '[{"role":"user","parts":[{"type":"image","sha256":"../x","media_type":"image/png",'
        '"width":1,"height":1}]}]',
        f'[{{"role":"user","parts":[{{"type":"image","sha256":"{"a" * 64}\\n",'
        '"media_type":"image/png","width":1,"height":1}]}]',
        f'[{{"role":"user","parts":[{{"type":"image","sha256":"{"a" * 64}",'
        '"media_type":"image/svg+xml","width":1,"height":1}]}]',
        f'[{{"role":"user","parts":[{{"type":"image","sha256":"{"a" * 64}",'
        '"media_type":"image/png","width":0,"height":1}]}]',
        "null",
        "7",
    ],
)
def test_what_is_no_input_is_refused(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=Content)
