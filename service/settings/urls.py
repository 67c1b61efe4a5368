"""URLs of settings: whether they can be used, and how they are shown without a password."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote_plus, urlsplit


def can_be_used(url: str) -> bool:
    """Whether redis-py can make a connection of it; nothing is connected here."""
    several = url.partition("://")[0].lower().endswith(("+sentinel", "+cluster"))
    parts = split(url)
    if not several and (parts is None or parts.scheme not in ("redis", "rediss", "unix")):
        return False
    if several and ("#" in url or url.count("@") > 1):
        return False
    from redis import RedisError  # an import of 0.1 s, which only a service needs

    from gatewatch.service.storage.addresses import address_of, connections_of

    try:
        address = address_of(url)
        connections_of(url, 1.0)()
    except (ValueError, TypeError, RedisError):
        return False
    return "decode_responses" not in address.options  # states are bytes, not text


def split(url: str) -> SplitResult | None:
    """A URL's parts; None where it has none, or where an unescaped character may have cut a password in two."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError where it is no number
    except ValueError:
        return None
    stray = parts.fragment or (parts.scheme != "unix" and "@" in parts.path)
    options = parts.query.split("&") if parts.query else []
    return None if stray or not all("=" in option for option in options) else parts


def redact(url: str) -> str:
    """A URL without its password; without all of it where a password may stand out of place."""
    parts = split(url)
    if parts is None:
        return f"{url.partition('://')[0]}://***" if "://" in url else "***"
    if parts.password is not None:
        user = f"{parts.username}:***@" if parts.username else ":***@"
        parts = parts._replace(netloc=user + parts.netloc.rpartition("@")[2])
    options = [option.partition("=") for option in parts.query.split("&")]
    shown = [
        f"{name}=***" if equals and "pas" in unquote_plus(name).lower() else f"{name}{equals}{value}"
        for name, equals, value in options
    ]
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{'&'.join(shown)}" if parts.query else "")
