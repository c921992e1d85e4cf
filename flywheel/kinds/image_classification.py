"""An image, with a text where there is one, and one of the task's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts.sample import (
    Content,
    Message,
    Part,
    TextPart,
    content_problem,
    images,
    messages_of,
)
from flywheel.errors import RequestError
from flywheel.kinds.images import LARGEST_BYTES, image_of, image_of_url
from flywheel.kinds.kind import Kind
from flywheel.kinds.reading import ChatMessage, Image, ImageName, Input, Load


def image_of_user(messages: Sequence[ChatMessage]) -> Input:
    """The one image, and the texts, of the one message there is, which is the user's."""
    if [message.role for message in messages] != ["user"]:
        raise RequestError(
            "messages: one message of the user is expected, with an image and, if it has one, its "
            "text",
            param="messages",
        )
    content = messages[0].content
    if not isinstance(content, list):
        raise RequestError(
            "messages[0].content: parts are expected, one of them an image "
            '({"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}})',
            param="messages",
        )
    parts: list[Part] = []
    images: list[Image] = []
    for index, part in enumerate(content):
        try:
            taken = _part(part)
        except ValueError as error:
            raise RequestError(f"messages[0].content[{index}]: {error}", param="messages") from None
        if isinstance(taken, Image):
            images.append(taken)
            parts.append(taken.part)
        else:
            parts.append(taken)
    if len(images) != 1:
        raise RequestError(
            f"messages[0].content: it has {len(images)} images; a sample has one", param="messages"
        )
    return Input((Message("user", tuple(parts)),), tuple(images))


def _part(part: Any) -> TextPart | Image:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if kind == "image_url":
        named = part.get("image_url")
        url = named.get("url") if isinstance(named, dict) else None
        if not isinstance(url, str):
            raise ValueError("it has no image_url.url")
        return image_of_url(url)
    raise ValueError(f"a part of type {kind!r} is neither a text nor an image_url")


def image_in_line(item: Mapping[str, Any], load: Load) -> Input:
    """The image that a line of a file names by its path beside the file, or holds as a data: URL,
    with the line's text."""
    named, text = item.get("image"), item.get("text")
    if not isinstance(named, str) or not named:
        fields = ", ".join(list(item)[:10]) or "none"
        raise ValueError(f'"image" names no file; it has the fields {fields}')
    if text is not None and not isinstance(text, str):
        raise ValueError("the text is no text")
    if named[:5].lower() == "data:":
        image = image_of_url(named)
    else:
        try:
            data = load(named)
        except OSError as error:
            raise ValueError(f"{named!r} cannot be read ({error.strerror})") from None
        try:
            image = image_of(data)
        except ValueError as error:
            raise ValueError(f"{named!r}: {error}") from None
    parts: tuple[Part, ...] = (image.part, TextPart(text)) if text else (image.part,)
    content = (Message("user", parts),)
    if problem := content_problem(content):
        raise ValueError(problem)
    return Input(content, (image,))


def image_to_line(content: Content, image_name: ImageName) -> dict[str, Any]:
    """The image of a line of a file by its name beside it, and its text if there is one."""
    [image] = images(content)
    parts = [part for message in messages_of(content) for part in message.parts]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return {"image": image_name(image)} | ({"text": "\n".join(texts)} if texts else {})


KIND = Kind(
    name="image-classification",
    has_labels=True,
    models=(),
    read=image_of_user,
    from_line=image_in_line,
    to_line=image_to_line,
    line='{"image": "PATH or data: URL", "text": "…", "label": "…"}',
    reader="lines",
    input_part="image",
    no_classify="reads images, and /v1/classify takes one text",
    listed={"kind": "image-classification"},
    # In base64, with what stands around it.
    largest_body=LARGEST_BYTES * 4 // 3 + (64 << 10),
)
