"""The console of a task that answers with free text, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import opened
from console_site import Site, expert_context, serving, watched_page
from console_texts import TEXT_TASK as TASK
from console_texts import text_settings, texts
from playwright.sync_api import Browser, Page, expect

REVIEW = f"/review/{TASK}"

pytestmark = needs_chromium


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", texts).dispose()
    with serving(tmp_path, story, text_settings(tmp_path)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with (
        expert_context(browser, site.url, viewport={"width": 1280, "height": 860}) as context,
        watched_page(context) as page,
    ):
        yield page


def shows(page: Page, sample: str) -> None:
    expect(page.locator("#sample")).to_have_attribute("data-id", sample)


def test_an_expert_accepts_rewrites_skips_and_undoes_by_keyboard(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    shows(page, "first")
    text = page.get_by_role("textbox", name="The right answer")
    expect(text).to_have_value("It is\non its way.")
    expect(page.locator(".choice")).to_have_count(0)
    expect(page.locator("#text-note")).to_contain_text("91")
    page.keyboard.press("a")
    shows(page, "second")
    assert site.answers("first", TASK) == ["It is\non its way."]

    page.keyboard.press("e")
    expect(text).to_be_focused()
    page.keyboard.type(" S a u 1 Enter? ")  # in the box, keys are letters
    page.keyboard.press("Enter")
    page.keyboard.type("Truly.")
    shows(page, "second")
    page.keyboard.press("Escape")
    page.keyboard.press("a")  # changed: not accepted unchanged
    shows(page, "second")
    page.keyboard.press("m")
    expect(text).to_have_value("We are sorry.")
    page.keyboard.press("m")
    expect(text).to_have_value("We are sorry. S a u 1 Enter? \nTruly.")
    page.keyboard.press("Control+Enter")
    shows(page, "third")
    assert site.answers("second", TASK) == ["We are sorry. S a u 1 Enter? \nTruly."]

    page.keyboard.press("u")
    shows(page, "second")
    expect(text).to_have_value("We are sorry. S a u 1 Enter? \nTruly.")
    with site.database.transaction(read_only=True) as tx:
        assert tx.desk.answers(TASK, "second") == []
    page.keyboard.press("s")
    shows(page, "third")
    assert site.answers("second", TASK) == [None]


def test_an_empty_or_endless_answer_cannot_be_sent(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    shows(page, "first")
    page.keyboard.press("Enter")
    shows(page, "second")
    page.keyboard.press("Enter")
    shows(page, "third")
    assert site.answers("second", TASK) == ["We are sorry."]
    text, send = page.locator("#text"), page.locator("#submit")
    expect(page.locator("#sample-text")).to_have_text("Do you sell <b>lamps</b>?")
    expect(page.locator("#text-note")).to_contain_text("the model wrote nothing")
    expect(send).to_be_disabled()
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    shows(page, "third")
    text.fill("  \n ")
    expect(send).to_be_disabled()
    text.fill("x" * 8001)
    expect(send).to_be_disabled()
    expect(page.locator("#text-note")).to_contain_text("8001 characters; at most 8000")
    text.fill("  Yes, in \U0001f4a1 many shapes.\n")
    send.click()
    expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    assert site.answers("third", TASK) == ["Yes, in \U0001f4a1 many shapes."]
    expect(page.locator("#recent li")).to_have_count(3)


def test_the_keys_are_explained_and_focus_shows(page: Page) -> None:
    page.goto(REVIEW)
    shows(page, "first")
    page.keyboard.press("Tab")
    expect(page.locator("#text")).to_be_focused()
    style = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert style == "2px"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("accept what the model wrote")
    expect(dialog).not_to_contain_text("choose a label")


def test_other_pages_do_without_labels(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#node-labels")).to_contain_text("1")
    answer = page.goto(f"/rollout/{TASK}")
    assert answer is not None
    assert answer.status == 200
    page.goto(f"/releases/{TASK}")
    page.locator("#r-replies-1").click()
    expect(page.locator(".model-card")).to_contain_text("answers a text with a text of its own")
    expect(page.locator("main")).to_contain_text("chrF, 0 to 100")
    expect(page.locator("main")).to_contain_text("nrefs:1|case:mixed")
    expect(page.locator(".confusion")).to_have_count(0)
