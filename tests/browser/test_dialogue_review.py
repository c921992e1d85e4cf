"""The review page of a task of kind dialogue, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from console_inputs import TALK_TASK as TASK
from console_inputs import talk_settings, talks
from console_places import needs_chromium
from console_seed import opened
from console_site import Site, expert_context, serving, watched_page
from playwright.sync_api import Browser, Page, expect

pytestmark = needs_chromium


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", talks).dispose()
    with serving(tmp_path, story, talk_settings(tmp_path)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with expert_context(browser, site.url) as context, watched_page(context) as page:
        page.goto(f"/review/{TASK}")
        yield page


def test_a_conversation_is_shown_message_by_message_and_answered(site: Site, page: Page) -> None:
    expect(page.locator("#sample")).to_have_attribute("data-id", "s0")
    messages = page.locator("#sample-text .message")
    expect(messages).to_have_count(4)
    assert [one.get_attribute("data-role") for one in messages.all()] == [
        *("system", "user", "assistant", "user")
    ]
    expect(messages.nth(1).locator("b")).to_have_text("User")
    # What is said is text, with its line ends, and never markup.
    assert messages.nth(1).locator("p").inner_text() == "Where is\nmy <b>lamp</b>?"
    direction = "(node) => getComputedStyle(node).direction"
    assert messages.nth(3).locator("p").evaluate(direction) == "rtl"
    said, answer = messages.nth(1).bounding_box(), messages.nth(2).bounding_box()
    assert said
    assert answer
    assert said["x"] < answer["x"], "who answers stands on the other side"
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#sample")).to_have_attribute("data-id", "s1")
    assert site.answers("s0", TASK) == ["delivery"]


def test_one_text_is_the_one_message_of_a_user(page: Page) -> None:
    expect(page.locator("#sample")).to_have_attribute("data-id", "s0")
    page.keyboard.press("s")
    expect(page.locator("#sample")).to_have_attribute("data-id", "s1")
    expect(page.locator("#sample-text .message")).to_have_count(1)
    expect(page.locator(".message[data-role=user] p")).to_have_text("Hello?")
    page.keyboard.press("u")
    expect(page.locator("#sample-text .message")).to_have_count(4)
