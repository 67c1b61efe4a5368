"""Keys: how one is made, what is kept of it, and how one that is shown is recognised.

A key is `gw_ID_SECRET`: twelve hexadecimal digits to tell keys apart, and 256 random bits in base64url. Whoever makes
it sees it once. What is kept is its SHA-256, which needs no salt and no slow hash: 256 random bits cannot be guessed.
"""

from __future__ import annotations

import secrets
import time
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Final

import msgspec

from gatewatch.service.access.identity import Identity
from gatewatch.service.access.scopes import Scope, granted

LENGTH: Final = 59
"""Characters of a key; of anything longer not even a hash is made."""

TENANT: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MOST_NAME: Final = 64


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a key. Times are Unix seconds.

    Attributes:
        id: twelve hexadecimal digits; no secret.
        sha256: of the whole key, hexadecimal.
        name: for people.
        tenant: whose streams its holder sees.
        scopes: what its holder may do.
        created, expires: when; None: it does not expire.
        revoked: when it was, or None.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    name: Annotated[str, msgspec.Meta(max_length=MOST_NAME)] = ""
    tenant: Annotated[str, msgspec.Meta(pattern=TENANT)] = "default"
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    created: float
    expires: float | None = None
    revoked: float | None = None

    def state(self, now: float | None = None) -> str:
        """`good`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        gone = self.expires is not None and self.expires <= (time.time() if now is None else now)
        return "expired" if gone else "good"


class Known:
    """A key as a process holds it, made ready for its holder's requests.

    Attributes:
        digest: its SHA-256.
        of_file: it comes from a file, so that nobody need ask Redis whether it is still good.
        expires: Unix seconds, or infinity.
        revoked: whether it is.
        identity: its holder.
    """

    __slots__ = ("digest", "expires", "identity", "of_file", "revoked")

    def __init__(self, key: Key, of_file: bool = False) -> None:
        self.of_file = of_file
        self.digest = bytes.fromhex(key.sha256)
        self.expires = float("inf") if key.expires is None else key.expires
        self.revoked = key.revoked is not None
        self.identity = Identity(f"key {key.id} {key.name}".rstrip(), key.tenant, granted(key.scopes))


def make(tenant: str, scopes: tuple[Scope, ...], name: str = "", expires: float | None = None) -> tuple[str, Key]:
    """A new key: what its holder gets, and what is kept."""
    key_id = secrets.token_hex(6)
    secret = f"gw_{key_id}_{secrets.token_urlsafe(32)}"
    kept = Key(
        id=key_id,
        sha256=sha256(secret.encode()).hexdigest(),
        name=name,
        tenant=tenant,
        scopes=scopes,
        created=round(time.time(), 3),
        expires=expires,
    )
    return secret, kept


def has_form(shown: bytes) -> bool:
    """Whether something looks like a key."""
    return len(shown) == LENGTH and shown[:3] == b"gw_"


def find(known: dict[bytes, Known], shown: bytes) -> Known | None:
    """The key that was shown, if it is one of those that are known, by their ids. It is asked for every reading."""
    if not has_form(shown):
        return None
    key = known.get(shown[3:15], _NOBODYS)  # an id that is not there takes the time of one that is
    return key if compare_digest(key.digest, sha256(shown).digest()) else None


_NOBODYS: Final = Known(Key(id="0" * 12, sha256="0" * 64, scopes=("read",), created=0, revoked=0))
