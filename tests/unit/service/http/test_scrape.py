"""/metrics names what is open and what was chosen: bounded, the same from every process, and gone when it ends."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.observability.named import OPEN_LABELS
from gatewatch.service.settings import Settings
from tests.support.access import add_to_file, bearer
from tests.support.samples import post, readings

QUIET = 10
Make = Callable[..., Settings]


def shown(client: httpx2.Client, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a series, by the values of their labels: stream, channel, reason, direction, model."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        tuple(sample.labels[label] for label in OPEN_LABELS if label in sample.labels): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def steady(stream: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Readings in which nothing is missing."""
    sent = readings(stream, count, start=start)
    return [
        {**one, "values": {name: 3.0 if value is None else value for name, value in one["values"].items()}}
        for one in sent
    ]


def tenant_in(key: bytes) -> str:
    """Whose stream's key it is."""
    encoded = key.split(b":")[2].split(b".")[0]
    return base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)).decode()


def open_with(client: TestClient, stream: str, **values: float) -> dict[str, Any]:
    """Send a stream's first readings, and one that is anomalous; returns the answer to that."""
    sent = steady(stream, QUIET + 1)
    sent[-1]["values"] |= values
    return post(client, sent)[-1]


def end(client: TestClient, stream: str) -> None:
    """Send normal readings, one after the other, until the incident has ended."""
    for number in range(QUIET + 1, QUIET + 400):
        if not shown(client, "gatewatch_open_anomalies")[()]:
            return
        sent = steady(stream, 1, start=number)
        sent[0]["values"] = {"pressure": 3.0, "flow": 3.0}
        post(client, sent)
    pytest.fail("the incident does not end")


def test_a_stream_that_is_muted_while_its_anomaly_is_open_is_named_and_counted_no_more(settings: Make) -> None:
    """It may never send another reading."""
    with TestClient(create_app(settings())) as client:
        open_with(client, "pump", pressure=900.0)
        open_with(client, "fan", pressure=900.0)
        client.put("/v1/policies", json={"policies": [{"pattern": "pu*", "muted": True}]}).raise_for_status()
    with TestClient(create_app(settings())) as client:  # which has looked at nothing yet
        assert [labels[0] for labels in shown(client, "gatewatch_open_anomaly_score")] == ["fan"]
        assert shown(client, "gatewatch_open_anomalies") == {(): 1}
        assert shown(client, "gatewatch_open_anomalies_left_out") == {(): 0}


def test_an_open_anomaly_is_named_with_what_stood_out_until_it_ends(settings: Make) -> None:
    """Every process names it, also one that comes later."""
    with TestClient(create_app(settings())) as one, TestClient(create_app(settings())) as other:
        answer = open_with(one, "pump", pressure=900.0)
        (labels,) = shown(one, "gatewatch_open_anomaly_score")
        assert labels[:1] + labels[2:4] == ("pump", answer["reason"], "above")
        assert labels[1] == max(answer["attribution"], key=lambda name: answer["attribution"][name])
        assert labels[4] == answer["model"]
        assert shown(one, "gatewatch_open_anomaly_score")[labels] == pytest.approx(answer["score"])
        assert shown(one, "gatewatch_open_anomaly_value")[labels] == 900.0
        assert shown(one, "gatewatch_open_anomaly_expected")[labels] == pytest.approx(answer["expected"]["pressure"][1])
        assert shown(one, "gatewatch_open_anomaly_begin_seconds")[labels] == 1_700_000_000 + 60 * QUIET
        with TestClient(create_app(settings())) as later:
            texts = [
                [line for line in client.get("/metrics").text.splitlines() if "open_anom" in line]
                for client in (one, other, later)
            ]
        assert texts[0] == texts[1] == texts[2]
        end(other, "pump")
        assert shown(one, "gatewatch_open_anomaly_score") == {} == shown(other, "gatewatch_open_anomaly_score")
        assert shown(one, "gatewatch_open_anomalies_left_out") == {(): 0}


def test_an_open_anomaly_carries_the_tags_of_its_stream(settings: Make) -> None:
    with TestClient(create_app(settings())) as client:
        policies = [{"pattern": "*", "tags": {"site": "north"}}, {"pattern": "pump-*", "tags": {"line": "3"}}]
        assert client.put("/v1/policies", json={"policies": policies}).is_success
        for stream in ("pump-1", "fan-1"):
            open_with(client, stream, pressure=900.0)
        tags = {labels[0]: labels[-1] for labels in shown(client, "gatewatch_open_anomaly_score")}
        assert tags == {"pump-1": "line=3,site=north", "fan-1": "site=north"}


def test_at_most_so_many_streams_are_named_the_highest_scores_first_and_the_rest_is_counted(settings: Make) -> None:
    with TestClient(create_app(settings(open_series=3))) as client:
        for number in range(5):
            open_with(client, f"pump-{number}", pressure=1000.0 * (number + 1))
        assert {labels[0] for labels in shown(client, "gatewatch_open_anomaly_score")} == {"pump-2", "pump-3", "pump-4"}
        assert shown(client, "gatewatch_open_anomalies")[()] == 5
        assert shown(client, "gatewatch_open_anomalies_left_out")[()] == 2
    with TestClient(create_app(settings(open_series=0))) as client:
        assert shown(client, "gatewatch_open_anomaly_score") == {}
        assert shown(client, "gatewatch_open_anomalies_left_out")[()] == 5


def test_a_stream_that_is_deleted_is_named_no_more_also_when_it_comes_again(settings: Make) -> None:
    with TestClient(create_app(settings())) as client:
        open_with(client, "pump", pressure=900.0)
        assert len(shown(client, "gatewatch_open_anomaly_score")) == 1
        assert client.delete("/v1/streams/pump").is_success
        assert shown(client, "gatewatch_open_anomaly_score") == {}
        open_with(client, "pump", flow=-900.0)
        (labels,) = shown(client, "gatewatch_open_anomaly_score")
        assert (labels[1], labels[3]) == ("flow", "below")


def test_two_tenants_with_a_stream_of_one_name_are_told_apart(settings: Make, tenant: str, tmp_path: Path) -> None:
    """Each with its own value; the service's own tenant has no label."""
    file = tmp_path / "keys.json"
    ours = bearer(add_to_file(file, tenant, "ingest"))
    theirs = bearer(add_to_file(file, f"{tenant}-another", "ingest"))
    scraper = bearer(add_to_file(file, tenant, "metrics"))
    with TestClient(create_app(settings(keys_file=file))) as client:
        for who, pressure in ((ours, 900.0), (theirs, -900.0)):
            client.headers.update(who)
            open_with(client, "pump", pressure=pressure)
        client.headers.update(scraper)
        values = shown(client, "gatewatch_open_anomaly_value")
        assert {(labels[0], labels[3], labels[5]): value for labels, value in values.items()} == {
            ("pump", "above", ""): 900.0,
            ("pump", "below", f"{tenant}-another"): -900.0,
        }
        assert shown(client, "gatewatch_open_anomalies_left_out") == {(): 0}


def test_a_foreign_value_in_place_of_the_names_costs_no_reading_and_no_scrape(
    settings: Make, redis_url: str, tenant: str
) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        open_with(client, "one", pressure=900.0)
        (key,) = [key for key in database.scan_iter("*.*:incidents") if tenant_in(key) == tenant]
        database.delete(key)
        database.lpush(key, "somebody's")
        assert open_with(client, "two", pressure=900.0)["status"] == "anomalous"
        assert {labels[0] for labels in shown(client, "gatewatch_open_anomaly_score")} == {"two"}
        database.delete(key)


def test_the_channels_of_chosen_streams_have_series_of_value_band_and_score(settings: Make) -> None:
    chosen = settings(channel_series="pump-*,valve", channel_series_streams=2)
    with TestClient(create_app(chosen)) as client:
        answers = [post(client, steady(stream, 6))[-1] for stream in ("pump-1", "pump-2", "pump-3", "valve", "fan")]
        values = shown(client, "gatewatch_channel_value")
        assert set(values) == {(stream, channel) for stream in ("pump-1", "pump-2") for channel in ("pressure", "flow")}
        low, expected, high = answers[0]["expected"]["pressure"]
        at = ("pump-1", "pressure")
        assert values[at] == steady("pump-1", 6)[-1]["values"]["pressure"]
        assert shown(client, "gatewatch_channel_expected")[at] == pytest.approx(expected)
        assert shown(client, "gatewatch_channel_low")[at] == pytest.approx(low)
        assert shown(client, "gatewatch_channel_high")[at] == pytest.approx(high)
        share = answers[0]["attribution"]["pressure"]
        assert shown(client, "gatewatch_channel_score")[at] == pytest.approx(answers[0]["score"] * share, rel=1e-5)
        assert shown(client, "gatewatch_channel_series_left_out")[()] == 2
        assert shown(client, "gatewatch_streams")[()] == 5


def test_what_redis_may_use_is_shown(client: TestClient) -> None:
    used, limit = (shown(client, f"gatewatch_store_memory{which}_bytes")[()] for which in ("", "_limit"))
    assert 0 < used < limit


@pytest.mark.parametrize("patterns", ["pump*7", "*pump", "a b", "pump-,"])
def test_a_pattern_that_none_of_ours_is_ends_the_start(patterns: str) -> None:
    with pytest.raises(ValueError, match="expected names of streams"):
        Settings(channel_series=patterns)


@pytest.mark.parametrize("url", ["gatewatch", "ftp://host", "http://user:secret@host", "http://host/?x=1"])
def test_an_external_address_that_no_link_can_be_made_of_ends_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        Settings(external_url=url)
