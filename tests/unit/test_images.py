"""Images as clients send them: what their bytes are is what counts."""

from __future__ import annotations

import base64
import hashlib
from typing import get_args

import pytest
from images import data_url, picture, png_of, webp_of

from flywheel.contracts.sample import MediaType
from flywheel.kinds.images import LARGEST_BYTES, image_of, image_of_url

TYPES = get_args(MediaType)


@pytest.mark.parametrize("media_type", TYPES)
def test_type_and_size_are_those_of_the_bytes(media_type: str) -> None:
    data = picture(media_type, (21, 13))
    image = image_of(data)
    assert (image.part.media_type, image.part.width, image.part.height) == (media_type, 21, 13)
    assert image.part.sha256 == hashlib.sha256(data).hexdigest()
    assert image.data == data
    assert image_of_url(data_url(data, media_type)) == image


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png_of(60_000, 60_000), id="png, more than a bomb"),
        pytest.param(png_of(10_000, 10_000), id="png, nearly a bomb"),
        pytest.param(webp_of(16_000, 16_000), id="webp"),
    ],
)
def test_what_says_it_is_huge_is_refused_before_it_is_decoded(data: bytes) -> None:
    with pytest.raises(ValueError, match="more pixels than are accepted"):
        image_of(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        picture("image/png")[:-20],
        b"RIFF\x10\0\0\0WEBPVP8X",
        b"BM" + b"\0" * 60,
        b"%PDF-1.7",
        b"\xff\xd8\xff",
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no image that can be read"):
        image_of(data)


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        image_of(picture() + b"\0" * LARGEST_BYTES)
    with pytest.raises(ValueError, match="larger than"):
        image_of_url(data_url(b"\0" * (LARGEST_BYTES + 10)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/cat.png", "nothing is fetched"),
        ("file:///etc/hosts", "nothing is fetched"),
        ("data:image/png;base64", "nothing is fetched"),
        ("data:image/png,abc", "in base64"),
        ("data:image/png;base64,%%%", "damaged"),
        ("data:image/png;base64," + base64.b64encode(b"no image").decode(), "no image that can"),
        (data_url(picture("image/jpeg")), "the bytes are image/jpeg"),
        (data_url(picture(), "image/svg+xml"), "the bytes are image/png"),
    ],
)
def test_what_an_url_says_must_be_so(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        image_of_url(url)


def test_a_jpeg_that_is_cut_short_is_kept_as_it_is() -> None:
    data = picture("image/jpeg", (64, 64))
    assert image_of(data[: len(data) // 2 + 200]).part.width == 64
