"""Pages that stand elsewhere in the repository join the site from there, and links are turned to the site's pages.

So nothing stands twice, and a link in a page is one between files of the repository, which readers of those can follow.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
# Page → file, and of it one section alone.
PAGES: dict[str, tuple[str, str | None]] = {
    "index.md": ("README.md", None),
    "deployment.md": ("deploy/README.md", None),
    "capacity.md": ("deploy/capacity.md", None),
    "security.md": ("SECURITY.md", None),
    "model-card.md": ("model/pretrained/tiny/MODEL_CARD.md", None),
    "own-heads.md": ("training/README.md", "Labels of your own"),
    "training.md": ("training/README.md", None),
    "performance.md": ("benchmarks/README.md", None),
    "contributing.md": ("CONTRIBUTING.md", None),
    "changelog.md": ("CHANGELOG.md", None),
}
_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add what stands elsewhere: pages, and the pictures beside them."""
    for page, (file, section) in PAGES.items():
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        if section is not None:
            text = _section(text, section)
        else:
            for other, name in PAGES.values():
                if other == file and name is not None:
                    text = text.replace(_raw_section(text, name), "")
        files.append(File.generated(config, page, content=text))
    for picture in sorted((REPOSITORY / "deploy/pictures").glob("*.png")):
        name = picture.relative_to(REPOSITORY).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links between files of the repository become links between pages; those to sources become names."""
    del config
    name = page.file.src_uri
    folder = posixpath.dirname(PAGES[name][0] if name in PAGES else f"docs/{name}")

    def turned(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        file = posixpath.normpath(posixpath.join(folder, target)) if target else _file_of(name)
        found = _page_of(file, anchor)
        if found is not None:
            to, anchor = found
            return f"{mark}[{text}]({'' if to == name else to}{anchor or ('' if to != name else '#')})"
        if files.get_file_from_path(file):
            return f"{mark}[{text}]({file})"
        if not (REPOSITORY / file).exists():
            raise PluginError(f"{_file_of(name)}: {target} leads nowhere")
        return text

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(turned, part) for part in parts)


def _file_of(page: str) -> str:
    return PAGES[page][0] if page in PAGES else f"docs/{page}"


def _page_of(file: str, anchor: str) -> tuple[str, str] | None:
    """The page that has `file` at `anchor`, and the anchor in it."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/"), anchor
    for page, (source, section) in PAGES.items():
        if source == file and section is not None and anchor == f"#{section.lower().replace(' ', '-')}":
            return page, ""
    for page, (source, section) in PAGES.items():
        if source == file and section is None:
            return page, anchor
    return None


def _raw_section(text: str, name: str) -> str:
    """A section of the second level with its heading."""
    found = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise PluginError(f"there is no section {name!r} any more; name the new one in docs/include.py")
    return found[0]


def _section(text: str, name: str) -> str:
    """A section as a page of its own: every heading a level up."""
    return re.sub(r"^#(#+ )", r"\1", _raw_section(text, name), flags=re.MULTILINE)
