"""Images as clients send them: checked by their own bytes, whatever is said of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
from collections.abc import Mapping
from typing import get_args

from flywheel.contracts.sample import LARGEST_SIDE, ImagePart, MediaType
from flywheel.kinds.reading import LARGEST_FILE, Image

MEDIA_TYPES: tuple[MediaType, ...] = get_args(MediaType)
LARGEST_BYTES = LARGEST_FILE
# A page decodes it whole, four bytes each; a phone's camera makes 12 million by default.
MOST_PIXELS = 40_000_000
_TOO_MANY = f"the image has more pixels than are accepted, {MOST_PIXELS:,}"
_FORMATS: Mapping[str, MediaType] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


def image_of(data: bytes) -> Image:
    """The image in ``data``: its type and size as its bytes say, its pixels never decoded.

    Raises ValueError, saying what is wrong, for what is none of ``MEDIA_TYPES``, is larger than the
    limits, or is damaged as far as can be told without decoding it.
    """
    from PIL import Image as Pillow

    if len(data) > LARGEST_BYTES:
        raise ValueError(f"the image has {len(data)} bytes; at most {LARGEST_BYTES} are accepted")
    # Pillow makes room for a WebP image while it opens it.
    if _webp_pixels(data) > MOST_PIXELS:
        raise ValueError(_TOO_MANY)
    try:
        with Pillow.open(io.BytesIO(data), formats=tuple(_FORMATS)) as image:
            named, (width, height) = image.format or "", image.size
            image.verify()
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise ValueError(_TOO_MANY) from None
    except (OSError, ValueError, SyntaxError, struct.error, EOFError, KeyError, IndexError):
        known = ", ".join(one.removeprefix("image/") for one in MEDIA_TYPES)
        raise ValueError(f"it is no image that can be read ({known})") from None
    if width * height > MOST_PIXELS:
        raise ValueError(_TOO_MANY)
    if max(width, height) > LARGEST_SIDE:
        raise ValueError(f"the image is {width}×{height}; a side has at most {LARGEST_SIDE} pixels")
    digest = hashlib.sha256(data).hexdigest()
    return Image(ImagePart(digest, _FORMATS[named], width, height), data)


def image_of_url(url: str) -> Image:
    """The image of a data: URL. Raises ValueError for any other, and as ``image_of`` does."""
    head, comma, body = url.partition(",")
    scheme, _, described = head.partition(":")
    media_type, *more = described.split(";")
    if scheme.lower() != "data" or not comma:
        raise ValueError(
            "an image comes as a data: URL, such as data:image/png;base64,…; nothing is fetched"
        )
    if "base64" not in [one.strip().lower() for one in more]:
        raise ValueError("a data: URL of an image is in base64")
    # Three bytes are four characters.
    if len(body) * 3 // 4 > LARGEST_BYTES + 3:
        raise ValueError(f"the image is larger than {LARGEST_BYTES} bytes")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the base64 of the image is damaged") from None
    image = image_of(data)
    if media_type.strip().lower() != image.part.media_type:
        raise ValueError(f"the URL says {media_type!r}, the bytes are {image.part.media_type}")
    return image


def _webp_pixels(data: bytes) -> int:
    """How many pixels a WebP image says that it has (RFC 9649, sections 2.5 to 2.7); 0: no WebP."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0
    if data[12:16] == b"VP8X":
        return (_little(data[24:27]) + 1) * (_little(data[27:30]) + 1)
    if data[12:16] == b"VP8L":
        sides = _little(data[21:25])
        return ((sides & 0x3FFF) + 1) * ((sides >> 14 & 0x3FFF) + 1)
    return (_little(data[26:28]) & 0x3FFF) * (_little(data[28:30]) & 0x3FFF)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
