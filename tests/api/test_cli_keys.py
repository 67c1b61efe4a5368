"""The command gatewatch keys, and when serve refuses to start without one."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import httpx2
import pytest

from gatewatch.models.errors import GatewatchError
from gatewatch.service.commands.keys import create
from tests.support.access import bearer
from tests.support.cli import gatewatch, refused
from tests.support.whole_path import serving


def listed(*options: str | Path, **environment: str) -> dict[str, list[str]]:
    """Id to the cells behind it."""
    done = gatewatch("keys", "list", *options, **environment)
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert rows[0] == ["id", "state", "tenant", "scopes", "created", "expires", "name"]
    return {row[0]: row[1:] for row in rows[1:]}


def made(*options: str | Path, **environment: str) -> str:
    done = gatewatch("keys", "create", *options, **environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gw_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", done.stdout), done.stdout
    return done.stdout.strip()


def test_a_file_of_keys_is_made_rotated_and_revoked_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = made(
        "--scopes", "ingest,read", "--tenant", "plant-1", "--name", "gateway 7", "--expires", "90d", "--file", file
    )
    assert key[16:] not in file.read_text()
    ((key_id, (state, tenant, scopes, _, expires, name)),) = listed("--file", file).items()
    assert (key_id, state, tenant, scopes, name) == (key[3:15], "good", "plant-1", "ingest,read", "gateway 7")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", expires)
    done = gatewatch("keys", "rotate", key_id, "--overlap", "0s", "--file", file)
    new = done.stdout.strip()
    rows = listed("--file", file)
    assert {row: cells[0] for row, cells in rows.items()} == {key_id: "expired", new[3:15]: "good"}
    assert rows[new[3:15]][1:3] == [tenant, scopes]
    assert refused(gatewatch("keys", "rotate", key_id, "--file", file), "is expired; make another one")
    assert gatewatch("keys", "revoke", new[3:15], "--file", file).returncode == 0
    assert listed("--file", file)[new[3:15]][0] == "revoked"


@pytest.mark.parametrize(("options", "words"), [
    ({"scopes": "everything"}, "expected some of ingest, read, operate, admin, metrics"),
    ({"scopes": ""}, "expected some of"),
    ({"scopes": "read", "expires": "soon"}, "'soon' is no time"),
    ({"scopes": "read", "tenant": "a b"}, "--tenant is 'a b'"),
    ({"scopes": "read", "name": "x" * 65}, "65 characters"),
])  # fmt: skip
def test_what_cannot_be_a_key_is_said_and_not_made(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(GatewatchError, match=re.escape(words)):
        create(**options, file=tmp_path / "keys.json")  # type: ignore[arg-type]
    assert not (tmp_path / "keys.json").exists()


def test_a_key_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[]")
    done = gatewatch("keys", "revoke", "0123456789ab", "--file", tmp_path / "keys.json")
    assert refused(done, "there is no key 0123456789ab")


@pytest.mark.parametrize("content", ["{}", "no JSON", '[{"id": "x"}]'])
def test_a_file_that_holds_no_keys_is_one_line_also_for_serve(artefact: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content, encoding="latin-1")
    assert refused(gatewatch("keys", "list", "--file", file), "no list of keys")
    environment = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
    assert refused(gatewatch("serve", "--port", "0", GATEWATCH_KEYS_FILE=str(file), **environment), "no list of keys")


def test_a_key_is_written_once_to_a_file_that_others_may_not_read(tmp_path: Path) -> None:
    data = {"GATEWATCH_DATA_DIR": str(tmp_path / "data")}
    out = tmp_path / "key"
    options = ("keys", "create", "--scopes", "metrics", "--out", out)
    assert gatewatch(*options, **data).stdout == ""
    key = out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) & 0o007 == 0
    again = gatewatch(*options, **data)
    assert (again.returncode, out.read_text()) == (0, key)
    assert "holds a good key already" in again.stderr
    gatewatch("keys", "revoke", key[3:15], **data)
    gatewatch(*options, **data)
    assert out.read_text() != key
    assert sorted(cells[0] for cells in listed(**data).values()) == ["good", "revoked"]


def test_nobody_listens_beyond_this_machine_without_a_key_or_a_word(artefact: Path, tmp_path: Path) -> None:
    environment = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
    done = gatewatch("serve", "--host", "0.0.0.0", "--port", "0", **environment)
    assert refused(done, "gatewatch keys create")
    assert "GATEWATCH_OPEN=always" in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("{")]) == 1
    with serving(artefact, tmp_path / "data", "--host", "0.0.0.0", GATEWATCH_OPEN="always") as (url, _):
        assert httpx2.get(f"{url}/v1/streams").status_code == 200
    key = made("--scopes", "read", **environment)
    with serving(artefact, tmp_path / "data", "--host", "0.0.0.0") as (url, _):
        assert httpx2.get(f"{url}/v1/streams").status_code == 401
        assert httpx2.get(f"{url}/v1/streams", headers=bearer(key)).status_code == 200
        admin = made("--scopes", "admin", **environment)  # while the service runs
        changes = until_answered(f"{url}/v1/audit", admin)["changes"]
        assert [change["target"] for change in changes] == [admin[3:15], key[3:15]]
        assert changes[0]["what"] == "keys create"
        assert key[16:] not in json.dumps(changes)


def until_answered(url: str, key: str) -> dict[str, list[dict[str, str]]]:
    for _ in range(200):
        reply = httpx2.get(url, headers=bearer(key))
        if reply.status_code == 200:
            found: dict[str, list[dict[str, str]]] = reply.json()
            return found
    pytest.fail("a new key is not taken")
