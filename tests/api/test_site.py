"""The site of the pages: it builds without a warning, has every page, and asks nobody."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.api.test_documents import ROOT
from tests.api.test_page import CHROMIUM, needs_browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. It must come about without a warning."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_page_is_in_the_navigation_of_the_site(site: Path) -> None:
    start = (site / "index.html").read_text()
    listed = set(re.findall(r'<a href="([^"#]+)" class="md-nav__link', start))
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.html"} - listed == set()


def test_nothing_of_the_site_is_from_elsewhere(site: Path) -> None:
    """What a browser fetches by itself; a link that a person follows may lead anywhere."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?src=\"([^\"]+)", text)
        fetched += re.findall(r"<link\b(?![^>]*rel=\"(?:canonical|next|prev)\")[^>]*?href=\"([^\"]+)", text)
        assert [one for one in fetched if re.match(r"(https?:)?//", one)] == [], page
        assert "mermaid" not in text, page  # the theme would fetch its program


@needs_browser
def test_the_site_is_read_and_searched_in_a_browser_that_asks_nobody_else(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("response", lambda reply: wrong.append(reply.url) if reply.status >= 400 else None)
        for path in ("index.html", "concepts.html", "architecture.html", "http-api.html"):
            page.goto(f"{address}/{path}", wait_until="networkidle")
            assert page.evaluate("[...document.images].filter(one => !one.naturalWidth).map(one => one.src)") == []
        page.locator(".md-search__input").click()
        page.keyboard.type("runbook")
        expect(page.locator(".md-search-result__link").first).to_be_visible()
        browser.close()
    assert [one for one in asked if not one.startswith((address, "data:", "blob:"))] == []
    assert wrong == []
