"""Small images, made here."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image, ImageDraw

PIL_NAMES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}


def picture(
    media_type: str = "image/png", size: tuple[int, int] = (12, 8), colour: str = "teal"
) -> bytes:
    """A disc on white."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((1, 1, size[0] - 2, size[1] - 2), fill=colour)
    out = io.BytesIO()
    image.save(out, PIL_NAMES[media_type])
    return out.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checked = name + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    """A WebP that says it is so large, and holds nothing."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body
