"""The doctor at Sentinels, Clusters and servers that are not what the URL says; and with keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from gatewatch.service.cli_support.checks import _repository, all_checks
from gatewatch.service.cli_support.redis_checks import redis_checks
from gatewatch.service.settings import COMMANDS_KEY, Settings
from tests.support.access import add_to_file
from tests.support.cli import gatewatch
from tests.support.redis_servers import redis_cluster, redis_with_sentinels
from tests.support.whole_path import serving


def looked(url: str, **given: object) -> list[tuple[str, str, str]]:
    return [(one.about, one.verdict, one.words) for one in redis_checks(Settings(redis_url=url, **given))]  # type: ignore[arg-type]


def wrong(checks: Sequence[tuple[str, str, str]]) -> list[str]:
    return [words for _, verdict, words in checks if verdict == "wrong"]


def test_sentinels_their_master_and_what_is_no_master(tmp_path: Path) -> None:
    with redis_with_sentinels(tmp_path) as (servers, url):
        good = looked(url)
        assert wrong(good) == []
        assert "2 of 2 Sentinels say that mymaster is 127.0.0.1:" in good[0][2]
        assert {"Redis", "durability", "clock"} == {about for about, _, _ in good}
        assert "GATEWATCH_STORE_REPLICAS is 2" in wrong(looked(url, store_replicas=2))[0]
        assert "knows no master called other" in wrong(looked(url.replace("mymaster", "other")))[0]
        master, replica, first, _ = servers.known
        assert (
            f"is a replica and takes no readings: name its master 127.0.0.1:{master}"
            in (wrong(looked(f"redis://127.0.0.1:{replica}"))[0])
        )
        assert "is of mode sentinel: name it redis+sentinel://" in wrong(looked(f"redis://127.0.0.1:{first}"))[0]
        servers.kill(first)
        checks = looked(url)
        assert any(verdict == "note" and f"{first} does not answer" in words for _, verdict, words in checks)
        done = gatewatch("doctor", "--url", "http://127.0.0.1:9", GATEWATCH_REDIS_URL=url)
        assert "Traceback" not in done.stderr
        assert "1 of 2 Sentinels" in done.stdout


def test_a_cluster_and_a_slot_that_nobody_serves(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as servers:
        ports = servers.known
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        checks = looked(url)
        assert wrong(checks) == []
        assert "3 of 3 masters of the Cluster answer" in checks[-1][2]
        assert "is of mode cluster: name it redis+cluster://" in wrong(looked(f"redis://127.0.0.1:{ports[0]}"))[0]
        servers.client(ports[1]).config_set("appendonly", "no")
        (said,) = wrong(looked(url))
        assert f"the master 127.0.0.1:{ports[1]}: appendonly is no" in said
        servers.kill(ports[2])
        said = "\n".join(wrong(looked(url)))
        assert f"the master 127.0.0.1:{ports[2]} does not answer" in said
        servers.kill(ports[0])
        servers.kill(ports[1])
        assert wrong(looked(url)) == ["none of the 3 nodes named answers"]


def test_a_service_with_keys_and_a_prometheus_that_is_not_shown_them(
    artefact: Path, tmp_path: Path, tenant: str
) -> None:
    heard: list[str | None] = []

    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["authorization"])
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    prometheus = ThreadingHTTPServer(("127.0.0.1", 0), Prometheus)
    Thread(target=prometheus.serve_forever, daemon=True).start()
    key = add_to_file(tmp_path / "keys.json", tenant, "ingest")
    given = {"GATEWATCH_KEYS_FILE": str(tmp_path / "keys.json"), "GATEWATCH_OPEN": "never"}
    with serving(artefact, tmp_path / "data", **given) as (url, _):
        asked = ("doctor", "--json", "--url", url, "--prometheus", f"http://127.0.0.1:{prometheus.server_port}")
        for shown, verdict in (("", "wrong"), ("gw_none", "wrong"), (key, "note")):
            done = gatewatch(*asked, GATEWATCH_MODEL=str(artefact), **{COMMANDS_KEY: shown})
            checks = {check["about"]: check for check in json.loads(done.stdout)}
            assert checks["key"]["verdict"] == verdict, checks
            assert COMMANDS_KEY in checks["key"]["words"]
            assert shown not in done.stdout or not shown
        said = gatewatch("watch", "--once", "--url", url, GATEWATCH_KEY="").stderr
        assert "(401)" in said
        assert "{" not in said
    prometheus.shutdown()
    prometheus.server_close()
    assert heard
    assert set(heard) == {None}


def test_every_check_is_made_where_nothing_is_there(tmp_path: Path) -> None:
    for url in ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/m", "redis+cluster://127.0.0.1:1", "rediss://127.0.0.1:1"):
        found = list(all_checks(Settings(redis_url=url), {}, "http://127.0.0.1:9", None))
        assert [one.about for one in found if one.verdict == "wrong"] == ["Redis"], url


def test_the_doctor_says_whether_the_repository_of_models_is_there(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for url, verdict, words in (
        (str(tmp_path / "models"), "ok", "has 0 models"),
        (str(tmp_path / "unmounted" / "models"), "wrong", "is not there, nor is the folder that it would be in"),
        ("ftp://127.0.0.1:9/models", "wrong", "cannot be opened (Connection refused); streams go on"),
    ):
        (check,) = _repository(Settings(models=url))
        assert (check.about, check.verdict, words in check.words) == ("models", verdict, True), check
    assert list(_repository(Settings())) == []
