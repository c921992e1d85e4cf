"""What an expert has done is neither lost nor refused because of what they cannot see: a colleague,
another name, a session that ends, a tab that was hidden, a browser that cannot keep it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import LABELS, TASK, console_settings, opened
from console_site import Site, answer, expert_context, serving, shown, watched_page
from console_texts import TEXT_TASK, text_settings, texts
from playwright.sync_api import Browser, Page, Route, expect

from flywheel.kinds import Choice
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import skip, submit_answer
from flywheel.settings import FlywheelSettings

REVIEW = f"/review/{TASK}"
KEY = "a-long-console-key-1"
# Held samples are asked about every second.
LEASE = 3.0

pytestmark = needs_chromium


def reviewed_by(settings: FlywheelSettings, task: str, **review: object) -> FlywheelSettings:
    rules = settings.tasks[task].review.model_copy(update={"lease_seconds": LEASE, **review})
    changed = settings.tasks[task].model_copy(update={"review": rules})
    return settings.model_copy(update={"tasks": {task: changed}})


@pytest.fixture
def site(tmp_path: Path, story: Path) -> Iterator[Site]:
    with serving(tmp_path, story, reviewed_by(console_settings(tmp_path), TASK)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with expert_context(browser, site.url) as context, watched_page(context, console=False) as page:
        yield page


def by_a_colleague(site: Site, sample: str, value: str | None) -> None:
    given = Answer(sample_id=sample, annotator="bob", value=value, answered_at=datetime.now(UTC))
    use_case = skip if value is None else submit_answer
    with site.database.transaction("console") as tx:
        use_case(tx, TASK, Choice(LABELS), ReviewSettings(), given)


def test_a_sample_that_a_colleague_settles_leaves_the_screen(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    sample = shown(page)
    page.keyboard.press("3")
    by_a_colleague(site, sample, LABELS[0])
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)
    expect(page.locator("#unsaved")).to_contain_text("settled by others’ answers")


def test_a_sample_that_was_answered_in_another_window_leaves_the_screen(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    sample = shown(page)
    other = page.context.new_page()
    other.goto(REVIEW)
    assert shown(other) == sample, "both hold what this expert holds"
    other.keyboard.press("s")
    assert site.answers(sample) == [None]
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)
    expect(page.locator("#unsaved")).to_contain_text("answered by you in another window")


def test_an_answer_to_what_is_settled_is_not_to_be_given_again(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    page.route("**/next?*", lambda route: route.abort())
    sample = shown(page)
    by_a_colleague(site, sample, LABELS[0])
    answer(page, "5")
    notice = page.locator("#unsaved .notice")
    expect(notice).to_contain_text("was refused: sample")
    expect(page.get_by_role("button", name="Answer again")).to_have_count(0)
    page.get_by_role("button", name="Drop it").click()
    expect(notice).to_have_count(0)


def test_a_skip_taken_back_says_that_the_sample_was_settled_meanwhile(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    skipped = shown(page)
    page.keyboard.press("s")
    assert site.answers(skipped) == [None]
    by_a_colleague(site, skipped, LABELS[2])
    shown_now = shown(page)
    page.keyboard.press("u")
    expect(page.locator("#unsaved")).to_contain_text("Taken back. The sample is settled")
    assert shown(page) == shown_now
    with site.database.transaction(read_only=True) as tx:
        assert tx.desk.find(TASK, skipped).state == "settled"


def test_what_was_taken_back_elsewhere_is_offered_again(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    sample = answer(page, "1")
    assert site.answers(sample) == [LABELS[0]]
    page.evaluate(
        "(task) => fetch(`/api/review/${task}/undo`, { method: 'POST',"
        " headers: { 'Content-Type': 'application/json' },"
        " body: JSON.stringify({ annotator: 'ada' }) })",
        TASK,
    )
    seen = set()
    while (one := shown(page)) != sample:
        assert one not in seen
        seen.add(answer(page, "2"))


def test_another_name_on_the_page_gets_what_waits_for_that_person(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    settings = reviewed_by(console_settings(tmp_path), TASK, answers_needed=2)
    with (
        serving(tmp_path, story, settings) as site,
        expert_context(browser, site.url) as context,
        watched_page(context) as page,
    ):
        page.goto(REVIEW)
        waiting = {shown(page)}
        while page.locator("#done").is_hidden():
            waiting.add(answer(page, "1"))
            expect(page.locator("#recent .k-wait")).to_have_count(0)
        expect(page.locator("#done")).to_contain_text("Nothing waits for you")
        page.get_by_role("button", name="ada").click()
        page.get_by_label("Name").fill("Grace")
        page.keyboard.press("Enter")
        expect(page.locator("#stat-count")).to_have_text("0")
        assert answer(page, "2") in waiting
        assert answer(page, "2") in waiting
        page.keyboard.press("u")
        shown(page)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Site]:
    """A console with a key, and samples that are answered with free text."""
    path = tmp_path / "texts.db"
    opened(f"sqlite:///{path}", texts).dispose()
    settings = text_settings(tmp_path, console={"api_keys": [KEY]})
    with serving(tmp_path, path, reviewed_by(settings, TEXT_TASK)) as site:
        yield site


def sign_in(page: Page) -> None:
    page.get_by_label("Console key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()


def test_a_session_that_ends_while_somebody_types_costs_no_word(
    browser: Browser, locked: Site
) -> None:
    with (
        expert_context(browser, locked.url) as context,
        watched_page(context, console=False) as page,
    ):
        page.goto(f"/review/{TEXT_TASK}")
        sign_in(page)
        sample = shown(page)
        text = page.get_by_role("textbox", name="The right answer")
        text.fill("Half a sentence that")
        context.clear_cookies()
        expect(page.locator("#signed-out")).to_contain_text("Your session has ended")
        expect(text).to_have_value("Half a sentence that")
        text.press("End")
        text.type(" goes on")
        page.locator("#signed-out").get_by_role("link", name="Sign in again").click()
        sign_in(page)
        assert shown(page) == sample
        expect(text).to_have_value("Half a sentence that goes on")
        page.keyboard.press("Control+Enter")
        assert locked.answers(sample, TEXT_TASK) == ["Half a sentence that goes on"]
        page.reload()
        assert shown(page) != sample
        expect(text).to_have_value("We are sorry.")


def test_a_command_that_is_clicked_before_its_script_came_is_not_lost(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    with (
        serving(tmp_path, story, console_settings(tmp_path)) as site,
        expert_context(browser, site.url) as context,
        watched_page(context) as page,
    ):
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/rollout.js*", hold)
        page.goto(f"/rollout/{TASK}", wait_until="commit")
        page.get_by_role("button", name="Pause").click()
        assert not page.get_by_label("Reason").is_visible()
        (script,) = held
        script.continue_()
        page.get_by_label("Reason").fill("The data centre moves")


def test_a_reason_for_a_command_outlasts_the_session(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    settings = console_settings(tmp_path, console={"api_keys": [KEY]})
    with (
        serving(tmp_path, story, settings) as site,
        expert_context(browser, site.url) as context,
        watched_page(context, console=False) as page,
    ):
        page.goto(f"/rollout/{TASK}")
        sign_in(page)
        page.get_by_role("button", name="Pause").click()
        reason = page.get_by_label("Reason")
        reason.fill("The data centre moves")
        kept = context.cookies()
        context.clear_cookies()
        expect(page.locator("#link")).to_contain_text("Your session has ended")
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.locator("#command-problem")).to_contain_text("sign in again in another tab")
        expect(reason).to_have_value("The data centre moves")
        context.add_cookies(kept)
        page.reload()
        page.get_by_role("button", name="Pause").click()
        expect(reason).to_have_value("The data centre moves")
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.locator("#pending")).to_contain_text("The data centre moves")


def test_a_sample_that_comes_while_the_tab_is_hidden_is_answered_like_any_other(
    site: Site, page: Page
) -> None:
    page.add_init_script(
        "window.hide = (hidden) => {"
        " Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.goto(REVIEW)
    sample = shown(page)
    page.keyboard.press("4")
    # The next one comes on screen while nobody looks.
    page.evaluate("() => { hide(true); document.getElementById('submit').click(); }")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)
    page.evaluate("() => hide(false)")
    second = answer(page, "2")
    for one, label in ((sample, LABELS[3]), (second, LABELS[1])):
        assert site.answers(one) == [label]
    with site.database.transaction(read_only=True) as tx:
        (given,) = tx.desk.answers(TASK, second)
    assert 0 <= given.seconds < 10


def test_what_cannot_be_kept_stays_on_the_screen_and_says_so(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    sample = shown(page)
    page.evaluate("() => { crypto.getRandomValues = () => { throw new Error('no numbers'); }; }")
    for key in ("1", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#unsaved")).to_contain_text("could not be kept")
    assert shown(page) == sample
    page.keyboard.press("s")
    assert shown(page) == sample
    page.evaluate("() => { delete crypto.getRandomValues; }")
    page.keyboard.press("Enter")
    assert site.answers(sample) == [LABELS[0]]
