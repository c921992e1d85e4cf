"""What the review page owes an expert when something is unlike the usual: undo, no server, another
keyboard, another direction of writing, a browser that keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from console_places import browser_binary, needs_chromium
from console_seed import LABELS, TASK, console_settings, release_id
from console_site import Site, answer, expert_context, serving, shown, watched_page
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.rollout.ports import Transition

REVIEW = f"/review/{TASK}"
ARABIC = "أين وجدت لغة الإسبرانتو؟"

pytestmark = needs_chromium


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    with expert_context(browser, site.url) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    with watched_page(context, console=False) as page:
        yield page


def chosen(page: Page) -> str | None:
    radio = page.get_by_role("radio", checked=True)
    return radio.get_attribute("value") if radio.count() else None


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "not sent yet"])
def test_undo_brings_each_sample_back_with_what_was_chosen(
    site: Site, page: Page, sent: bool
) -> None:
    page.goto(REVIEW)
    if not sent:
        page.route("**/answer", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    first, second = answer(page, "2"), answer(page, "5")
    skipped = shown(page)
    page.keyboard.press("s")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", skipped)
    if sent:
        assert site.answers(skipped) == [None]
        page.reload()
        shown(page)
    for sample, label in ((skipped, None), (second, LABELS[4]), (first, LABELS[1])):
        page.keyboard.press("u")
        expect(page.locator("#sample")).to_have_attribute("data-id", sample)
        assert chosen(page) == label
    expect(page.locator("#stat-count")).to_have_text("0")
    page.unroute("**/answer")
    page.keyboard.press("Enter")
    assert site.answers(first) == [LABELS[1]], "sent again as it was"


def test_an_undo_outlasts_a_load_that_left_before_it(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    page.route("**/answer", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    held: list[Route] = []
    page.route("**/next?*", lambda route: held.append(route))  # noqa: PLW0108 - asked for its arguments
    first = answer(page, "2")
    page.keyboard.press("u")
    expect(page.locator("#sample")).to_have_attribute("data-id", first)
    for route in held:
        with page.expect_response("**/next?*"):
            route.continue_()
    # What the reply did to the page is done by the time the page answers again.
    page.evaluate("() => new Promise((done) => setTimeout(done, 100))")
    assert held
    assert shown(page) == first
    assert chosen(page) == LABELS[1]


def test_without_the_server_the_page_says_so_and_not_that_nothing_waits(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    expect(page.locator("#queue-claimed")).to_have_text("2")
    page.route("**/api/**", lambda route: route.abort())
    answer(page, "1")
    sample = shown(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    done = page.locator("#done")
    expect(done).to_contain_text("cannot be reached")
    expect(done).to_contain_text("Your answers are kept here")
    expect(done).not_to_contain_text("Nothing waits")
    expect(page.locator("#link")).to_contain_text("cannot be reached")

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"detail": "the database is locked"})

    page.unroute("**/api/**")
    page.route("**/next?*", refuse)
    expect(done).to_contain_text("The database is locked")
    page.unroute("**/next?*")
    assert shown(page) not in ("", sample)
    assert site.answers(sample) == [LABELS[1]]


def test_a_queue_that_waits_for_others_is_told_apart_from_an_empty_one(
    site: Site, page: Page
) -> None:
    with site.database.transaction() as tx:
        held = len(tx.desk.claim(TASK, "grace", datetime.now(UTC), 600, 1000))
    page.goto(REVIEW)
    done = page.locator("#done")
    expect(done).to_contain_text("Nothing waits for you")
    expect(done).to_contain_text(f"{held} in the queue are for others: held by another expert")
    expect(done).to_contain_text("5\u202f% of all answered requests, drawn at random")


def test_over_plain_http_from_another_machine_answers_are_kept_and_sent(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    """There a page is no secure context, and half of the browser's interfaces are missing."""
    key = "a-long-console-key-1"
    settings = console_settings(tmp_path, console={"api_keys": [key]})
    with serving(tmp_path, story, settings) as site:
        by_name = browser.browser_type.launch(
            executable_path=browser_binary(),
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * 127.0.0.1"],
        )
        port = site.url.rpartition(":")[2]
        page = by_name.new_page(base_url=f"http://console.example:{port}")
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(REVIEW)
        page.get_by_label("Console key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        assert not page.evaluate("isSecureContext")
        page.get_by_label("Name").fill("Grace")
        page.keyboard.press("Enter")
        sample = answer(page, "3")
        assert site.answers(sample) == [LABELS[2]]
        page.keyboard.press("u")
        expect(page.locator("#sample")).to_have_attribute("data-id", sample)
        page.goto("/")
        expect(page.locator("#chart-traffic canvas")).to_be_visible()
        page.goto(f"/rollout/{TASK}")
        page.get_by_role("button", name="Pause").click()
        page.get_by_label("Reason").fill("The data centre moves")
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.locator("#pending")).to_contain_text("The data centre moves")
        assert not problems
        by_name.close()


def test_text_from_right_to_left_is_shown_so_on_every_page(
    browser: Browser, tmp_path: Path, story: Path
) -> None:
    title, label = "نوع السؤال", "مكان"
    settings = console_settings(tmp_path)
    task = settings.tasks[TASK].model_copy(
        update={
            "title": title,
            "label_titles": {one: f"{label} {n}" for n, one in enumerate(LABELS)},
            "review": settings.tasks[TASK].review.model_copy(update={"guideline": ARABIC}),
        }
    )
    with (
        serving(tmp_path, story, settings.model_copy(update={"tasks": {TASK: task}})) as site,
        browser.new_context(base_url=site.url) as context,
    ):
        _write_from_right_to_left(site)
        context.add_init_script("localStorage.setItem('flywheel.annotator', 'آدا')")
        page = context.new_page()
        page.goto(REVIEW)
        answer(page, "1")
        shown(page)
        for path in (None, "/", f"/rollout/{TASK}", f"/releases/{TASK}/{release_id(4)}"):
            if path:
                page.goto(path)
            texts = page.evaluate(DIRECTIONS)
            assert texts, path
            assert [words for words, direction in texts if direction != "rtl"] == [], path
        page.goto(REVIEW)
        page.locator("#rename").click()
        directions = page.locator("#who-name").evaluate("(box) => getComputedStyle(box).direction")
        assert directions == "rtl"


# Each text that begins with a letter of Arabic, and the direction it is laid out in.
DIRECTIONS = r"""(() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const { textContent, parentElement } = walk.currentNode;
    if (parentElement.closest("script, title, [hidden], #say")) continue;
    if (!/^\s*\p{Script=Arabic}/u.test(textContent)) continue;
    found.push([textContent.trim(), getComputedStyle(parentElement).direction]);
  }
  return found;
})()"""


def _write_from_right_to_left(site: Site) -> None:
    with site.database.transaction() as tx:
        tx.intake.open(
            [
                ReviewRequested(
                    event_id=new_id(), occurred_at=datetime.now(UTC), task=TASK,
                    sample_id=f"rtl-{n}", content=ARABIC, reason="random audit", priority=99,
                    inclusion_probability=0.1, audit=True, source="تطبيق",
                )
                for n in range(3)
            ]
        )  # fmt: skip
        active = tx.rollouts.active(TASK)
        moved = msgspec.structs.replace(active, reason=ARABIC)
        tx.rollouts.save(
            moved,
            Transition(
                rollout_id=moved.rollout_id, at=datetime.now(UTC), state=moved.state,
                share=moved.share, decided_by="آدا", reason=ARABIC,
            ),
        )  # fmt: skip


def test_a_text_that_the_model_did_not_read_whole_says_so(site: Site, page: Page) -> None:
    with site.database.transaction() as tx:
        tx.intake.open(
            [
                ReviewRequested(
                    event_id=new_id(), occurred_at=datetime.now(UTC), task=TASK, sample_id=sample,
                    content="long", reason="random audit", priority=99 - cut, tokens_cut=cut,
                    inclusion_probability=0.1, audit=True,
                )
                for sample, cut in (("whole", 0), ("cut", 17))
            ]
        )  # fmt: skip
    page.goto(REVIEW)
    said = page.get_by_text("the model did not read all: 17 tokens cut off")
    for sample in ("whole", "cut"):
        expect(page.locator("#sample")).to_have_attribute("data-id", sample)
        expect(said).to_have_count(int(sample == "cut"))
        answer(page, "1")


REFUSED = """for (const kind of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, kind, {
    get() { throw new DOMException("refused", "SecurityError"); },
  });"""


def test_a_browser_that_keeps_nothing_can_review_roll_back_and_change_its_theme(
    browser: Browser, site: Site
) -> None:
    with browser.new_context(base_url=site.url) as context:
        context.add_init_script(REFUSED)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(REVIEW)
        page.get_by_label("Name").fill("Grace")
        page.keyboard.press("Enter")
        page.route("**/answer", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
        sample = answer(page, "1")
        expect(page.locator("#retrying")).to_contain_text("leave the page open")
        page.unroute("**/answer")
        page.get_by_role("button", name="Send now").click()
        assert site.answers(sample) == [LABELS[0]]

        page.goto(f"/rollout/{TASK}")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("dialog", name="Roll the challenger back?")).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text("Theme: light")
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text("Theme: dark")
        assert not problems


@pytest.mark.parametrize(
    ("key", "code", "number"),
    [
        ("é", "Digit2", 1),
        ("1", "Numpad1", 0),
        ("&", "Digit1", 0),
        ("5", "Digit5", 4),
        ("٣", "Digit3", 2),
        ("۲", "Numpad2", 1),
        ("ě", "Digit2", 1),
        ("Process", "Digit4", 3),
        ("Dead", "Digit6", 5),
    ],
)
def test_digits_are_found_by_their_place_where_a_layout_has_other_characters(
    page: Page, key: str, code: str, number: int
) -> None:
    page.goto(REVIEW)
    shown(page)
    pressed(page, key, code)
    assert chosen(page) == LABELS[number]


def test_letters_are_found_by_their_place_on_a_keyboard_of_another_script(page: Page) -> None:
    page.goto(REVIEW)
    sample = shown(page)
    pressed(page, "ο", "KeyO")
    pressed(page, "o", "KeyS")  # Dvorak: a Latin letter is itself, wherever it is
    assert shown(page) == sample
    pressed(page, "σ", "KeyS")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)


@pytest.mark.parametrize("key", ["ы", "ד", "س", "ß", "Process", "ㄴ"])
def test_skip_is_where_s_is_on_every_keyboard(page: Page, key: str) -> None:
    page.goto(REVIEW)
    sample = shown(page)
    pressed(page, key, "KeyS")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)


@pytest.mark.parametrize(("key", "code"), [("?", "Comma"), ("؟", "Slash")])
def test_the_keys_are_explained_on_every_keyboard(page: Page, key: str, code: str) -> None:
    page.goto(REVIEW)
    shown(page)
    pressed(page, key, code, shift=True)
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


def pressed(page: Page, key: str, code: str, *, shift: bool = False) -> None:
    page.evaluate(
        "([key, code, shiftKey]) => document.activeElement.dispatchEvent(new KeyboardEvent("
        "'keydown', { key, code, shiftKey, bubbles: true, cancelable: true }))",
        [key, code, shift],
    )
