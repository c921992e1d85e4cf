"""Characters that nobody sees: they tell no two texts apart, and make no text of nothing."""

from __future__ import annotations

import re

# Unicode's Default_Ignorable_Code_Point, which NFKC_Casefold drops as well, and what shows as
# nothing besides: control characters that are no space, marks of interlinear annotation,
# noncharacters. As ranges, since `unicodedata` does not know the property.
_RANGES = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# A space by its looks, which Unicode counts among the symbols.
_BRAILLE_BLANK = "\u2800"
_invisible = re.compile(f"[{_RANGES}]+")
_visible = re.compile(rf"[^{_RANGES}\s{_BRAILLE_BLANK}]")


def without_invisible(text: str) -> str:
    """The text as it is seen; its spaces stay, of whatever kind they are."""
    if text.isascii() and text.isprintable():  # cheap, and true of most
        return text
    return _invisible.sub("", text).replace(_BRAILLE_BLANK, " ")


def is_blank(text: str) -> bool:
    """Whether there is nothing to be seen in it."""
    return _visible.search(text) is None
