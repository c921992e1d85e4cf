"""A console that a browser can ask, on a database of its own."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from console_places import vendored_assets
from console_seed import TASK, console_settings, opened
from playwright.sync_api import Browser, BrowserContext, Page, expect

from flywheel.console.app import create_app
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.objects import open_artefacts


class Site:
    """A console that is being served, and its database."""

    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database

    def answers(self, sample_id: str, task: str = TASK) -> list[str | None]:
        """Waits until a sample has an answer."""
        return self.until(
            lambda tx: [answer.value for answer in tx.desk.answers(task, sample_id)],
            bool,
        )

    def until(self, read: Callable, done: Callable[[object], bool]):
        deadline = time.monotonic() + 10
        while True:
            with self.database.transaction(read_only=True) as tx:
                found = read(tx)
            if done(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


@contextmanager
def serving(
    tmp_path: Path,
    story: Path | None,
    settings: FlywheelSettings | None = None,
    **options: Any,
) -> Iterator[Site]:
    """Serves a copy of ``story``'s database, or an empty one; ``options`` are the app's."""
    if story is not None:
        shutil.copy(story, tmp_path / "flywheel.db")
    database = opened(f"sqlite:///{tmp_path / 'flywheel.db'}")
    settings = settings or console_settings(tmp_path)
    app = create_app(
        settings,
        partial(database.transaction, "console"),
        vendored_assets(),
        artefacts=open_artefacts(settings),
        reading=partial(database.transaction, "console", read_only=True),
        **options,
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield Site(f"http://{host}:{port}", database)
    finally:
        server.should_exit = True
        thread.join()
        database.dispose()


@contextmanager
def expert_context(browser: Browser, url: str, **options: Any) -> Iterator[BrowserContext]:
    """A browser of the expert ada; ``options`` are Playwright's for a context."""
    with browser.new_context(base_url=url, **options) as context:
        context.set_default_timeout(10_000)
        context.add_init_script("localStorage.setItem('flywheel.annotator', 'ada')")
        yield context


@contextmanager
def watched_page(context: BrowserContext, *, console: bool = True) -> Iterator[Page]:
    """A page whose errors fail the test, those that it logs too unless ``console`` is False; a
    test that provokes some clears ``page.problems``."""
    page = context.new_page()
    problems: list[str] = []
    if console:
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.problems = problems
    yield page
    assert not problems


def shown(page: Page) -> str:
    """The id of the sample on screen."""
    expect(page.locator("#sample")).to_be_visible()
    return page.locator("#sample").get_attribute("data-id") or ""


def answer(page: Page, key: str) -> str:
    """Answer the sample on screen by a key; its id."""
    sample = shown(page)
    page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#sample")).not_to_have_attribute("data-id", sample)
    return sample
