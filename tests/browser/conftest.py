"""One browser for the tests of a module, and a console of a story that is written once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from console_places import browser_binary
from console_seed import opened, seed
from console_site import Site, expert_context, serving, watched_page
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser_binary(),
            args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which everything has happened once; tests get copies."""
    path = tmp_path_factory.mktemp("story") / "flywheel.db"
    opened(f"sqlite:///{path}", seed).dispose()
    assert not path.with_name("flywheel.db-wal").exists(), "the copies would miss what is in it"
    return path


@pytest.fixture
def site(tmp_path: Path, story: Path) -> Iterator[Site]:
    """A console on a copy of the story."""
    with serving(tmp_path, story) as site:
        yield site


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """An expert's browser on that console, on a wide screen."""
    with expert_context(browser, site.url, viewport={"width": 1440, "height": 900}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page of it, on which no script may fail."""
    with watched_page(context) as page:
        yield page
