"""The pictures of the review page by kind of input: `python docs/kind_screenshots.py`.

A console of its own, on a database of its own with a sample of each kind, is asked by a browser.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from flywheel.console.app import create_app
from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.sample import Content, ImagePart, Message, Role, TextPart
from flywheel.monitoring.http_server import HttpServer
from flywheel.processes.console import assets_folder
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.objects import open_artefacts
from storage.workspace import open_database

IMAGES = Path(__file__).parent / "images"
TASKS: Mapping[str, dict[str, object]] = {
    "dialogue": {
        "kind": "dialogue",
        "title": "What does the customer want?",
        "labels": ("delivery", "refund", "advice", "other"),
        "training": {"base_model": "base"},
        "review": {"guideline": "What they want at the end, not what they began with."},
    },
    "image": {
        "kind": "image-classification",
        "title": "Which shape is it?",
        "labels": ("disc", "square", "triangle"),
        "review": {"guideline": "The shape in front, whatever is behind it."},
    },
}


def _dialogue() -> Content:
    said: tuple[tuple[Role, str], ...] = (
        ("system", "You help the customers of a lamp shop."),
        ("user", "Hello, I ordered a reading lamp two weeks ago."),
        ("assistant", "Thank you for asking. Which order number does it have?"),
        ("user", "4711. It came, but the shade is cracked. I would rather have my money back."),
    )
    return tuple(Message(role, (TextPart(text),)) for role, text in said)


def _picture() -> bytes:
    image = Image.new("RGB", (960, 540), "#e9ecef")
    draw = ImageDraw.Draw(image)
    draw.rectangle((520, 130, 800, 410), fill="#adb5bd")
    draw.ellipse((230, 110, 590, 470), fill="#0b7285")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _queue(database: Database, task: str, content: Content, **more: object) -> None:
    request = ReviewRequested(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=task,
        sample_id=f"{task}-1",
        content=content,
        reason="random audit",
        priority=75,
        inclusion_probability=0.05,
        audit=True,
        source="shop",
        **more,  # type: ignore[arg-type]
    )
    with database.transaction() as tx:
        tx.intake.open([request])


def main() -> None:
    """Take both pictures."""
    picture = _picture()
    part = ImagePart(hashlib.sha256(picture).hexdigest(), "image/png", 960, 540)
    with tempfile.TemporaryDirectory() as folder:
        settings = FlywheelSettings.model_validate({"workspace": folder, "tasks": TASKS})
        with open_database(settings) as database:
            scores = {"delivery": 0.24, "refund": 0.7, "advice": 0.04, "other": 0.02}
            said = {"prediction": "refund", "scores": scores, "confidence": 0.7}
            _queue(database, "dialogue", _dialogue(), **said)
            text = TextPart("from the north gate")
            _queue(database, "image", (Message("user", (part, text)),))
            artefacts = open_artefacts(settings)
            artefacts.put_bytes(picture)
            app = create_app(
                settings,
                partial(database.transaction, "console"),
                assets_folder(),
                artefacts=artefacts,
            )
            server = HttpServer(app, "127.0.0.1", 0)
            thread = threading.Thread(target=server.run)
            thread.start()
            try:
                _take(server)
            finally:
                server.stop()
                thread.join()


def _take(server: HttpServer) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
        )
        for task in TASKS:
            context = browser.new_context(
                viewport={"width": 1440, "height": 900}, color_scheme="light"
            )
            context.add_init_script("localStorage.setItem('flywheel.annotator', 'ada')")
            page = context.new_page()
            while not server.started:
                page.wait_for_timeout(50)
            page.goto(f"http://127.0.0.1:{server.port}/review/{task}")
            page.wait_for_timeout(1500)
            page.keyboard.press("2" if task == "dialogue" else "1")
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / f"review-{task}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
