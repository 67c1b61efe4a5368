"""The page: static files that ask the HTTP API. Nothing of it comes from another host; there is no build step.

assets/vendor has uPlot (MIT, its licence beside it). Everything else is ours.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

router = APIRouter(include_in_schema=False)

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, answered with 304 while nothing has changed
}
_TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
INDEX: Final = "index.html"


class _Asset:
    """One file, its type, and a tag that changes with it."""

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.media_type = f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def _read() -> dict[str, _Asset]:
    root = files(__package__).joinpath("assets")
    found = [path for folder in (root, root.joinpath("vendor")) for path in folder.iterdir() if path.is_file()]
    return {path.name: _Asset(path.name, path.read_bytes()) for path in found if path.name.rpartition(".")[2] in _TYPES}


_ASSETS: Final = _read()


@router.get("/")
async def index(request: Request) -> Response:
    """The page itself; what it shows is asked of the API."""
    return _send(request, _ASSETS[INDEX])


@router.get("/page/{name}")
async def asset(request: Request, name: str) -> Response:
    """A style, a script."""
    found = _ASSETS.get(name)
    if found is None:
        raise HTTPException(404)
    return _send(request, found)


def _send(request: Request, found: _Asset) -> Response:
    headers = {**HEADERS, "ETag": found.tag}
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
