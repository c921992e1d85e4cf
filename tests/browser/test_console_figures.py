"""Charts and tables: a colour for each arm, pauses marked, tables that scroll in their own box."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from console_places import needs_chromium
from console_seed import TASK, champion_alone, opened, pause, release_id, seed
from console_site import Site, serving
from console_wide import INTENTS, RELEASE, WIDE, wide, wide_settings
from playwright.sync_api import Browser, Page, expect

from flywheel.settings import FlywheelSettings
from storage.database import Database

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 740}

pytestmark = needs_chromium

# How many pixels of a chart have one of the console's colours, as lines and text are drawn.
PIXELS = """([chart, name]) => {
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.color = `var(--${name})`;
  const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
  probe.remove();
  const canvas = document.querySelector(`#${chart} canvas`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 200 && Math.abs(data[at] - r) + Math.abs(data[at + 1] - g)
      + Math.abs(data[at + 2] - b) < 24) count += 1;
  }
  return count;
}"""


@contextmanager
def console(
    tmp_path: Path, fill: Callable[[Database], object], settings: FlywheelSettings | None = None
) -> Iterator[Site]:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", fill).dispose()
    with serving(tmp_path, story, settings) as site:
        yield site


@contextmanager
def opened_page(browser: Browser, site: Site, size: dict[str, int]) -> Iterator[Page]:
    with browser.new_context(base_url=site.url, viewport=size) as context:
        yield context.new_page()


def pixels(page: Page, chart: str, colour: str) -> int:
    expect(page.locator(f"#{chart} canvas")).to_be_visible()
    count: int = page.evaluate(PIXELS, [chart, colour])
    return count


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_traffic_without_a_challenger_is_drawn_in_the_champions_colour(
    browser: Browser, tmp_path: Path, theme: str
) -> None:
    with console(tmp_path, champion_alone) as site, opened_page(browser, site, DESKTOP) as page:
        page.emulate_media(color_scheme=theme)
        page.goto("/")
        assert pixels(page, "chart-traffic", "champion") > 100
        assert pixels(page, "chart-traffic", "challenger") == 0
        page.goto(f"/releases/{TASK}")
        colour = page.locator(".acc circle").first.evaluate("(dot) => getComputedStyle(dot).fill")
        assert colour == page.locator(".chip.champion").first.evaluate(
            "(chip) => getComputedStyle(chip).color"
        )


def test_both_arms_are_drawn_each_in_its_own_colour(browser: Browser, tmp_path: Path) -> None:
    with console(tmp_path, seed) as site, opened_page(browser, site, DESKTOP) as page:
        page.goto("/")
        assert pixels(page, "chart-traffic", "champion") > 100
        assert pixels(page, "chart-traffic", "challenger") > 100


def test_a_pause_is_marked_on_every_page_that_shows_the_rollout(
    browser: Browser, tmp_path: Path
) -> None:
    with console(tmp_path, seed) as site, opened_page(browser, site, DESKTOP) as page:
        page.goto("/")
        assert pixels(page, "chart-split", "warn") == 0
        pause(site.database)
        expect(page.locator("#now .chip.warn")).to_contain_text("paused")
        page.goto("/")
        assert pixels(page, "chart-split", "warn") > 30
        expect(page.locator("#nav-rollout .chip.warn")).to_have_text("paused")
        page.goto(f"/rollout/{TASK}")
        held = page.locator("#plan [aria-current=step]")
        expect(held).to_contain_text("held here")
        marks = page.locator("#plan li").evaluate_all(
            "(steps) => steps.map((step) => getComputedStyle(step, '::after'))"
            ".map((style) => style.backgroundImage + style.borderColor)"
        )
        of_held = held.evaluate(
            "(step) => getComputedStyle(step, '::after').backgroundImage"
            " + getComputedStyle(step, '::after').borderColor"
        )
        assert marks.count(of_held) == 1, "no other step looks like the one that is held"


def test_of_77_labels_the_commonest_confusions_come_with_samples(
    browser: Browser, tmp_path: Path
) -> None:
    def fill(database: Database) -> None:
        wide(database, settings.layout.releases)

    settings = wide_settings(tmp_path)
    with (
        console(tmp_path, fill, settings) as site,
        opened_page(browser, site, DESKTOP) as page,
    ):
        page.goto(f"/releases/{WIDE}/{RELEASE}")
        rows = page.get_by_role("group", name="What is confused most").locator("tbody tr")
        expect(rows.first).to_contain_text("Card arrival")
        expect(rows.first).to_contain_text("Card delivery estimate")
        expect(rows.first).to_contain_text("6 of 10")
        expect(rows.first.locator(".example")).to_have_count(3)
        expect(rows.first).to_contain_text("Held out 11: about card arrival")

        matrix = page.get_by_role("group", name="All answers")
        expect(matrix.locator("thead th")).to_have_count(len(INTENTS))
        last = matrix.locator("tbody tr").last.locator("td").last
        last.scroll_into_view_if_needed()
        expect(last).to_be_in_viewport()
        expect(matrix.locator("thead th").last).to_be_in_viewport()  # names stay beside the counts
        expect(matrix.locator("tbody th").last).to_be_in_viewport()

        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        (settings.layout.releases / RELEASE / "predictions.jsonl").unlink()
        page.reload()  # still known: a release's folder never changes
        expect(rows.first).to_contain_text("6 of 10")


@pytest.mark.parametrize(
    "path",
    ["/", f"/rollout/{TASK}", f"/rollout/{TASK}?rollout=broken", f"/releases/{TASK}",
     f"/releases/{TASK}/{release_id(4)}", f"/review/{TASK}"],
)  # fmt: skip
def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, tmp_path: Path, path: str) -> None:
    with (
        console(tmp_path, lambda database: seed(database, running_turn=True)) as site,
        opened_page(browser, site, PHONE) as page,
    ):
        pause(site.database)
        page.goto(path)
        expect(page.locator("h1")).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        for box in page.locator(".table-wrap").all():
            box.evaluate("(box) => { box.scrollLeft = box.scrollWidth; }")
            last = box.locator("tr").first.locator("th, td").last
            edge = last.bounding_box()
            assert edge is not None
            assert edge["x"] + edge["width"] <= PHONE["width"], "its last column can be reached"
