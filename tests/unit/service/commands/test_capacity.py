"""The capacity model: what grows with what, and what the command says."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli import app
from gatewatch.service.commands.capacity import BUSY, FULL, Coefficients, Line, Need, load, plan, seconds

ONE = Coefficients(
    stream_bytes=Line(1000, 100),
    kept_bytes=Line(60, 20),
    service_us=Line(10, 1),
    redis_us=Line(5, 0.5),
    service_request_us=Line(90, 0),
    redis_request_us=Line(40, 0),
    sent_bytes=Line(100, 20),
    to_redis_bytes=Line(1500, 30),
    from_redis_bytes=Line(1200, 10),
    file_bytes=Line(1500, 30),
    process_bytes=Line(2e8, 1e6),
)
GIB = 2**30


def need(streams: int = 1_000_000, interval_s: float = 10, kept: int = 100, per_request: int = 1000) -> Need:
    return plan(ONE, streams, interval_s, 10, kept, per_request, 16 * GIB)


def test_memory_is_that_of_streams_and_of_the_readings_they_keep() -> None:
    assert need().data_bytes == 1_000_000 * (1000 + 10 * 100 + 100 * (60 + 10 * 20))
    assert need(kept=200).data_bytes - need().data_bytes == 1_000_000 * 100 * 260
    assert need().memory_bytes == need().data_bytes / FULL
    assert need().shards == 3  # 28 GB of data, 35 GB of maxmemory, 17.2 GB a shard


def test_cores_follow_the_rate_and_replicas_and_shards_the_cores() -> None:
    slow, fast = need(interval_s=100), need(interval_s=1)
    assert fast.readings_per_s == 100 * slow.readings_per_s == 1_000_000
    assert fast.service_cores == pytest.approx(20.09)
    assert fast.replicas == 31
    assert (fast.replicas - 1) * BUSY < fast.service_cores <= fast.replicas * BUSY
    assert fast.redis_cores == pytest.approx(10.04)
    assert fast.shards == 16  # for their cores, not for their memory
    assert slow.replicas == 2  # one may be lost
    assert slow.shards == 3
    assert fast.to_redis_bytes_per_s == 1_000_000 * 1800


def test_readings_sent_alone_cost_what_their_requests_cost() -> None:
    assert need(per_request=1).service_cores == pytest.approx(100_000 * 110e-6)
    assert need(per_request=1000).service_cores == pytest.approx(100_000 * 20.09e-6)


@pytest.mark.parametrize(("told", "found"), [("10s", 10), ("500ms", 0.5), ("1m", 60), ("2 h", 7200), ("0.5", 0.5)])
def test_an_interval_is_a_number_with_a_unit(told: str, found: float) -> None:
    assert seconds(told) == found


@pytest.mark.parametrize("told", ["", "s", "ten", "-1s", "0s", "1y", "1s1"])
def test_what_is_no_interval_is_named(told: str) -> None:
    with pytest.raises(GatewatchError, match="expected a time as"):
        seconds(told)


def test_the_command_says_what_the_measured_coefficients_give() -> None:
    asked = ["capacity", "--streams", "10000000", "--interval", "10s", "--channels", "8"]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    expected = plan(load()["general"], 10_000_000, 10, 8, 128, 1000, 24 * GIB)
    assert told["data_bytes"] == expected.data_bytes
    assert told["readings_per_s"] == 1_000_000
    shown = CliRunner().invoke(app, asked).output
    for line in ("maxmemory of each", "service, replicas", "network, to Redis", "Measured 20"):
        assert line in shown
    assert CliRunner().invoke(app, [*asked, "--model", "other"]).exception is not None


def test_every_measured_cost_is_more_than_nothing() -> None:
    for model in load().values():
        for channels in (1, 8, 64):
            costs = [getattr(model, name).of(channels) for name in Coefficients.__struct_fields__]
            assert min(costs) > 0, (model, channels)
