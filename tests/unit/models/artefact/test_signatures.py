"""An artefact is taken only from those who are trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gatewatch.models.artefact.files import GRAPH, MANIFEST, load_artefact, manifest_hash
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.signatures import SIGNATURES, sign, trust_of
from gatewatch.models.detectors.canary import verify
from gatewatch.models.errors import ArtefactError, GatewatchError
from tests.support.cli import gatewatch, refused
from tests.support.samples import make_artefact


def make_key(folder: Path, name: str) -> tuple[Path, bytes]:
    """A private key in a file, and the public one, both in PEM."""
    key = Ed25519PrivateKey.generate()
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def copy(artefact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def test_an_artefact_is_taken_if_one_of_those_trusted_has_signed_it(copy: Path, tmp_path: Path) -> None:
    (ours, ours_public), (theirs, theirs_public) = make_key(tmp_path, "ours"), make_key(tmp_path, "theirs")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(b"# the training machine\n" + ours_public + b"\n" + make_key(tmp_path, "old")[1])
    trust = trust_of(trusted, str(copy))
    with pytest.raises(ArtefactError, match="not signed by a trusted key"):
        load_artefact(copy, trust)
    sign(copy, theirs)
    with pytest.raises(ArtefactError, match="not signed by a trusted key"):
        load_artefact(copy, trust)
    sign(copy, ours)
    assert load_artefact(copy, trust).digest == load_artefact(copy).digest
    trusted.write_bytes(theirs_public)
    load_artefact(copy, trust_of(trusted, str(copy)))  # signatures stand beside each other
    assert trust_of(trusted, "general") is None
    assert trust_of(None, str(copy)) is None


def test_a_signature_is_for_one_artefact_as_it_was(copy: Path, tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "ours")
    (tmp_path / "trusted.pem").write_bytes(public)
    trust = trust_of(tmp_path / "trusted.pem", str(copy))
    sign(copy, key)
    other = make_artefact(tmp_path / "other", 1)
    shutil.copy(copy / SIGNATURES, other)
    with pytest.raises(ArtefactError, match="not signed by a trusted key"):
        load_artefact(other, trust)
    manifest = json.loads((copy / MANIFEST).read_text()) | {"interval_s": 7.0}
    (copy / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": manifest_hash(manifest)}))
    with pytest.raises(ArtefactError, match="not signed by a trusted key"):
        load_artefact(copy, trust)


@pytest.mark.parametrize(
    "content", ["[]", "no JSON", '{"a": 1}', "[" * 60_000, '{"%s": "!"}', '{"%s": ""}', " " * 70_000]
)
def test_a_file_of_signatures_that_is_none_is_an_error_of_the_artefact(
    copy: Path, tmp_path: Path, content: str
) -> None:
    _, public = make_key(tmp_path, "ours")
    (tmp_path / "trusted.pem").write_bytes(public)
    trust = trust_of(tmp_path / "trusted.pem", str(copy))
    assert trust is not None
    (copy / SIGNATURES).write_text(content.replace("%s", trust.keys[0]))
    with pytest.raises(ArtefactError):
        load_artefact(copy, trust)


def test_keys_that_are_none_are_one_line(copy: Path, tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048)
    file = tmp_path / "keys.pem"
    spki = PublicFormat.SubjectPublicKeyInfo
    for content, words in [
        (b"", "no public key"),
        (rsa.public_key().public_bytes(Encoding.PEM, spki), "not of Ed25519"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
    ]:
        file.write_bytes(content)
        with pytest.raises(GatewatchError, match=words):
            trust_of(file, str(copy))
    file.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(GatewatchError, match="not of Ed25519"):
        sign(copy, file)
    (copy / GRAPH).write_bytes(b"")
    with pytest.raises(ArtefactError, match=GRAPH):  # what is damaged is not signed
        sign(copy, make_key(tmp_path, "ours")[0])


def test_serve_takes_only_what_is_signed(copy: Path, tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "ours")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(public)
    environment = {
        "GATEWATCH_MODEL": str(copy),
        "GATEWATCH_DATA_DIR": str(tmp_path / "data"),
        "GATEWATCH_TRUSTED_KEYS": str(trusted),
    }
    assert refused(gatewatch("serve", "--port", "0", **environment), "is not signed by a trusted key")
    assert "signed by" in gatewatch("sign", copy, "--key", key).stdout
    assert refused(gatewatch("serve", "--port", "0", "--host", "0.0.0.0", **environment), "keys create")  # it was taken


def test_a_repository_gives_only_versions_that_a_trusted_key_has_signed(copy: Path, tmp_path: Path) -> None:
    (key, public), (other, _) = make_key(tmp_path, "ours"), make_key(tmp_path, "theirs")
    (tmp_path / "trusted.pem").write_bytes(public)
    url = str(tmp_path / "models")
    trusting = Repository(url, verify, trust_of(tmp_path / "trusted.pem", url))
    sign(copy, other)
    version = Repository(url, verify).add("pumps", copy, "ann")
    for attempt in (lambda: trusting.artefacts.artefact(version), lambda: trusting.promote("pumps", "1", "ann")):
        with pytest.raises(ArtefactError, match="not signed by a trusted key"):
            attempt()
    sign(copy, key)
    assert Repository(url, verify).add("pumps", copy, "ann") == version
    assert trusting.artefacts.artefact(version).digest.hex() == version.digest
    trusting.promote("pumps", "1", "ann")
    held = tmp_path / "models/artefacts" / version.sha256 / "signatures"
    assert len(list(held.iterdir())) == 2
    for path in held.iterdir():
        path.chmod(0o644)
        path.write_text("AAAA")
    with pytest.raises(ArtefactError, match="not signed by a trusted key"):
        trusting.artefacts.artefact(version)
