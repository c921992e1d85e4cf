"""The rollout's page: its evidence, what people ask of it, and how it tells the end."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from console_places import needs_chromium
from console_seed import TASK, release_id
from console_site import Site, serving
from playwright.sync_api import Browser, Page, expect

from flywheel.contracts.ids import new_id, utc_now
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Command

ROLLOUT = f"/rollout/{TASK}"

pytestmark = needs_chromium


def test_the_rollout_page_shows_its_evidence_and_pausing_asks_why(site: Site, page: Page) -> None:
    page.goto(ROLLOUT)
    expect(page.locator(".interval")).to_have_count(3)
    expect(page.locator("#evidence")).to_contain_text("margin −5")
    expect(page.locator("#plan [aria-current=step]")).to_contain_text("25")
    expect(page.locator("#timeline li")).to_have_count(4)

    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause this rollout?")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_visible()  # no reason yet
    dialog.get_by_label("Reason").fill("the data centre moves tonight")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#pending")).to_contain_text("the data centre moves tonight")
    with site.database.transaction(read_only=True) as tx:
        (command,) = tx.commands.pending(TASK)
    assert (command.kind, command.by) == ("pause", "ada")


def test_a_rollout_of_the_past_is_told_with_how_it_ended(page: Page) -> None:
    page.goto(ROLLOUT)
    page.locator("#h-broken").click()
    expect(page.locator("#plan .bad")).to_contain_text("rolled back here")
    expect(page.locator("#plan")).to_contain_text("Accuracy is proven worse")
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)


def ticks(site: Site, count: int = 1) -> None:
    """The controller, whose model servers all answer."""

    class Everywhere:
        def ready(self, release: str) -> Readiness:
            return Readiness(ready=1, total=1)

    for _ in range(count):
        tick(
            partial(site.database.transaction, "controller"),
            partial(site.database.transaction, read_only=True),
            TASK,
            RolloutSettings(),
            Everywhere(),
            utc_now(),
        )


def ask(page: Page, kind: str, why: str) -> None:
    """Fill in the dialog that is open."""
    dialog = page.locator("#command")
    dialog.get_by_label("Reason").fill(why)
    dialog.get_by_role("button", name=kind, exact=True).click()


def test_a_promotion_shows_verdict_and_evidence_once_and_keeps_them(site: Site, page: Page) -> None:
    page.goto(ROLLOUT)
    expect(page).to_have_title(re.compile("^Canary at 25.% · Rollout"))
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog", name="Promote the challenger now?")
    expect(dialog.get_by_text("Not proven to be no worse")).to_have_count(1)
    expect(dialog.locator(".checks li")).to_have_count(3)
    ask(page, "Promote", "tonight")
    expect(page.locator("#pending")).to_contain_text("waits for the controller")
    ticks(site)
    # Everything that speaks of the rollout follows, what stands outside of its cards too.
    expect(page.locator("#pending")).to_contain_text("carried out")
    expect(page).to_have_title(re.compile("^Promoted · Rollout"))
    expect(page.locator("#state .chip")).to_have_text("promoted")
    expect(page.locator("#h-served")).to_have_text("Who got the traffic in the end")
    expect(page.locator("#served .arm").nth(1)).to_contain_text("100")
    expect(page.locator("#nav-rollout .badge")).to_have_count(0)
    expect(page.locator("#plan li").nth(4)).to_contain_text("skipped")
    expect(page.locator("#plan li.done")).to_have_count(5)
    expect(page.locator("#evidence")).to_contain_text("when this was decided")
    expect(page.locator("#evidence")).to_contain_text("on 81 audited samples")
    expect(page.locator(".interval")).to_have_count(3)


def test_a_dialog_decides_on_the_rollout_that_it_was_opened_on(site: Site, page: Page) -> None:
    page.goto(ROLLOUT)
    page.get_by_role("button", name="Promote").click()
    with site.database.transaction("cli") as tx:
        running = tx.rollouts.active(TASK)
        assert running is not None
        tx.commands.add(
            Command(
                command_id=new_id(),
                task=TASK,
                kind="rollback",
                by="grace",
                why="complaints",
                at=utc_now(),
                rollout_id=running.rollout_id,
            )
        )
        tx.challengers.enqueue(TASK, release_id(3), utc_now(), True)
    ticks(site, 3)
    expect(page.locator("#state .chip")).to_contain_text("canary for 0")
    ask(page, "Promote", "for what was there before")
    problem = page.locator("#command-problem")
    expect(problem).to_contain_text("has ended: rolled back: complaints")
    with site.database.transaction(read_only=True) as tx:
        assert tx.commands.pending(TASK) == []
        assert tx.rollouts.champion(TASK) == running.champion
    page.problems.clear()  # the refusal is an answer of 409
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#gate")).to_contain_text("Failed its gate")
    expect(page.locator("#gate")).to_contain_text("fire drill: must be rolled back")
    page.goto(f"{ROLLOUT}?rollout={running.rollout_id}")
    expect(page.locator("#timeline .refused")).to_contain_text("promote not carried out")


def test_a_page_without_a_rollout_follows_the_first_one(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, None) as site, browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        page.goto(ROLLOUT)
        expect(page.get_by_text("No rollout yet")).to_be_visible()
        with site.database.transaction("controller") as tx:
            tx.challengers.enqueue(TASK, release_id(1), utc_now(), True)
        ticks(site)
        expect(page.locator("#plan")).to_contain_text("first release", ignore_case=True)
        expect(page.locator("#served .share")).to_have_attribute(
            "aria-label", re.compile("challenger 100")
        )
