"""gatewatch keys: make keys, look at them, end them."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import re
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import tell, warn_in_one_line

if TYPE_CHECKING:
    from gatewatch.service.access.audit import Audit
    from gatewatch.service.access.key_store import KeyStore
    from gatewatch.service.access.keys import Key
    from gatewatch.service.access.scopes import Scope

T = TypeVar("T")

keys = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke keys.")

TIMEOUT_MS: Final = 5000

File = Annotated[Path | None, typer.Option(help="file of keys, as in GATEWATCH_KEYS_FILE, in place of Redis")]
Out = Annotated[
    Path | None,
    typer.Option(help="file to write the key to, in place of standard output; one that holds a good key stays"),
]
KeyId = Annotated[str, typer.Argument(help="the key's id, as `list` shows it")]


@keys.command()
def create(
    scopes: Annotated[str, typer.Option(help="what it may do: ingest, read, operate, metrics, admin; with commas")],
    name: Annotated[str, typer.Option(help="for people: who has it")] = "",
    tenant: Annotated[str | None, typer.Option(help="whose streams it sees [GATEWATCH_TENANT]")] = None,
    expires: Annotated[str | None, typer.Option(help="how long it is good, as 90d, 12h, 30m or 45s")] = None,
    file: File = None,
    out: Out = None,
) -> None:
    """Make a key and show it, this once: only its SHA-256 is kept."""
    from gatewatch.service.access import keys as key_module

    named = _scopes(scopes)
    until = None if expires is None else time.time() + _seconds(expires)
    whose = _tenant(tenant)
    if len(name) > key_module.MOST_NAME:
        raise GatewatchError(f"--name has {len(name)} characters; at most {key_module.MOST_NAME} are kept")

    async def make(store: KeyStore, audit: Audit | None) -> str | None:
        if out is not None and out.exists() and await _is_good(store, out):
            return None
        secret, key = key_module.make(whose, named, name, until)
        await store.add(key)
        await _note(audit, key, "keys create", {"name": name, "scopes": list(named), "expires": _shown(until)})
        return secret

    _hand_out(_with_keys(file, make), out)


@keys.command("list")
def list_keys(file: File = None) -> None:
    """All keys, without what is secret of them."""

    async def load(store: KeyStore, _: Audit | None) -> list[Key]:
        return await store.load()

    rows = [("id", "state", "tenant", "scopes", "created", "expires", "name")]
    for key in _with_keys(file, load):
        times = _shown(key.created), _shown(key.expires)
        rows.append((key.id, key.state(), key.tenant, ",".join(key.scopes), *times, key.name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command()
def revoke(key_id: KeyId, file: File = None) -> None:
    """Have a key refused, within five seconds on every process."""

    async def end(store: KeyStore, audit: Audit | None) -> None:
        key = await _find(store, key_id)
        await store.revoke(key_id)
        await _note(audit, key, "keys revoke", None)

    _with_keys(file, end)


@keys.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="how long the key before stays good, as 1h; 0s ends it now")] = "1h",
    expires: Annotated[str | None, typer.Option(help="how long the new one is good; as long as the one before")] = None,
    file: File = None,
    out: Out = None,
) -> None:
    """Make a key like another one, which ends after the overlap."""
    from gatewatch.service.access import keys as key_module

    overlap_s, lasts_s = _seconds(overlap), None if expires is None else _seconds(expires)

    async def replace(store: KeyStore, audit: Audit | None) -> str:
        before = await _find(store, key_id)
        now = time.time()
        if (state := before.state(now)) != "good":
            raise GatewatchError(f"the key {key_id} is {state}; make another one: gatewatch keys create")
        span_s = lasts_s if lasts_s is not None or before.expires is None else before.expires - before.created
        secret, key = key_module.make(
            before.tenant, before.scopes, before.name, None if span_s is None else now + span_s
        )
        await store.add(key)
        await store.retire(key_id, min(now + overlap_s, before.expires or float("inf")))
        await _note(audit, key, "keys rotate", {"in place of": key_id, "overlap_s": overlap_s})
        return secret

    _hand_out(_with_keys(file, replace), out)


def _with_keys(file: Path | None, work: Callable[[KeyStore, Audit | None], Coroutine[Any, Any, T]]) -> T:
    """Do something with the keys of a file, or with those in Redis."""
    from gatewatch.service.access.audit import Audit
    from gatewatch.service.access.key_store import FileKeys, RedisKeys
    from gatewatch.service.cli_support.settings import settings_of_environment
    from gatewatch.service.errors import ServiceError
    from gatewatch.service.observability.logs import configure_logs
    from gatewatch.service.storage.cluster_store import store_of

    configure_logs("warning")  # standard output is for the key alone
    if file is not None:
        return asyncio.run(work(FileKeys(file), None))
    settings = settings_of_environment()
    with _redis(settings.redis_url, settings.data_dir) as url:

        async def ask() -> T:
            database = store_of(url, settings.tenant, TIMEOUT_MS, replicas=settings.store_replicas)
            try:
                return await work(RedisKeys(database), Audit(database))
            except ServiceError as error:
                raise GatewatchError(str(error)) from error
            finally:
                await database.close()

        return asyncio.run(ask())


@contextlib.contextmanager
def _redis(url: str | None, data_dir: Path) -> Iterator[str]:
    """The URL of Redis; without one that of the private server, which is started where it does not run."""
    from gatewatch.service.storage.private_redis import PrivateRedisError, running, start_private_redis

    url = url or running(data_dir)
    if url is not None:
        yield url
        return
    try:
        with start_private_redis(data_dir) as private:
            yield private.url
    except PrivateRedisError as error:
        raise GatewatchError(str(error)) from error


async def _find(store: KeyStore, key_id: str) -> Key:
    found = next((key for key in await store.load() if key.id == key_id), None)
    if found is None:
        raise GatewatchError(f"there is no key {key_id[:64]}; gatewatch keys list shows those that there are")
    return found


async def _is_good(store: KeyStore, out: Path) -> bool:
    """Whether a file holds a key that is good."""
    from gatewatch.service.access.keys import LENGTH, Known, find

    try:
        with out.open("rb") as opened:
            shown = opened.read(LENGTH + 2).strip()
    except OSError as error:
        raise GatewatchError(f"{out}: cannot be read: {error.strerror}") from error
    good = {key.id.encode(): Known(key) for key in await store.load() if key.state() == "good"}
    return find(good, shown) is not None


def _hand_out(secret: str | None, out: Path | None) -> None:
    """Show a new key to whoever made it, and to nobody else."""
    if secret is None:
        warn_in_one_line(f"{out} holds a good key already, which stays")
    elif out is None:
        print(secret)
    else:
        try:
            with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
                file.write(secret + "\n")
        except OSError as error:
            raise GatewatchError(f"{out}: the key cannot be written: {error.strerror}") from error


async def _note(audit: Audit | None, key: Key, what: str, detail: Any) -> None:
    if audit is not None:
        await audit.note(key.tenant, f"command of {_user()}@{socket.gethostname()}", what, key.id, detail)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _tenant(given: str | None) -> str:
    from gatewatch.service.access.keys import TENANT
    from gatewatch.service.cli_support.settings import settings_of_environment

    tenant = settings_of_environment().tenant if given is None else given
    if not re.fullmatch(TENANT, tenant):
        raise GatewatchError(f"--tenant is {tenant[:80]!r}; expected up to 64 letters, digits, '.', '_' or '-'")
    return tenant


def _scopes(given: str) -> tuple[Scope, ...]:
    from gatewatch.service.access.scopes import SCOPES

    named = tuple(dict.fromkeys(word.strip() for word in given.split(",")))
    if not named or any(word not in SCOPES for word in named):
        raise GatewatchError(f"--scopes is {given[:80]!r}; expected some of {', '.join(SCOPES)}, with commas between")
    return cast("tuple[Scope, ...]", named)


def _seconds(given: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([smhd])", given)
    if found is None:
        raise GatewatchError(f"{given[:40]!r} is no time; expected a number and s, m, h or d, as 90d")
    return float(int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]])


def _shown(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
