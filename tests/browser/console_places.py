"""Where this machine has a Chromium and the console's fetched assets."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright


def browser_binary() -> str | None:
    """Debian's Chromium, or the one that `playwright install chromium` brings."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).exists() else None


def vendored_assets() -> Path:
    """The folder that holds the packages whose scripts the console serves."""
    return Path(sysconfig.get_paths()["purelib"])


needs_chromium = pytest.mark.skipif(
    browser_binary() is None,
    reason="no Chromium here: install Debian's `chromium`, or `playwright install chromium`",
)
