"""What a browser refuses, lacks or does otherwise takes no control with it: charts, data it keeps,
a console that is away, paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import TASK, console_settings
from console_site import Site, expert_context, serving
from playwright.sync_api import Browser, Page, Route, expect

REVIEW = f"/review/{TASK}"
KEY = "a-long-console-key-1"

pytestmark = [needs_chromium, pytest.mark.slow]


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with expert_context(browser, site.url) as context:
        yield context.new_page()


NO_LANGUAGE = "Object.defineProperty(navigator, 'language', { value: 'C', configurable: true })"
FAILING = {
    "no canvas": "HTMLCanvasElement.prototype.getContext = () => null",
    "no observer": "delete window.ResizeObserver",
    "no clock of its own": "Intl.DateTimeFormat = () => { throw new RangeError('no zone'); }",
    "another uPlot": "Object.defineProperty(window, 'uPlot', { value: 3 })",
}


def is_current(site: Site, page: Page) -> None:
    """The overview shows what has just happened, and its buttons do something."""
    expect(page.locator("#link")).to_have_text("Live")
    with site.database.transaction() as tx:
        tx.rollouts.set_champion(TASK, f"{TASK}-fedcba9", None)
    expect(page.locator("#now")).to_contain_text("fedcba9")
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: light")


@pytest.mark.parametrize("script", FAILING.values(), ids=FAILING)
def test_an_overview_whose_charts_fail_stays_current(site: Site, page: Page, script: str) -> None:
    page.add_init_script(script)
    page.goto("/")
    is_current(site, page)


def test_without_the_chart_library_the_overview_stays_current_and_says_so(
    site: Site, page: Page
) -> None:
    page.route("**/assets/uplot.js*", lambda route: route.abort())
    page.goto("/")
    said = "This chart cannot be drawn in this browser."
    expect(page.locator("#chart-traffic")).to_have_text(said)
    is_current(site, page)


def test_a_language_that_is_none_costs_no_chart(site: Site, page: Page) -> None:
    page.add_init_script(NO_LANGUAGE)
    page.goto("/")
    expect(page.locator("#chart-traffic canvas")).to_be_visible()
    is_current(site, page)


FONTS = """const drawn = CanvasRenderingContext2D.prototype.fillText;
window.fonts = new Set();
CanvasRenderingContext2D.prototype.fillText = function (...given) {
  window.fonts.add(parseFloat(this.font.match(/([\\d.]+)px/)[1]));
  return drawn.apply(this, given);
};"""


@pytest.mark.parametrize("ratio", [1, 2])
def test_axes_are_as_large_on_a_dense_screen(browser: Browser, site: Site, ratio: float) -> None:
    with expert_context(browser, site.url, device_scale_factor=ratio) as context:
        page = context.new_page()
        page.add_init_script(FONTS)
        page.goto("/")
        expect(page.locator("#chart-traffic canvas")).to_be_visible()
        assert set(page.evaluate("[...fonts]")) == {12 * ratio}


@pytest.mark.parametrize("kept", ["5", "{", "[]", '{"seconds": 3}'])
def test_whatever_a_browser_has_kept_the_review_page_works(page: Page, kept: str) -> None:
    page.add_init_script(
        f"const kept = {json.dumps(kept)}; const name = 'flywheel.review.{TASK}';"
        "for (const key of ['unsaved', 'drafts']) localStorage.setItem(`${name}.${key}`, kept);"
        "sessionStorage.setItem(`${name}.session`, kept);"
        "localStorage.setItem('flywheel.theme', kept);"
    )
    page.goto(REVIEW)
    sample = page.locator("#sample")
    expect(sample).to_be_visible()
    before = sample.get_attribute("data-id") or ""
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(sample).not_to_have_attribute("data-id", before)
    expect(page.locator("#stat-count")).to_have_text("1")


def never(route: Route) -> None:
    """A console that takes a request and does not answer it."""


@pytest.mark.parametrize("path", [REVIEW, "/", f"/rollout/{TASK}"])
def test_a_console_that_hangs_is_told_from_one_that_is_away(
    browser: Browser, tmp_path: Path, story: Path, path: str
) -> None:
    # With samples at hand the review page asks again once a third of their lease is over.
    settings = console_settings(tmp_path, lease_seconds=3.0)
    with (
        serving(tmp_path, story, settings) as site,
        expert_context(browser, site.url) as context,
    ):
        page = context.new_page()
        hangs_then_is_away(page, path)


def hangs_then_is_away(page: Page, path: str) -> None:
    # The page's own patience, cut short.
    page.add_init_script("AbortSignal.timeout = (real => () => real(200))(AbortSignal.timeout)")
    page.goto(path)
    link = page.locator("#link")
    expect(link).to_have_text("Live")
    hung = "**/api/**" if path == REVIEW else "**" + path
    page.route(hung, never)
    expect(link).to_contain_text("The console took too long to answer", timeout=25_000)
    page.unroute(hung)
    page.route(hung, lambda route: route.abort())
    expect(link).to_contain_text("The console cannot be reached", timeout=25_000)


def test_a_command_that_gets_no_answer_is_not_called_undone(page: Page) -> None:
    page.add_init_script("AbortSignal.timeout = (real => () => real(200))(AbortSignal.timeout)")
    page.goto(f"/rollout/{TASK}")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Reason").fill("The data centre moves")
    send = page.get_by_role("dialog").get_by_role("button", name="Pause")
    problem = page.locator("#command-problem")
    page.route("**/commands", never)
    send.click()
    expect(problem).to_contain_text("Not known whether it was taken")
    page.unroute("**/commands")
    page.route("**/commands", lambda route: route.abort())
    send.click()
    expect(problem).to_contain_text("Nothing was changed")


def test_a_page_that_comes_back_from_the_page_cache_answers(site: Site, page: Page) -> None:
    back = "window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
    page.goto(REVIEW)
    expect(page.locator("#sample")).to_be_visible()
    page.evaluate(
        "() => { window.before = true; document.getElementById('submit').disabled = true; }"
    )
    with page.expect_navigation():
        page.evaluate(back)
    assert page.evaluate("window.before") is None, "loaded anew"
    page.goto(f"/rollout/{TASK}")
    page.get_by_role("button", name="Pause").click()
    page.evaluate("() => { document.getElementById('command-do').disabled = true; }")
    page.evaluate(back)
    expect(page.get_by_role("dialog").get_by_role("button", name="Pause")).to_be_enabled()


def test_a_browser_that_refuses_cookies_is_told_before_it_signs_in_in_vain(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    settings = console_settings(tmp_path, console={"api_keys": [KEY]})
    with (
        serving(tmp_path, story, settings) as site,
        expert_context(browser, site.url) as context,
    ):
        page = context.new_page()
        page.goto("/login")
        expect(page.get_by_role("alert")).to_have_count(0)
        page.add_init_script("Object.defineProperty(navigator, 'cookieEnabled', { value: false })")
        page.goto("/login")
        expect(page.get_by_role("alert")).to_contain_text("refuses this page’s cookies")


@pytest.mark.parametrize("path", ["/", REVIEW, f"/rollout/{TASK}", f"/releases/{TASK}"])
def test_a_page_is_printed_from_its_top_and_whole(page: Page, path: str) -> None:
    page.goto(path)
    page.emulate_media(media="print")
    expect(page.locator(".side")).to_be_hidden()
    top = page.locator("main").evaluate("(main) => main.getBoundingClientRect().top")
    assert top < 50
    # What browsers cannot break over pages they move as a whole, and leave the first one empty.
    unbroken = page.evaluate(
        "[document.body, document.querySelector('.frame'), document.querySelector('main')]"
        ".filter((box) => !['block', 'flow-root'].includes(getComputedStyle(box).display)).length"
    )
    assert unbroken == 0
