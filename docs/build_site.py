"""The documentation as a site: `make docs`. Gathers the pages, builds, and checks what was built.

The generator checks links between pages; what it doesn't (images, other files, anchors of generated
text) is checked here in the HTML itself, and that a page loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "docs"
# What lies beside docs/ and is read there too: its place on the site.
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deploy.md",
}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
# Tags whose address a browser fetches by itself; <link> only with one of these relations.
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_FETCHED_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}
_FETCHED_BY_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")


def places(root: Path) -> dict[str, str]:
    """Repository path → place on the site, of every page and picture."""
    found = {path: place for path, place in BESIDE.items() if (root / path).exists()}
    for path in sorted((root / "docs").rglob("*")):
        if path.suffix in {".md", ".png", ".svg"}:
            found[path.relative_to(root).as_posix()] = path.relative_to(root / "docs").as_posix()
    return found


def gather(root: Path, into: Path) -> list[str]:
    """Copy pages and pictures to where the generator reads them; says which links lead nowhere."""
    known, problems = places(root), []
    for path, place in known.items():
        target = into / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            text, lost = moved((root / path).read_text("utf-8"), path, known)
            target.write_text(text, "utf-8")
            problems += [f"{path}: {link} is no page and no picture of the site" for link in lost]
        else:
            shutil.copy(root / path, target)
    return problems


def moved(text: str, path: str, known: Mapping[str, str]) -> tuple[str, list[str]]:
    """A page's text with its links as they are on the site, and the links that lead nowhere."""
    here, lost = Path(known[path]).parent, []

    def one(match: re.Match[str]) -> str:
        link = match[2]
        parts = urlsplit(link)
        if parts.scheme or not parts.path:
            return match[0]
        meant = os.path.normpath((Path(path).parent / unquote(parts.path)).as_posix())
        if meant not in known:
            lost.append(link)
            return match[0]
        place = os.path.relpath(known[meant], here)
        return f"{match[1]}{place}{'#' + parts.fragment if parts.fragment else ''}{match[3]}"

    return _LINK.sub(one, text), lost


@dataclass
class Page(HTMLParser):
    """What a built page has: names to jump to, links, and addresses that a browser fetches."""

    names: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag, read for its addresses and names."""
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in _FETCHED and values.get(_FETCHED[tag]):
            self.fetched.append(values[_FETCHED[tag]])
        if tag == "link" and _FETCHED_RELATIONS & set(values.get("rel", "").split()):
            self.fetched.append(values.get("href", ""))


def problems_of(site: Path) -> Iterator[str]:
    """Links and addresses of a built site that lead nowhere, or to another host by themselves."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # it is shown at any depth, so its addresses are absolute
        where = path.relative_to(site)
        for address in page.fetched:
            if urlsplit(address).netloc:
                yield f"{where}: fetches {address} from elsewhere"
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            target = Path(os.path.normpath(target / "index.html" if target.is_dir() else target))
            if not target.exists():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and target in pages and not _has(pages[target], parts.fragment):
                yield f"{where}: {link} names no place there"
    for path in sorted([*site.rglob("*.css"), *pages]):
        for address in _FETCHED_BY_STYLE.findall(path.read_text("utf-8")):
            yield f"{path.relative_to(site)}: fetches {address} from elsewhere"


def _has(page: Page, fragment: str) -> bool:
    return unquote(fragment) in page.names


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


def not_in_navigation(configuration: str, known: Mapping[str, str]) -> list[str]:
    """Pages that are not in the navigation; decisions are found by their list."""
    pages = [place for place in known.values() if place.endswith(".md")]
    return [place for place in pages if f'"{place}"' not in configuration and place[:5] != "adr/0"]


def main() -> int:
    """Exit status 0 when the site was built and nothing is wrong with it."""
    shutil.rmtree(BUILD, ignore_errors=True)
    problems = gather(ROOT, BUILD / "pages")
    lost = not_in_navigation((ROOT / "zensical.toml").read_text("utf-8"), places(ROOT))
    problems += [f"zensical.toml: {place} is not in nav" for place in lost]
    if not problems:
        generator = Path(sys.executable).with_name("zensical")
        done = subprocess.run([generator, "build", "--strict"], cwd=ROOT, check=False)
        if done.returncode != 0:
            return done.returncode
        problems = list(problems_of(BUILD / "site"))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"the site is in {(BUILD / 'site').relative_to(ROOT)}: open index.html there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
