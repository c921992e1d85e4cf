"""The review page of a task of kind image-classification, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from console_inputs import PARTS, PICTURES, shape_settings, shapes
from console_inputs import SHAPE_TASK as TASK
from console_places import needs_chromium
from console_seed import opened
from console_site import Site, expert_context, serving, watched_page
from playwright.sync_api import Browser, Page, expect

KEY = "key-of-this-console"

pytestmark = needs_chromium


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", shapes).dispose()
    with serving(tmp_path, story, shape_settings(tmp_path)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with expert_context(browser, site.url) as context, watched_page(context) as page:
        page.goto(f"/review/{TASK}")
        yield page


def test_an_image_is_shown_with_its_text_and_answered(site: Site, page: Page) -> None:
    expect(page.locator("#sample")).to_have_attribute("data-id", "s0")
    image = page.get_by_role("img", name="The image to label")
    expect(image).to_be_visible()
    page.wait_for_function("document.querySelector('.message img').complete")
    size = image.evaluate("(node) => [node.naturalWidth, node.naturalHeight]")
    assert size == [640, 400], "the image itself has come"
    assert page.locator(".message p").inner_text() == "from the <i>north</i> gate"
    expect(page.locator("main")).to_contain_text("people and rules label every sample")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#sample")).to_have_attribute("data-id", "s1")
    expect(page.locator(".message img")).to_have_count(1)
    expect(page.locator(".message p")).to_have_count(0)
    assert site.answers("s0", TASK) == ["disc"]


def test_an_image_is_that_of_its_sample_and_nothing_else(site: Site) -> None:
    def ask(digest: str, sample: str = "s0", task: str = TASK) -> httpx.Response:
        where = f"{site.url}/review/{task}/images/{digest}"
        return httpx.get(where, params={"sample": sample}, trust_env=False)

    found = ask(PARTS[0].sha256)
    assert found.content == PICTURES[0]
    assert found.headers["content-type"] == "image/png"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert found.headers["cache-control"] == "no-store"
    assert ask(PARTS[1].sha256).status_code == 404, "it is another sample's"
    assert ask(PARTS[0].sha256, sample="gone").status_code == 404
    assert ask(PARTS[0].sha256, task="other").status_code == 404
    assert ask("..%2f..%2fflywheel.toml").status_code == 404


def test_who_may_not_see_the_page_gets_no_image(tmp_path: Path) -> None:
    story = tmp_path / "story.db"
    opened(f"sqlite:///{story}", shapes).dispose()
    settings = shape_settings(tmp_path, console={"api_keys": (KEY,)})
    with serving(tmp_path, story, settings) as site:
        where = f"{site.url}/review/{TASK}/images/{PARTS[0].sha256}?sample=s0"
        assert httpx.get(where, trust_env=False).status_code == 401
        signed = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(where, headers=signed, trust_env=False).content == PICTURES[0]


def test_every_page_of_the_task_says_that_people_label(page: Page) -> None:
    for path in ("/", f"/rollout/{TASK}", f"/releases/{TASK}"):
        page.goto(path)
        expect(page.locator("main .of-kind")).to_contain_text("people and rules label every sample")
