"""The README's pictures, taken of a running demo: `python docs/screenshots.py http://127.0.0.1:8081`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
PAGES = (
    ("overview-light", "/", "light"),
    ("overview-dark", "/", "dark"),
    ("review-light", "/review/questions", "light"),
    ("rollout-dark", "/rollout/questions", "dark"),
    ("releases-light", "/releases/questions", "light"),
)


def main() -> None:
    """Take every picture."""
    console = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8081"
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
        )
        for name, path, scheme in PAGES:
            context = browser.new_context(
                viewport={"width": 1440, "height": 900},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(console + path)
            page.wait_for_timeout(1500)
            if "review" in path:
                page.keyboard.type("ada")
                page.keyboard.press("Enter")
                page.wait_for_timeout(1500)
                page.keyboard.press("4")
            page.wait_for_timeout(1000)
            page.screenshot(path=IMAGES / f"{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
