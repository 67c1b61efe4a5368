"""Oidc: bearer tokens of an identity provider (OpenID Connect), in place of keys. Needs the extra `oidc`.

A token is a JWT that the provider has signed. Its scopes are those of its claim `scope` (words, or a list) that begin
with `gatewatch:`, as `gatewatch:read`; its tenant is its claim `gatewatch.tenant`, or else GATEWATCH_TENANT.

The provider's public keys are fetched when the first token comes, again after RENEW_S, and when a token names one that
is not among them. While the provider does not answer, those fetched last go on for KEEP_S; without any, tokens get 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections import OrderedDict
from typing import Any, Final, TypeVar

import httpx2
import msgspec
import structlog

from gatewatch.models.errors import GatewatchError
from gatewatch.service.access.identity import Identity
from gatewatch.service.access.keys import TENANT
from gatewatch.service.access.scopes import SCOPES, granted
from gatewatch.service.errors import ProviderUnavailable, Unauthorized

T = TypeVar("T")

log = structlog.get_logger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""None that signs with a secret which the verifier has, too."""

RENEW_S: Final = 300.0
KEEP_S: Final = 3600.0
RETRY_S: Final = 5.0
"""The provider is not asked more often than this, whatever tokens come."""

FETCH_S: Final = 3.0
LARGEST_ANSWER: Final = 2**20
LONGEST_TOKEN: Final = 16_384
LEEWAY_S: Final = 10
VERIFIED: Final = 1024
"""Tokens that need not be verified again, for at most VERIFIED_S."""
VERIFIED_S: Final = 60.0

PREFIX: Final = "gatewatch:"
TENANT_CLAIM: Final = "gatewatch.tenant"

_UNKNOWN: Final = "the token was not signed by the provider, or has expired; expected one that is good"


class Oidc:
    """Verifies the tokens of one provider."""

    def __init__(self, issuer: str, audience: str, tenant: str, transport: httpx2.AsyncBaseTransport | None = None):
        """Raises GatewatchError without the extra `oidc`.

        Args:
            issuer: what the claim `iss` must be; its keys are found through ISSUER/.well-known/openid-configuration.
            audience: what must be in the claim `aud`.
            tenant: of tokens that name none.
        """
        try:
            import cryptography  # noqa: F401 - without it, PyJWT verifies only what we do not take
            import jwt
        except ImportError as error:
            raise GatewatchError("GATEWATCH_OIDC_ISSUER needs the extra: pip install 'gatewatch[oidc]'") from error
        self._jwt = jwt
        self._issuer, self._audience, self._tenant = issuer, audience, tenant
        self._transport = transport
        self._keys: dict[str | None, Any] = {}
        self._fetched = self._tried = float("-inf")  # seconds, monotonic
        self._fetching = asyncio.Lock()
        self._verified: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()

    async def identify(self, token: bytes) -> Identity:
        """Whose a token is.

        Raises:
            Unauthorized: it is no token, or not a good one.
            ProviderUnavailable: the provider's keys cannot be fetched.
        """
        if not token or len(token) > LONGEST_TOKEN:
            raise Unauthorized(_UNKNOWN)
        digest = hashlib.sha256(token).digest()
        until, identity = self._verified.get(digest, (0.0, None))
        if identity is not None and time.time() < until:
            return identity
        claims = await self._claims_of(token)
        identity = self._identity_of(claims)
        self._verified[digest] = (min(claims["exp"], time.time() + VERIFIED_S), identity)
        while len(self._verified) > VERIFIED:
            self._verified.popitem(last=False)
        return identity

    async def _claims_of(self, token: bytes) -> dict[str, Any]:
        try:
            named = self._jwt.get_unverified_header(token)
            key = await self._key(named.get("kid"), named.get("alg"))
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthorized(_UNKNOWN) from error
        return claims

    def _identity_of(self, claims: dict[str, Any]) -> Identity:
        said = claims.get("scope", "")
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        scopes = [scope for scope in SCOPES if PREFIX + scope in words]
        tenant = claims.get(TENANT_CLAIM, self._tenant)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
            raise Unauthorized(f"the token's claim {TENANT_CLAIM} is no tenant's name")
        return Identity(f"oidc {str(claims['sub'])[:128]}", tenant, granted(scopes))

    async def _key(self, kid: object, algorithm: object) -> Any:
        """The public key (PyJWK) of a name. Raises Unauthorized, or ProviderUnavailable."""
        if algorithm not in ALGORITHMS or not isinstance(kid, str | None):
            raise Unauthorized(_UNKNOWN)
        now = time.monotonic()
        if kid not in self._keys or now - self._fetched > RENEW_S:
            async with self._fetching:
                if time.monotonic() - self._tried > RETRY_S:
                    await self._fetch()
        if time.monotonic() - self._fetched > KEEP_S:
            raise ProviderUnavailable("the identity provider's keys cannot be fetched, so no token can be verified")
        key = self._keys.get(kid)
        if key is None or key.algorithm_name != algorithm:
            raise Unauthorized(_UNKNOWN)
        return key

    async def _fetch(self) -> None:
        """Have the provider's keys of now; those of before where it does not answer."""
        self._tried = time.monotonic()
        try:
            async with (
                asyncio.timeout(FETCH_S),
                httpx2.AsyncClient(timeout=FETCH_S, transport=self._transport, trust_env=False) as client,
            ):
                found = await _json(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", _About)
                if found.issuer != self._issuer:
                    raise ValueError(f"it says of itself that it is {found.issuer[:128]!r}")
                described = await _json(client, found.jwks_uri, _KeySet)
            self._keys = self._read(described.keys)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
            log.error(
                "the provider's keys cannot be fetched", issuer=self._issuer, cause=f"{type(error).__name__}: {error}"
            )
        else:
            self._fetched = self._tried

    def _read(self, described: list[dict[str, Any]]) -> dict[str | None, Any]:
        """Keys by name; those that cannot be read, or sign nothing, are left out."""
        keys: dict[str | None, Any] = {}
        for one in described[:100]:
            kid = one.get("kid")
            if one.get("use", "sig") != "sig" or one.get("kty") == "oct" or not isinstance(kid, str | None):
                continue
            with contextlib.suppress(self._jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError):
                keys[kid] = self._jwt.PyJWK(one)
        if not keys:
            raise ValueError("it has no key that verifies signatures")
        return keys


class _About(msgspec.Struct):
    """What a provider says of itself."""

    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    """RFC 7517."""

    keys: list[dict[str, Any]]


async def _json(client: httpx2.AsyncClient, url: str, form: type[T]) -> T:
    """JSON of bounded size; no redirect is followed. Raises ValueError for what is no such JSON."""
    async with client.stream("GET", url) as reply:
        reply.raise_for_status()
        content = b""
        async for chunk in reply.aiter_bytes():
            content += chunk
            if len(content) > LARGEST_ANSWER:
                raise ValueError(f"{url} answers with more than {LARGEST_ANSWER} bytes")
    return msgspec.json.decode(content, type=form)
