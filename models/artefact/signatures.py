"""Signatures: who made an artefact. Ed25519 (RFC 8032), over the hash of its manifest, which covers every file.

    signatures.json     {public key in hexadecimal: signature in base64}, beside the manifest; several may sign

A repository keeps each under signatures/KEY beside the manifest, so that signing again changes nothing that is there.

Keys are PEM files as openssl makes them. Needs the extra `signatures`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gatewatch.models.artefact.files import MANIFEST, SHIPPED_AS, load_artefact, manifest_hash, read_file, standing
from gatewatch.models.errors import ArtefactError, GatewatchError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURES: Final = "signatures.json"
KEY: Final = re.compile("[0-9a-f]{64}")
LARGEST_SIGNATURE: Final = 1024
LARGEST: Final = 65_536
"""Bytes of a file of keys or signatures."""

_CONTEXT: Final = b"gatewatch artefact\0"
"""Before what is signed, so that a signature is for nothing else."""

_PUBLIC: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class Trust:
    """Whose artefacts are used.

    Attributes:
        keys: public keys, in hexadecimal.
    """

    def __init__(self, keys: list[Ed25519PublicKey]) -> None:
        self._keys = keys
        self.keys = [key.public_bytes_raw().hex() for key in keys]

    def require(self, folder: Path, manifest_sha256: str) -> None:
        """Raise an ArtefactError unless one of the keys has signed the hash of the manifest in a folder."""
        self.require_from(signatures_in(folder).get, str(folder), manifest_sha256)

    def require_from(self, signature_by: Callable[[str], str | None], place: str, manifest_sha256: str) -> None:
        """The same of signatures that are found by the key that made them."""
        from cryptography.exceptions import InvalidSignature

        for name, key in zip(self.keys, self._keys, strict=True):
            try:
                key.verify(base64.b64decode(signature_by(name) or "", validate=True), _signed(manifest_sha256))
            except (InvalidSignature, ValueError):
                continue
            return
        raise ArtefactError(
            f"{place} is not signed by a trusted key; expected a signature by one of GATEWATCH_TRUSTED_KEYS in "
            f"{SIGNATURES}, as gatewatch sign makes it"
        )


def trust_of(file: Path | None, model: str) -> Trust | None:
    """Who is to have signed a model; None where nobody need: without a file, and for the models that are shipped.

    Raises:
        GatewatchError: the file has no public keys, or the extra is missing.
    """
    if file is None or model in SHIPPED_AS:
        return None
    _need_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = []
    for pem in _PUBLIC.findall(read_file(file, LARGEST)):
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise GatewatchError(f"{file}: a public key in it cannot be read: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise GatewatchError(f"{file}: a key in it is not of Ed25519; expected what openssl pkey -pubout writes")
        keys.append(key)
    if not keys:
        raise GatewatchError(f"{file}: no public key in it; expected some, in PEM, as openssl pkey -pubout writes them")
    return Trust(keys)


def sign(folder: Path, private_key: Path) -> str:
    """Sign the artefact in a folder, beside what others have signed; the public key in hexadecimal.

    Raises:
        GatewatchError: the artefact or the key cannot be used, or the signature cannot be written.
    """
    key = _private(private_key)
    load_artefact(folder)  # what is damaged is not signed
    place = standing(folder)
    content = manifest_hash(json.loads(read_file(place / MANIFEST)))
    name = key.public_key().public_bytes_raw().hex()
    signatures = {**signatures_in(place), name: base64.b64encode(key.sign(_signed(content))).decode()}
    written = place / f".{SIGNATURES}-next"
    try:
        written.write_text(json.dumps(signatures, indent=1) + "\n")
        written.replace(place / SIGNATURES)
    except OSError as error:
        raise ArtefactError(f"{folder}: the signature cannot be written: {error.strerror}") from error
    return name


def _private(file: Path) -> Ed25519PrivateKey:
    _need_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_file(file, LARGEST), None)
    except (ValueError, TypeError) as error:
        raise GatewatchError(f"{file}: no private key in PEM and without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise GatewatchError(f"{file}: not of Ed25519; expected what openssl genpkey -algorithm ed25519 makes")
    return key


def signatures_in(folder: Path) -> dict[str, str]:
    """Public key to signature; none where there is no file."""
    path = folder / SIGNATURES
    if not path.exists():
        return {}
    try:
        found = json.loads(read_file(path, LARGEST))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not JSON: {error}; sign the artefact again") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ArtefactError(f"{path}: not signatures by public key; sign the artefact again")
    return found


def _signed(manifest_sha256: str) -> bytes:
    return _CONTEXT + bytes.fromhex(manifest_sha256)


def _need_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise GatewatchError("signatures need the extra: pip install 'gatewatch[signatures]'") from error
