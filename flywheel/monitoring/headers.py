"""Text in HTTP headers: UTF-8 both ways, as in bodies."""

from __future__ import annotations


def header_text(value: str) -> str | None:
    """What a client wrote in a header, or None where its bytes are no UTF-8.

    ``value`` is as ASGI frameworks hand it over: each byte as one character (Latin-1). Read like
    that, a name outside ASCII would be another one than the same name in a JSON body.
    """
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None


def header_value(text: str) -> str:
    """``text`` for a framework that writes each character of a header as one byte."""
    return text if text.isascii() else text.encode("utf-8").decode("latin-1")
