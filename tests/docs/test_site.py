"""The site builds without a warning, its links lead somewhere, and no page fetches anything from elsewhere."""

import re
import tomllib
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from support.pages import REPOSITORY

# What a browser fetches by itself.
FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Links(HTMLParser):
    """The links of a page, the anchors in it, and what it fetches."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag refers to."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.anchors.add(value)
            if (tag, name) in FETCHED:
                self.fetched.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Links]:
    """Every page of the site, built as `make docs` builds it: a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of mkdocs' own dependencies; its own are strict
        build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder)))
    return {path: Links(path) for path in sorted(folder.rglob("*.html"))}


def test_links_lead_to_pages_and_anchors_that_are_there(pages: dict[Path, Links]) -> None:
    assert len(pages) > 15
    for page, found in pages.items():
        if page.name == "404.html":  # its links are of the root of a server
            continue
        for link in found.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            path = path / "index.html" if path.is_dir() else path
            assert path.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in pages[path].anchors, f"{page.name}: {link}"


def test_pages_fetch_nothing_from_elsewhere(pages: dict[Path, Links]) -> None:
    for page, found in pages.items():
        assert not [one for one in found.fetched if re.match(r"(?:[a-z]+:)?//", one)], page.name
        text = page.read_text(encoding="utf-8")
        for host in ("fonts.googleapis.com", "unpkg.com", "cdn.jsdelivr.net", "google-analytics.com"):
            assert host not in text, page.name


def test_changelog_and_citation_are_of_the_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{released[0]}]")
    assert released[0] == project["version"]
    assert f"version: {project['version']}" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
