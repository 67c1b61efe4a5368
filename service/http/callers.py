"""Callers: whose requests are answered. Not those that a page of somebody else has a browser send.

A browser sends what any page asks of it, also to services that only its user can reach. It tells two things about it,
and a page can forge neither: the name under which it looked for the service (Host), and the page that asks (Origin,
Sec-Fetch-Site).

    a page on evil.example                              what gives it away
    has its own name resolve to this service            Host: evil.example (DNS rebinding)
    posts here without being allowed to read the answer Origin: https://evil.example, or null
    shows an image, a frame or a script from here       Sec-Fetch-Site: cross-site, or same-site

Who is no browser sends neither Origin nor Sec-Fetch-Site, and passes by its Host: an address, localhost, one of
GATEWATCH_ALLOWED_HOSTS, or none; or a name without a dot, as Kubernetes, compose and proxies give to services: no page
on the internet has such a name. A link to a page of this service may be followed from anywhere: nothing but the user
sees what it opens. What a proxy says of the name it was asked by (X-Forwarded-Host) proves nothing, and is not read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from gatewatch.service.doors.json_problems import show
from gatewatch.service.errors import BadRequest, Forbidden

FETCHED_BY_A_BROWSER: Final = frozenset((b"origin", b"sec-fetch-site"))
"""With one of these headers a request needs more than a look at its Host."""

_REMEMBERED: Final = 1024
_LONGEST: Final = 300
"""Bytes; a name has at most 253, and a port 5."""

_HOST = re.compile(r"(\[[0-9a-f:.]+(?:%[\w.~-]+)?\]|[^\[\]:@/\s]+)(?::\d*)?", re.ASCII)
_SINGLE = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)
_OWN_SITE: Final = ("same-origin", "none")
"""`none`: the user typed the address, or used a bookmark."""


class Callers:
    """Knows the names that the service goes by."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: beside addresses and localhost."""
        self._names = frozenset(("localhost", *(name.lower() for name in names)))
        self._known: set[bytes] = set()

    def know(self, host: bytes) -> bool:
        """Whether a Host header names this service; any port will do, a proxy may have another one."""
        if host in self._known:
            return True
        if len(host) > _LONGEST or not self._is_own(host.decode("latin-1").strip().lower()):
            return False
        if len(self._known) < _REMEMBERED:
            self._known.add(host)
        return True

    def check(self, method: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise what a request is refused with, if it is.

        Raises:
            BadRequest: several Host headers; a proxy in front may have read another one (RFC 9112, 3.2).
            Forbidden: it comes by a foreign name, or from a foreign page.
        """
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) > 1:
            raise BadRequest(f"{len(hosts)} Host headers; expected one")
        host = hosts[0] if hosts else b""
        if host and not self.know(host):
            raise Forbidden(
                f"the request is for host {show(host.decode('latin-1'))}, which is not one of this service; "
                "expected an IP address, localhost, a name without a dot, or one in GATEWATCH_ALLOWED_HOSTS"
            )
        said = {name: value.decode("latin-1").strip().lower() for name, value in headers}
        site = said.get(b"sec-fetch-site", "none")
        if site not in _OWN_SITE and not _follows_a_link(method, said):
            raise Forbidden(f"a page of another site ({show(site)}) sent the request; expected one of this service")
        for name, value in headers:
            if name == b"origin" and not self._is_own_page(value.decode("latin-1").strip().lower(), said.get(b"host")):
                raise Forbidden(
                    f"a page of {show(value.decode('latin-1'))} sent the request; expected one of this service "
                    "(behind a proxy that changes Host, its name belongs into GATEWATCH_ALLOWED_HOSTS)"
                )

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].removesuffix(".")
        return name in self._names or _SINGLE.fullmatch(name) is not None or _is_address(name.strip("[]"))

    def _is_own_page(self, origin: str, host: str | None) -> bool:
        """Whether a page's origin is the service's own: the host and port asked for, or a name of its own."""
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place != "" and (place == host or place in self._names - {"localhost"})


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _follows_a_link(method: str, said: dict[bytes, str]) -> bool:
    """Whether a request opens a page in a window of its own."""
    opens = said.get(b"sec-fetch-mode") == "navigate" and said.get(b"sec-fetch-dest") == "document"
    return opens and method in ("GET", "HEAD")
