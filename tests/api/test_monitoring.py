"""What Prometheus, Alertmanager and Grafana make of the service, with the files that we ship."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from gatewatch.models.detectors.incidents import OPEN_READINGS
from tests.support.monitoring import DOCKER, PROGRAMS, Monitoring, monitoring
from tests.support.ports import free_port
from tests.support.samples import readings
from tests.support.waiting import until
from tests.support.whole_path import serving

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="needs prometheus and prometheus-alertmanager, Debian's packages"
)

DASHBOARDS: Final = sorted((DOCKER / "grafana/dashboards").glob("*.json"))
QUIET: Final = 10
LONGEST_S: Final = 10.0


def send(url: str, sent: list[dict[str, Any]]) -> None:
    assert httpx2.post(f"{url}/v1/readings", json=sent).is_success


def begin(url: str, stream: str) -> None:
    """A stream's first readings, and one that is anomalous."""
    sent = readings(stream, QUIET + 1)
    sent[-1]["values"] = {"pressure": 900.0, "flow": 3.0}
    send(url, sent)


def panels(path: Path) -> list[tuple[str, str]]:
    """Title and expression of every query of a dashboard, as Grafana fills it in."""
    found: list[tuple[str, str]] = []
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        expressions = [re.sub(r"\$(job|stream|channel)\b", ".+", target["expr"]) for target in panel["targets"]]
        found += [(panel["title"], expression) for expression in expressions]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert inside, variable
            found.append((variable["name"], re.sub(r"\$(job|stream)\b", ".+", inside[1])))
    return found


def test_an_anomaly_is_one_notification_with_its_text_whatever_restarts_and_its_end_is_one(
    artefact: Path, tmp_path: Path
) -> None:
    """And every query of every dashboard finds something while it is open."""
    port, data = free_port(), tmp_path / "data"
    (folder := tmp_path / "monitoring").mkdir()
    settings = {
        "GATEWATCH_PORT": str(port),
        "GATEWATCH_EXTERNAL_URL": "https://gw.example.com",
        "GATEWATCH_CHANNEL_SERIES": "pump*",
    }
    with monitoring(port, folder) as watched:
        with serving(artefact, data, **settings) as (url, _):
            begin(url, "pump")
            begin(url, "valve")
            until(lambda: watched.sent("firing", stream="pump") and watched.sent("firing", stream="valve"))
            (alert,) = watched.sent("firing", stream="pump")[0]["alerts"]
            assert alert["labels"]["alertname"] == "GatewatchAnomaly"
            assert alert["annotations"]["summary"] == "pump: pressure is above what was expected"
            assert "It was 900, expected " in alert["annotations"]["description"]
            assert "Since 2023-11-14 22:23:20" in alert["annotations"]["description"]
            assert alert["annotations"]["link"] == "https://gw.example.com/v1/streams/pump/history"
            every_query_finds_something(watched)
        until(lambda: watched.sent("firing", alertname="GatewatchUnavailable"))
        with serving(artefact, data, **settings) as (url, _):
            until(lambda: watched.sent("resolved", alertname="GatewatchUnavailable"))
            sent = readings("pump", OPEN_READINGS + QUIET + 20)[QUIET + 1 :]
            for one in sent:
                one["values"] = {name: value or 3.0 for name, value in one["values"].items()}
            send(url, sent)
            until(lambda: watched.sent("resolved", stream="pump"))
            time.sleep(1.5)  # in which a repeat would come
            assert [len(watched.sent("firing", stream=stream)) for stream in ("pump", "valve")] == [1, 1]
            assert [len(watched.sent("resolved", stream=stream)) for stream in ("pump", "valve")] == [1, 0]


def lose_power(url: str, streams: list[str], at_once: int, between_s: float) -> None:
    """Streams that have sent for a while have an anomalous reading each, the first one a second before all others, in
    any order of their arrival: that first one is the last."""
    quiet = readings("any", QUIET)
    for start in range(0, len(streams), 100):
        send(url, [{**one, "stream": name} for name in streams[start : start + 100] for one in quiet])
    strange = readings("any", 1, start=QUIET)[0]
    dead = [{**strange, "stream": name, "values": {"pressure": 900.0, "flow": 3.0}} for name in streams]
    for one in dead[1:]:
        one["timestamp"] += 1
    random.Random(5).shuffle(late := dead[1:])
    late.append(dead[0])
    for start in range(0, len(late), at_once):
        send(url, late[start : start + at_once])
        time.sleep(between_s)


def test_a_site_that_loses_power_is_one_notification_that_names_the_first_stream(
    artefact: Path, tmp_path: Path
) -> None:
    """500 streams, five times as many as have a name; another stream that has no site is told by itself."""
    port, site = free_port(), [f"n-{number:03d}" for number in range(500)]
    (folder := tmp_path / "monitoring").mkdir()
    settings = {"GATEWATCH_PORT": str(port), "GATEWATCH_GROUP_BY": "site", "GATEWATCH_EXTERNAL_URL": "https://gw"}
    settings["GATEWATCH_LOG_LEVEL"] = "warning"  # nobody reads the log
    with monitoring(port, folder, "5s") as watched, serving(artefact, tmp_path / "data", **settings) as (url, _):
        asked = {"policies": [{"pattern": "n-*", "tags": {"site": "north"}}]}
        assert httpx2.put(f"{url}/v1/policies", json=asked).is_success
        lose_power(url, site, 50, 0.0)
        begin(url, "alone")
        until(lambda: watched.sent("firing", alertname="GatewatchGroup"))
        until(lambda: watched.sent("firing", stream="alone"))
        time.sleep(1.5)  # in which more would come
        (alert,) = watched.sent("firing", alertname="GatewatchGroup")[0]["alerts"]
        assert alert["annotations"]["summary"] == (
            "site=north: 500 streams, first n-000: pressure is above what was expected"
        )
        assert len(watched.sent("firing", alertname="GatewatchGroup")) == 1
        assert sorted({one["alerts"][0]["labels"]["alertname"] for one in watched.notifications}) == [
            "GatewatchAnomaly",
            "GatewatchGroup",
        ]
        group = httpx2.get(url + alert["annotations"]["link"].removeprefix("https://gw")).json()["incidents"]
        assert group[0]["stream"] == "n-000"
        assert {one["tag"] for one in group} == {"site=north"}


def every_query_finds_something(watched: Monitoring) -> None:
    """Two scrapes after the first, when rates can be told; a quotient of nothing may be nothing."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        empty = [
            (path.name, title, expression)
            for path in DASHBOARDS
            for title, expression in panels(path)
            if not watched.query(expression)
        ]
        if not empty or time.monotonic() > deadline:
            assert empty == []
            return
        time.sleep(0.5)


def test_a_dashboard_can_be_provisioned() -> None:
    assert [path.stem for path in DASHBOARDS] == ["overview", "service", "stream"]
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards)
    for board in boards:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in board["panels"])
        linked = re.findall(r'"/d/([\w-]+)', json.dumps(board))
        assert set(linked) <= {other["uid"] for other in boards}
