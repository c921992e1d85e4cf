"""What may be the name of a label: one that a reader can tell from the others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from flywheel.contracts.answers import normalised
from flywheel.contracts.invisible import is_blank, without_invisible

# A tile in the review page, a column in a table of confusions.
LONGEST_LABEL = 200

# Writing that needs characters nobody sees: joiners between letters, and which form a sign takes.
_WRITTEN = re.compile(r"(?<=\S)[\u200c\u200d](?=\S)|(?<=\S)[\ufe0e\ufe0f]")
# Letters of other scripts, dashes and quotation marks that a reader takes for these.
_LOOKS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρι‐‑‒–—−‘’‛′“”″ıɡ",
    "ABESIJKMHOPCTYXaesijopcyxhdqwABEZHIKMNOPTYXovpi------" + "'" * 4 + '"' * 3 + "ig",
)


def labels_problem(labels: Sequence[str]) -> str | None:
    """Why these cannot be the labels of a task, or None.

    Labels that look alike would be one label to whoever reads them, and two to the model.
    """
    if len(labels) < 2:
        return "at least two different labels are needed"
    return names_problem(labels)


def names_problem(names: Sequence[str]) -> str | None:
    """Why a reader could not tell these names apart, or None: one is blank, longer than what is
    shown, or has something that nobody sees; or two differ in nothing that shows."""
    seen: dict[str, str] = {}
    for name in names:
        problem = _name_problem(name)
        if problem:
            return problem
        looks = {normalised(name), normalised(name.translate(_LOOKS))}
        twin = next((seen[one] for one in looks if one in seen), None)
        if twin == name:
            return f"{name!r} stands there twice"
        if twin is not None:
            return (
                f"{twin!r} and {name!r} look alike: they differ in case, spacing, width, "
                f"composition or letters that look the same alone ({twin!a}, {name!a})"
            )
        seen |= dict.fromkeys(looks, name)
    return None


def _name_problem(name: str) -> str | None:
    if is_blank(name):
        return f"{name!a} is blank"
    if name != name.strip():
        return f"{name!r} has space around it"
    if len(name) > LONGEST_LABEL:
        return f"{name[:30]!r}… has {len(name)} characters; at most {LONGEST_LABEL} are shown"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return f"{name!r} has a control character"
    unseen = next((c for c in _WRITTEN.sub("", name) if without_invisible(c) != c), None)
    if unseen is not None:
        return f"{name!a} has a character that nobody sees, U+{ord(unseen):04X}"
    return None
