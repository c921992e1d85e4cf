"""The review page of a task with 77 labels, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import opened
from console_site import Site, expert_context, serving, watched_page
from console_wide import INTENTS, TITLES, WIDE, wide, wide_settings
from playwright.sync_api import Browser, Page, expect

REVIEW = f"/review/{WIDE}"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 667}

pytestmark = needs_chromium


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", lambda database: wide(database, tmp_path / "releases")).dispose()
    with serving(tmp_path, story, wide_settings(tmp_path)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with (
        expert_context(browser, site.url, viewport=DESKTOP) as context,
        watched_page(context) as page,
    ):
        yield page


def shows(page: Page, sample: str) -> None:
    expect(page.locator("#sample")).to_have_attribute("data-id", sample)


def queries(label: str) -> list[str]:
    """What one would type of a label: its beginning, that of one of its words, its initials."""
    words = label.split("_")
    whole, initials = " ".join(words), "".join(word[0] for word in words)
    beginnings = (text[:end] for text in (whole, initials, *words) for end in range(1, 8))
    return sorted({text for text in beginnings if text.strip()}, key=len)


def shortest(page: Page) -> dict[str, tuple[str, ...]]:
    """The fewest keys to each label, the last of them Enter, by the page's own ranking."""
    found = page.evaluate(
        "async ([source, texts, queries]) => {"
        " const { matching } = await import(source);"
        " return Object.fromEntries(queries.map((query) => [query, matching(query, texts)])) }",
        [
            page.evaluate(
                "performance.getEntriesByType('resource')"
                ".find((one) => one.name.includes('label-filter')).name"
            ),
            [[intent, TITLES[intent]] for intent in INTENTS],
            sorted(set(chain.from_iterable(map(queries, INTENTS)))),
        ],
    )
    keys = {}
    for number, label in enumerate(INTENTS):
        ways = [
            ("/", *query, *["ArrowDown"] * found[query].index(number), "Enter", "Enter")
            for query in queries(label)
        ]
        if number < 9:
            ways.append((str(number + 1), "Enter"))
        keys[label] = min(ways, key=len)
    return keys


def test_any_of_77_labels_takes_five_keys_on_average(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    shows(page, "w-00")
    keys = shortest(page)
    for number, label in enumerate(INTENTS):
        shows(page, f"w-{number:02d}")
        for key in keys[label]:
            page.keyboard.press(key)
    expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    given = [site.answers(f"w-{number:02d}", WIDE) for number in reversed(range(len(INTENTS)))]
    assert given == [[label] for label in reversed(INTENTS)]
    average = sum(map(len, keys.values())) / len(keys)
    print(f"{average:.2f} keys a label, {max(map(len, keys.values()))} at most")
    assert average <= 5
    assert max(map(len, keys.values())) <= 7


@pytest.mark.parametrize("of_the_method", [{"isComposing": True}, {"keyCode": 229}])
def test_the_key_that_ends_a_composition_chooses_nothing(
    page: Page, of_the_method: dict[str, object]
) -> None:
    """As input methods for Chinese or Japanese send it; WebKit tells it by its code alone."""
    page.goto(REVIEW)
    shows(page, "w-00")
    page.keyboard.press("/")
    page.keyboard.type("refund")
    enter = {"key": "Enter", "bubbles": True, "cancelable": True}
    sent = page.locator("#filter").evaluate(
        "(box, init) => box.dispatchEvent(new KeyboardEvent('keydown', init))",
        enter | of_the_method,
    )
    assert sent, "nobody took it"
    expect(page.get_by_role("radio", checked=True)).to_have_count(0)
    assert not page.locator("#filter").evaluate(
        "(box, init) => box.dispatchEvent(new KeyboardEvent('keydown', init))", enter
    )
    expect(page.get_by_role("radio", checked=True)).to_have_count(1)


def test_while_a_label_is_looked_for_letters_are_letters(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    shows(page, "w-00")
    page.keyboard.press("/")
    box = page.get_by_role("searchbox", name="Find a label")
    expect(box).to_be_focused()
    page.keyboard.type("sumr?jk1/")
    expect(box).to_have_value("sumr?jk1/")
    shows(page, "w-00")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("No label matches")).to_be_visible()
    page.keyboard.press("Enter")
    shows(page, "w-00")
    expect(page.get_by_role("radio", checked=True)).to_have_count(0)

    page.keyboard.press("Escape")
    expect(box).to_have_value("")
    expect(page.locator(".choice:visible")).to_have_count(77)
    page.keyboard.press("/")
    page.keyboard.type("PÍN b")
    expect(page.locator(".choice:visible")).to_have_text(["Pin blocked"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", checked=True)).to_have_value("pin_blocked")
    shows(page, "w-00")
    page.keyboard.press("s")
    shows(page, "w-01")
    assert site.answers("w-00", WIDE) == [None]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_text_and_submit_stay_in_view_whichever_label_is_chosen(page: Page, size: dict) -> None:
    page.set_viewport_size(size)
    page.goto(REVIEW)
    shows(page, "w-00")
    tiles = page.locator(".choice")
    across = len({tiles.nth(n).bounding_box()["y"] for n in range(12)})  # type: ignore[index]
    assert across < 12, "tiles wrap"
    for key in ("1", "k", "k"):  # the first, the last, the one before
        page.keyboard.press(key)
        for part in ("#submit", "#sample-text", ".choice:has(:checked)"):
            expect(page.locator(part)).to_be_in_viewport(ratio=0.9)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
