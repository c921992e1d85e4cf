"""Every page in every state that a person meets, looked at by axe: light and dark, wide, narrow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from console_inputs import SHAPE_TASK, TALK_TASK, shape_settings, shapes, talk_settings, talks
from console_places import browser_binary
from console_seed import TASK, console_settings, opened, pause, release_id, seed
from console_site import Site, serving
from console_wide import RELEASE, WIDE, wide, wide_settings
from playwright.sync_api import Browser, Page, Route, expect

from flywheel.retraining.ports import Turn

SIZES = {"desktop": (1280, 800), "phone": (375, 740)}
REVIEW, ROLLOUT, RELEASES = f"/review/{TASK}", f"/rollout/{TASK}", f"/releases/{TASK}"


def axe_source() -> Path | None:
    """axe-core as the development dependency axe-playwright-python carries it."""
    package = find_spec("axe_playwright_python")
    places = package.submodule_search_locations if package else None
    return Path(places[0]) / "axe.min.js" if places else None


pytestmark = [
    # Minutes together: .ci/run runs them after `make test`.
    pytest.mark.slow,
    pytest.mark.skipif(
        (browser_binary() is None or axe_source() is None)
        and "FLYWHEEL_REQUIRE_BROWSER" not in os.environ,
        reason="no Chromium or no axe here: install Debian's `chromium`, and the dev dependencies",
    ),
]


@dataclass(frozen=True)
class State:
    """A page as a person has it before them: which console serves it, and what they did there."""

    site: str
    path: str
    act: Callable[[Page], object] = lambda _page: None


def pressed(*keys: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        shown(page)
        for key in keys:
            page.keyboard.press(key)

    return act


def shown(page: Page) -> None:
    expect(page.locator("#sample")).to_be_visible()


def unsaved(status: int, detail: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        def refuse(route: Route) -> None:
            route.fulfill(status=status, json={"title": "No", "detail": detail})

        page.route("**/answer", refuse)
        pressed("2", "Enter")(page)
        expect(page.locator("#unsaved .notice")).to_be_visible()

    return act


def offline(page: Page) -> None:
    page.route("**/next?*", lambda route: route.abort())
    pressed("1", "Enter", "2", "Enter")(page)
    expect(page.locator("#done")).to_be_visible()


def renamed(page: Page) -> None:
    shown(page)
    page.locator("#rename").click()
    expect(page.locator("#who")).to_be_visible()


def commanded(kind: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.locator(f"#do-{kind}").click()
        expect(page.locator("#command")).to_be_visible()

    return act


def tabbed(times: int) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        for _ in range(times):
            page.keyboard.press("Tab")

    return act


def wrong_key(page: Page) -> None:
    page.get_by_label("Console key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def thinned(page: Page) -> None:
    """Of a matrix of 77 by 77 the first cells tell; axe takes minutes for all of them."""
    page.locator(".confusion").evaluate(
        "(table) => table.querySelectorAll('tbody tr:nth-child(n+6), tr > :nth-child(n+9)')"
        ".forEach((one) => one.remove())"
    )


STATES = {
    "overview": State("full", "/"),
    "overview, focus on the loop": State("full", "/", tabbed(9)),
    "overview, paused": State("paused", "/"),
    "overview, empty": State("empty", "/"),
    "overview, failing": State("failing", "/"),
    "review": State("full", REVIEW, shown),
    "review, answer chosen": State("full", REVIEW, pressed("3")),
    "review, model asked": State("full", REVIEW, pressed("m", "1")),
    "review, undone": State("full", REVIEW, pressed("2", "Enter", "u")),
    "review, keys": State("full", REVIEW, pressed("?")),
    "review, name": State("full", REVIEW, renamed),
    "review, not saved": State("full", REVIEW, unsaved(503, "busy")),
    "review, refused": State("full", REVIEW, unsaved(409, "settled already")),
    "review, offline": State("full", REVIEW, offline),
    "review, empty": State("empty", REVIEW),
    "review, many labels": State("wide", f"/review/{WIDE}", shown),
    "review, label looked for": State("wide", f"/review/{WIDE}", pressed("/", "c", "a")),
    "review, no such label": State("wide", f"/review/{WIDE}", pressed("/", "q", "q")),
    "review, conversation": State("talks", f"/review/{TALK_TASK}", pressed("2")),
    "review, image": State("shapes", f"/review/{SHAPE_TASK}", pressed("1")),
    "rollout": State("full", ROLLOUT),
    "rollout, promoting": State("full", ROLLOUT, commanded("promote")),
    "rollout, rolling back": State("full", ROLLOUT, commanded("rollback")),
    "rollout, paused": State("paused", ROLLOUT),
    "rollout, past": State("full", f"{ROLLOUT}?rollout=broken"),
    "rollout, promoted": State("full", f"{ROLLOUT}?rollout=first"),
    "rollout, empty": State("empty", ROLLOUT),
    "releases": State("full", RELEASES),
    "releases, served at": State("full", f"{RELEASES}?at=2031-01-01T00:00"),
    "releases, no time": State("full", f"{RELEASES}?at=yesterday"),
    "releases, empty": State("empty", RELEASES),
    "release": State("full", f"{RELEASES}/{release_id(4)}"),
    "release past the gate": State("full", f"{RELEASES}/{release_id(3)}"),
    "release, many labels": State("wide", f"/releases/{WIDE}/{RELEASE}", thinned),
    "sign in": State("locked", "/login"),
    "sign in, refused": State("locked", "/login", wrong_key),
    "no such page": State("full", "/releases/nothing"),
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    def folder(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    def story(fill: Callable) -> Path:
        path = folder("story") / "story.db"
        opened(f"sqlite:///{path}", fill).dispose()
        return path

    full = story(lambda database: seed(database, running_turn=True))
    with ExitStack() as stack:
        found = {
            "full": stack.enter_context(serving(folder("full"), full)),
            "paused": stack.enter_context(serving(folder("paused"), full)),
            "failing": stack.enter_context(serving(folder("failing"), full)),
            "empty": stack.enter_context(serving(folder("empty"), None)),
        }
        releases, place = folder("releases"), folder("wide")
        many = story(lambda database: wide(database, releases))
        found["wide"] = stack.enter_context(serving(place, many, wide_settings(place)))
        place = folder("talks")
        found["talks"] = stack.enter_context(serving(place, story(talks), talk_settings(place)))
        place = folder("shapes")
        found["shapes"] = stack.enter_context(serving(place, story(shapes), shape_settings(place)))
        locked = folder("locked")
        settings = console_settings(locked, console={"api_keys": ["a-long-console-key-1"]})
        found["locked"] = stack.enter_context(serving(locked, None, settings))
        pause(found["paused"].database)
        _fail(found["failing"])
        yield found


def _fail(site: Site) -> None:
    with site.database.transaction() as tx:
        tx.turns.save(
            Turn(
                turn_id="turn-6",
                task=TASK,
                state="failed",
                stage="train",
                reason="161 new expert labels",
                started_at=datetime.now(UTC) - timedelta(minutes=1),
                ended_at=datetime.now(UTC),
                error="exited with 1: the loss is not finite",
                seconds={"build": 2.2},
            )
        )


# What a theme can break; all else is the same in both.
COLOURS = ["color-contrast", "link-in-text-block"]


@pytest.mark.parametrize("name", STATES)
def test_axe_finds_nothing_and_no_page_scrolls_sideways(
    browser: Browser, sites: dict[str, Site], name: str
) -> None:
    state = STATES[name]
    with browser.new_context(
        base_url=sites[state.site].url,
        viewport={"width": 1280, "height": 800},
        reduced_motion="reduce",
    ) as context:
        context.set_default_timeout(20_000)
        # Each has a queue of their own, whatever the experts before them did.
        context.add_init_script(f"localStorage.setItem('flywheel.annotator', '{name[:60]}')")
        page = context.new_page()
        page.goto(state.path)
        state.act(page)
        page.evaluate(axe_source().read_text())
        told = [
            f"{theme}, {size}: {finding}"
            for size, (width, height) in SIZES.items()
            for theme in ("light", "dark")
            for finding in findings(page, theme, width, height)
        ]
    assert not told, "\n".join(told)


def findings(page: Page, theme: str, width: int, height: int) -> list[str]:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": height})
    only = {} if theme == "light" else {"runOnly": COLOURS}
    violations = page.evaluate(
        "(only) => axe.run({ ...only, resultTypes: ['violations'] })"
        ".then((result) => result.violations)",
        only,
    )
    found = [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary'][:300]}"
        for rule in violations
        for node in rule["nodes"][:4]
    ]
    across = page.evaluate("document.documentElement.scrollWidth")
    return found + ([f"{across} px wide"] if across > width else [])


FOCUS = """(() => {
  const { activeElement } = document;
  if (activeElement === document.body) return null;
  const style = getComputedStyle(activeElement.closest(".choice") ?? activeElement);
  return [activeElement.outerHTML.slice(0, 120), style.outlineStyle, style.outlineWidth];
})()"""


@pytest.mark.parametrize("path", ["/", REVIEW, ROLLOUT, RELEASES, f"{RELEASES}/{release_id(4)}"])
def test_focus_is_visible_wherever_tab_leads(
    browser: Browser, sites: dict[str, Site], path: str
) -> None:
    with browser.new_context(base_url=sites["full"].url) as context:
        context.set_default_timeout(20_000)
        context.add_init_script("localStorage.setItem('flywheel.annotator', 'tabbing')")
        page = context.new_page()
        page.goto(path)
        stops = []
        for _ in range(45):
            page.keyboard.press("Tab")
            focus = page.evaluate(FOCUS)
            if focus is None:
                break
            stops.append(focus)
        assert len(stops) > 4
        unseen = [stop for stop in stops if stop[1] == "none" or stop[2] == "0px"]
        assert not unseen
