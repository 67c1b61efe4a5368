"""What MkDocs is told of these pages beyond mkdocs.yml: the navigation, and files of the repository that pages link to.

The navigation is the list at the end of index.md: a heading a section, a link a page. Files outside docs/, as the
README and the results of benchmarks, come along under `project/` where a page links to them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
LIST: Final = "## All pages"
LINK: Final = re.compile(r"\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
ELSEWHERE: Final = re.compile(r"[a-z]+:|/")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from index.md."""
    found = (ROOT / "docs/index.md").read_text().partition(LIST)[2]
    sections = re.split(r"^### (.+)$", found, flags=re.MULTILINE)[1:]
    nav: list[Any] = [{"Start": "index.md"}]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        nav.append({title: [{text: in_site(f"docs/{target}")} for text, target, _ in LINK.findall(content)]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what those pages link to in turn."""
    known = {file.src_uri for file in files}
    waiting = list((ROOT / "docs").rglob("*.md"))
    while waiting:
        page = waiting.pop()
        for _, target, _ in LINK.findall(page.read_text()):
            path = in_repository(page.relative_to(ROOT).as_posix(), target)
            if path and in_site(path) not in known and (ROOT / path).is_file():
                known.add(in_site(path))
                files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
                waiting += [ROOT / path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links to where files are in the site."""
    here = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        path = in_repository(in_source(here), link[2])
        if not path:
            return link[0]
        return f"[{link[1]}]({posixpath.relpath(in_site(path), posixpath.dirname(here) or '.')}{link[3] or ''})"

    return LINK.sub(led, markdown)


def in_repository(page: str, target: str) -> str:
    """The file that a link of a page names, from the root of the repository; nothing for an address."""
    return "" if ELSEWHERE.match(target) else posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def in_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    path = posixpath.normpath(path)
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"


def in_source(uri: str) -> str:
    """The opposite of `in_site`."""
    return uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"
