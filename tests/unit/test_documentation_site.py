"""What `make docs` notices: links that lead nowhere, and pages that fetch from elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    place = ROOT / "docs" / "build_site.py"
    spec = importlib.util.spec_from_file_location("build_site", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_links_are_those_of_the_site(site: ModuleType) -> None:
    known = {
        "README.md": "index.md",
        "docs/label.md": "label.md",
        "docs/adr/0001.md": "adr/0001.md",
        "deploy/README.md": "deploy.md",
        "docs/images/a.png": "images/a.png",
    }
    text = "[a](docs/label.md#keys) ![b](docs/images/a.png) [c](https://a.example/x) [d](#here)"
    moved = "[a](label.md#keys) ![b](images/a.png) [c](https://a.example/x) [d](#here)"
    assert site.moved(text, "README.md", known) == (moved, [])
    assert site.moved("[e](../label.md)", "docs/adr/0001.md", known) == ("[e](../label.md)", [])
    assert site.moved("[f](../docs/label.md)", "deploy/README.md", known)[0] == "[f](label.md)"
    assert site.moved("[g](gone.md)", "docs/label.md", known)[1] == ["gone.md"]


def test_every_link_of_the_documents_leads_somewhere(site: ModuleType, tmp_path: Path) -> None:
    assert site.gather(ROOT, tmp_path) == []
    assert (tmp_path / "index.md").exists()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="other.html#there">x</a>', None),
        ('<a href="#here" id="here">x</a>', None),
        ('<a href="https://a.example/">x</a>', None),
        ('<img src="pic.png">', None),
        ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
        ('<a href="other.html#gone">x</a>', "other.html#gone names no place there"),
        ('<img src="gone.png">', "gone.png leads nowhere"),
        ('<img src="https://a.example/p.png">', "from elsewhere"),
        ('<script src="//a.example/x.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="https://a.example/x.css">', "from elsewhere"),
        ('<link rel="canonical" href="https://a.example/">', None),
        ("<style>a { b: url(https://a.example/f.woff) }</style>", "from elsewhere"),
    ],
)
def test_a_built_page_is_looked_at(
    site: ModuleType, tmp_path: Path, body: str, problem: str | None
) -> None:
    (tmp_path / "index.html").write_text(f"<body>{body}</body>")
    (tmp_path / "other.html").write_text('<h2 id="there">x</h2>')
    (tmp_path / "pic.png").touch()
    found = list(site.problems_of(tmp_path))
    assert found == [] if problem is None else len(found) == 1 and problem in found[0]


def test_a_style_sheet_fetches_nothing_from_elsewhere(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "own.css").write_text("a { b: url(font.woff2) } c { d: url('data:x') }")
    assert list(site.problems_of(tmp_path)) == []
    (tmp_path / "far.css").write_text('@font-face { src: url("https://a.example/f.woff2") }')
    [problem] = site.problems_of(tmp_path)
    assert problem.startswith("far.css: fetches")


def test_every_page_is_in_the_navigation(site: ModuleType) -> None:
    known = site.places(ROOT)
    assert site.not_in_navigation((ROOT / "zensical.toml").read_text("utf-8"), known) == []
    assert site.not_in_navigation("", {"docs/a.md": "a.md", "docs/adr/0001.md": "adr/0001.md"}) == [
        "a.md"
    ]
