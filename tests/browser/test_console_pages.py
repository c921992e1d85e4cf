"""The console in a real browser, on a real database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import LABELS, TASK, release_id
from console_site import Site, answer, expert_context, serving, shown
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from flywheel.contracts.ids import new_id, utc_now
from flywheel.retraining.ports import RunState, Turn
from storage.database import Transaction

REVIEW = f"/review/{TASK}"
ROLLOUT = f"/rollout/{TASK}"

pytestmark = needs_chromium


def test_an_expert_reviews_by_keyboard_alone(site: Site, page: Page) -> None:
    page.goto(REVIEW)
    first = answer(page, "2")
    second = answer(page, "6")
    third = shown(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("radio", checked=True)).to_have_value(LABELS[1])
    page.keyboard.press("k")
    page.keyboard.press("Enter")

    assert site.answers(first) == [LABELS[1]]
    assert site.answers(second) == [LABELS[5]]
    assert site.answers(third) == [LABELS[0]]
    with site.database.transaction(read_only=True) as tx:
        assert {tx.desk.find(TASK, one).state for one in (first, second, third)} == {"settled"}
    expect(page.locator("#stat-count")).to_have_text("3")
    expect(page.locator("#recent li")).to_have_count(3)
    assert page.evaluate("localStorage.getItem('flywheel.review.questions.unsaved')") is None


def test_the_next_sample_is_there_before_the_server_has_answered(page: Page) -> None:
    page.goto(REVIEW)
    first = shown(page)
    page.wait_for_function("document.querySelector('#queue-claimed').textContent === '2'")
    held: list[Route] = []
    page.route("**/api/review/**", lambda route: held.append(route))  # noqa: PLW0108 - marked by it
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert shown(page) not in ("", first)
    page.unroute("**/api/review/**")  # lets those that were held go


def test_undo_takes_back_the_answer_and_skip_leaves_the_sample_to_others(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    first = answer(page, "1")
    assert site.answers(first) == [LABELS[0]]
    page.keyboard.press("u")
    expect(page.locator("#sample")).to_have_attribute("data-id", first)
    with site.database.transaction(read_only=True) as tx:
        assert tx.desk.answers(TASK, first) == []
        assert tx.desk.find(TASK, first).state == "claimed"

    page.keyboard.press("s")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", first)
    assert site.answers(first) == [None]
    with site.database.transaction(read_only=True) as tx:
        assert tx.desk.find(TASK, first).state == "open"


def test_a_sample_that_nobody_can_label_leaves_the_queue_by_key_or_button(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    first = shown(page)
    expect(page.locator("#queue-unlabelable")).to_have_text("0")
    page.keyboard.press("x")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", first)
    expect(page.locator("#recent li").first).to_contain_text("can’t be labelled")
    second = shown(page)
    page.get_by_role("button", name="Can’t be labelled").click()
    expect(page.locator("#sample")).not_to_have_attribute("data-id", second)

    def unlabelable(tx: Transaction) -> int:
        return tx.desk.depth(TASK, utc_now()).unlabelable

    assert site.until(unlabelable, lambda found: found == 2) == 2
    with site.database.transaction(read_only=True) as tx:
        assert {tx.desk.find(TASK, one).state for one in (first, second)} == {"settled"}
        assert [one.unlabelable for one in tx.desk.answers(TASK, first)] == [True]
    page.reload()
    expect(page.locator("#queue-unlabelable")).to_have_text("2")
    page.keyboard.press("u")
    expect(page.locator("#sample")).to_have_attribute("data-id", second)
    assert site.until(unlabelable, lambda found: found == 1) == 1


def test_the_keys_are_shown_on_demand_and_the_model_only_when_asked_for(page: Page) -> None:
    page.goto(REVIEW)
    shown(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("3")
    expect(page.get_by_role("radio", checked=True)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()

    score = page.locator(".choice .score").first
    expect(score).to_be_hidden()
    page.keyboard.press("m")
    expect(score).to_be_visible()
    answer(page, "1")
    expect(score).to_be_hidden()


def test_an_answer_survives_a_server_that_fails_and_a_page_that_is_closed(
    site: Site, context: BrowserContext, page: Page
) -> None:
    page.goto(REVIEW)
    page.route("**/answer", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    sample = answer(page, "4")
    expect(page.locator("#retrying")).to_contain_text("1 answer is not saved yet: busy")
    page.problems.clear()
    page.close()

    again = context.new_page()
    again.goto(REVIEW)
    assert site.answers(sample) == [LABELS[3]]
    expect(again.locator("#unsaved")).to_be_empty()
    again.close()


def test_an_answer_that_the_server_refuses_stays_until_the_expert_decides(
    site: Site, page: Page
) -> None:
    page.goto(REVIEW)
    refusal = {"title": "Unknown label", "detail": "no label any more"}
    page.route("**/answer", lambda route: route.fulfill(status=422, json=refusal))
    sample = answer(page, "4")
    notice = page.locator("#unsaved .notice")
    expect(notice).to_contain_text("was refused: no label any more")
    page.unroute("**/answer")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator("#sample")).to_have_attribute("data-id", sample)
    expect(notice).to_have_count(0)
    answer(page, "5")
    assert site.answers(sample) == [LABELS[4]]
    page.problems.clear()


def test_a_new_expert_is_asked_for_a_name_once(browser: Browser, site: Site) -> None:
    with browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        page.goto(REVIEW)
        page.get_by_label("Name").fill("Grace")
        page.keyboard.press("Enter")
        sample = answer(page, "1")
        page.reload()
        shown(page)
        expect(page.get_by_role("dialog")).to_have_count(0)
        with site.database.transaction(read_only=True) as tx:
            assert [one.annotator for one in tx.desk.answers(TASK, sample)] == ["Grace"]


def test_focus_is_visible_and_every_control_can_be_reached_by_tab(page: Page) -> None:
    page.goto(REVIEW)
    shown(page)
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "(() => { const el = document.activeElement; const box = el.closest('.choice') ?? el;"
            " const style = getComputedStyle(box);"
            " return [el.id || el.value, style.outlineStyle, style.outlineWidth] })()"
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        assert focus[1:] == ["solid", "2px"], focus
        reached.add(focus[0])
    assert {LABELS[0], "skip", "peek", "help-open"} <= reached


def test_the_overview_draws_the_loop_and_charts_with_axes_and_stays_live(
    site: Site, page: Page
) -> None:
    page.goto("/")
    for stage in ("Gateway", "Kafka", "Triage", "Auto-label", "Review", "Labels", "Dataset",
                  "Train", "Registry", "Rollout"):  # fmt: skip
        expect(page.locator(".loop").get_by_text(stage, exact=True)).to_be_visible()
    for chart in ("accuracy", "traffic", "split"):
        box = page.locator(f"#chart-{chart}")
        expect(box.locator("canvas")).to_be_visible()
        expect(box.locator(".u-over")).to_be_visible()
    # Ink in the plot, left of it and below it: data, and two axes.
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart canvas')].map((canvas) => {"
        " const { width, height } = canvas, ink = (...box) =>"
        " canvas.getContext('2d').getImageData(...box).data.some((value) => value > 0);"
        " return [ink(60, 0, width - 60, height - 60), ink(0, 0, 45, height),"
        " ink(60, height - 20, width - 60, 20)] })"
    )
    assert drawn == [[True] * 3] * 3
    expect(page.locator("#node-rollout")).to_have_attribute(
        "aria-label", re.compile("25.%, canary")
    )

    with site.database.transaction() as tx:
        tx.rollouts.save(
            tx.rollouts.active(TASK).__class__(
                **{
                    field: getattr(tx.rollouts.active(TASK), field)
                    for field in tx.rollouts.active(TASK).__struct_fields__
                    if field not in ("share", "step")
                },
                share=0.5,
                step=2,
            ),
            None,
        )
    expect(page.locator("#node-rollout")).to_have_attribute("aria-label", re.compile("50"))
    expect(page.locator("#link")).to_have_text("Live")


def test_releases_lead_to_their_lineage_and_tell_what_served_when(page: Page) -> None:
    page.goto(f"/releases/{TASK}")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.locator(f"#r-{release_id(4)}").click()
    expect(page.locator(".lineage .here")).to_contain_text("91.3")
    expect(page.locator(".lineage")).to_contain_text("371 expert")
    table = page.get_by_role("table", name="Size, accuracy and speed of each variant")
    expect(table.locator("tbody tr")).to_have_count(4)
    chosen = table.locator("tr[aria-current=true]")
    expect(chosen.get_by_role("rowheader")).to_contain_text("int8-dynamic")
    expect(chosen).to_contain_text("no worse")
    expect(table.get_by_role("row", name="int8-static")).to_contain_text("proven to lose")
    expect(table.get_by_role("row", name="w8a8")).to_contain_text("cannot serve it")
    page.go_back()
    page.get_by_label("What served at (UTC)").fill("2000-01-01T00:00:00")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_text("nothing was served yet")).to_be_visible()


def test_the_theme_follows_the_system_until_it_is_chosen(page: Page) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    page.emulate_media(color_scheme="light")
    page.goto("/")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.goto(REVIEW)
    assert page.evaluate(ground) == light
    shown(page)


def test_without_data_every_page_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, None) as site, browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda line: problems.append(line.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        for path, words in (
            ("/", "No release yet"),
            (ROLLOUT, "No rollout yet"),
            (f"/releases/{TASK}", "The first turn registers one"),
        ):
            page.goto(path)
            expect(page.locator(".empty").filter(has_text=words)).to_be_visible()
        page.add_init_script("localStorage.setItem('flywheel.annotator', 'ada')")
        page.goto(REVIEW)
        expect(page.get_by_text("Nothing waits for you")).to_be_visible()
        assert not problems


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ("failed", "ArtefactError: no labels", "The last turn failed in “evaluate”."),
        ("succeeded", "no release: accuracy 0.41", "The last turn came to no release."),
    ],
)
def test_a_turn_that_its_gate_refused_did_not_fail(
    site: Site, page: Page, state: RunState, error: str, told: str
) -> None:
    turn = Turn(
        turn_id=new_id(),
        task=TASK,
        state=state,
        stage="evaluate",
        reason="40 new labels",
        started_at=utc_now(),
        ended_at=utc_now(),
        error=error,
    )
    with site.database.transaction() as tx:
        tx.turns.save(turn)
    page.goto("/")
    expect(page.locator("#turn-error b")).to_have_text(told)
    expect(page.locator("#turn-error")).to_contain_text(error.rpartition(": ")[2])


CUT = """selector => [...document.querySelectorAll(selector)]
    .filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
    .map((one) => one.textContent.trim().slice(0, 40))"""


def test_tables_are_whole_on_a_laptop_and_the_menu_is_on_a_phone(
    browser: Browser, site: Site
) -> None:
    with expert_context(browser, site.url, viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        for path in (f"/releases/{TASK}", f"/releases/{TASK}/{release_id(3)}", ROLLOUT):
            page.goto(path)
            expect(page.locator("table").first).to_be_visible()
            assert page.evaluate(CUT, ".table-wrap") == []
        page.goto("/")
        page.set_viewport_size({"width": 375, "height": 667})
        expect(page.locator("#nav")).to_be_visible()
        assert page.evaluate(CUT, "#nav") == []


def test_what_an_empty_page_says_reads_as_one_sentence(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, None) as site, browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        page.goto("/")
        box = page.locator(".empty", has_text="No traffic yet")
        expect(box).to_be_visible()
        # A command stands in the line of the words around it.
        assert box.evaluate("box => getComputedStyle(box).display") == "block"
        assert page.evaluate(CUT, ".empty") == []
