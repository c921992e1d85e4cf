"""Overview, review and rollout in WebKitGTK and, where it is installed, in Firefox."""

from __future__ import annotations

import os
from collections.abc import Iterator

import firefox
import pytest
import webkit
from console_seed import LABELS, TASK
from console_site import Site
from driven import ENTER, Window

pytestmark = pytest.mark.slow

ENGINES = {"webkit": webkit, "firefox": firefox}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[webkit.WebKit | firefox.Firefox]:
    chosen = ENGINES[request.param]
    missing = chosen.missing()
    if missing and f"FLYWHEEL_REQUIRE_{request.param.upper()}" not in os.environ:
        pytest.skip(
            f"no {' nor '.join(missing)} here: Debian's webkit2gtk-driver, xvfb, firefox-esr"
        )
    with chosen.started() as engine:
        yield engine


@pytest.fixture(params=[True, False], ids=["kept", "refused"])
def window(
    engine: webkit.WebKit | firefox.Firefox, request: pytest.FixtureRequest
) -> Iterator[Window]:
    """A page of a browser that keeps the data of sites, or refuses to."""
    with engine.window(keeps=request.param) as window:
        yield window


def shown(window: Window) -> str:
    sample: str = window.until("document.getElementById('sample')?.dataset.id")
    return sample


def answer(window: Window, key: str) -> str:
    sample = shown(window)
    window.press(key, ENTER)
    window.until(f"document.getElementById('sample').dataset.id !== '{sample}'")
    return sample


def test_an_expert_reviews_undoes_and_comes_back(site: Site, window: Window) -> None:
    window.open(f"{site.url}/review/{TASK}")
    window.until("document.getElementById('who').open")
    window.type("#who-name", "Grace")
    window.click("#who-form button")
    first = answer(window, "2")
    assert site.answers(first) == [LABELS[1]]
    window.press("u")
    window.until(f"document.getElementById('sample').dataset.id === '{first}'")
    window.press(ENTER)
    window.until(f"document.getElementById('sample').dataset.id !== '{first}'")
    shown(window)
    window.run("window.left = true")
    window.click("#nav-overview")
    window.until("document.getElementById('loop')")
    window.back()
    window.until("window.left === undefined && document.getElementById('who')")  # loaded anew
    window.until("document.getElementById('rename') && document.readyState === 'complete'")
    if window.run("return document.getElementById('who')?.open"):  # no name outlasts the page
        window.type("#who-name", "Grace")
        window.click("#who-form button")
    second = shown(window)
    window.press("3")
    window.until("!document.getElementById('submit').disabled")
    window.click("#submit")
    assert site.answers(second) == [LABELS[2]]


def test_the_overview_draws_stays_current_and_fits(site: Site, window: Window) -> None:
    window.open(f"{site.url}/")
    window.until("document.querySelector('#chart-traffic canvas')")
    with site.database.transaction() as tx:
        tx.rollouts.set_champion(TASK, f"{TASK}-fedcba9", None)
    window.until("document.getElementById('now').textContent.includes('fedcba9')")
    window.click("#theme")
    window.until("document.documentElement.dataset.theme === 'light'")
    window.resize(375, 740)
    width, wide = window.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert wide <= width


def test_a_rollout_is_paused_with_a_name_and_a_reason(site: Site, window: Window) -> None:
    window.open(f"{site.url}/rollout/{TASK}")
    window.until("document.getElementById('link').textContent === 'Live'")
    window.click("#do-pause")
    window.until("document.getElementById('command').open")
    window.type("#command-by", "Grace")
    window.type("#command-why", "The data centre moves")
    window.click("#command-do")
    window.until("document.getElementById('pending').textContent.includes('data centre')")
