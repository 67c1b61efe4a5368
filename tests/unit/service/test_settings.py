"""Settings that cannot be used are refused where they are read, and a password is never shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gatewatch.service.settings import Settings, redact, strays


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    monkeypatch.setenv("GATEWATCH_MODEL", "demo")
    for name, value in environment.items():
        monkeypatch.setenv(f"GATEWATCH_{name}", value)
    return Settings()


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(monkeypatch, REDIS_URL="", PORT="", FUTURE_S="")
    assert read.redis_url is None
    assert read.port == 8000
    assert read.future_s == 60


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://h",
        "rediss://ops:pa%40ss@db.example:6380/1?ssl_cert_reqs=none",
        "redis://h:1/0?password=a%26b&socket_timeout=3",
        "unix:///run/redis.sock",
        "unix://:secret@/run/a@b.sock?db=1",
        "redis+sentinel://ops:hunter2@h1:26379,h2/mymaster?db=1&sentinel_password=hunter2",
        "rediss+sentinel://[::1]:26379/mymaster?ssl_cert_reqs=none",
        "redis+cluster://:hunter2@h1,h2:7000",
        "rediss+cluster://[::1]:7000",
    ],
)
def test_a_redis_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    read = settings(monkeypatch, REDIS_URL=url)
    assert read.redis_url == url
    shown = str(read.redacted()["GATEWATCH_REDIS_URL"])
    assert shown.startswith(url.partition("/")[0] + "//")
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://[::1",
        "http://:hunter2@h",
        "hunter2@h:6379",
        "redis://h:port",
        "redis://:hunter2#x@h",
        "redis://:12/hunter2@h",
        "redis://h:12?hunter2@h",
        "redis://h/0?pasword=hunter2",
        "redis://h/0?password=hunter2&socket_timeout=soon",
        "redis://h/0?socket_timeout=soon",
        "redis://h/0?no_option=1",
        "redis://h/0?decode_responses=true",
        "redis+sentinel://:hunter2@h1,h2",
        "redis+sentinel://:hunter2@h/m?no_option=1",
        "redis+cluster://:hunter2@h/1",
        "redis+cluster://:hunter2@h:0",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@h?pasword=hunter2",
        "unix+cluster://:hunter2@h",
        "redis+raft://:hunter2@h",
    ],
)
def test_what_is_no_redis_url_is_refused_without_showing_a_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValidationError, match="expected redis://") as refused:
        settings(monkeypatch, REDIS_URL=url)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in redact(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUTURE_S", "inf"),
        ("FUTURE_S", "nan"),
        ("FUTURE_S", "1e300"),
        ("OPEN_ANOMALY_S", "inf"),
        ("STORE_TIMEOUT_MS", "1" + "0" * 30),
        ("SHUTDOWN_GRACE_S", "1" + "0" * 30),
    ],
)
def test_what_no_clock_can_count_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name.lower()):
        settings(monkeypatch, **{name: value})


def test_a_password_among_the_options_is_not_shown() -> None:
    assert redact("redis://h:1/0?db=2&password=SECRET") == "redis://h:1/0?db=2&password=***"
    assert (
        redact("rediss://h:1/0?p%61ssword=SECRET&ssl_password=SECRET")
        == "rediss://h:1/0?p%61ssword=***&ssl_password=***"
    )
    assert redact("redis://ops:SECRET@h:1/0?ssl_cert_reqs=none") == "redis://ops:***@h:1/0?ssl_cert_reqs=none"
    assert redact("unix:///run/redis.sock") == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("LOG_LEVEL", "INFO", "info"),
        ("LOG_LEVEL", "Warn", "warning"),
        ("LOG_LEVEL", " warning\r", "warning"),
        ("LOG_LEVEL", "FATAL", "critical"),
        ("DURABILITY", "STRICT", "strict"),
        ("HOST", "[::]", "::"),
        ("HOST", "[::1]", "::1"),
        ("HOST", "::", "::"),
        ("PORT", "tcp://10.96.0.12:8000", 8000),
        ("PORT", "tcp://[fd00::12]:9100", 8000),
        ("PORT", "udp://10.96.0.12:9100", 8000),
        ("PORT", "9100", 9100),
    ],
)
def test_what_people_and_platforms_write_is_understood(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, read: object
) -> None:
    assert getattr(settings(monkeypatch, **{name: given}), name.lower()) == read


@pytest.mark.parametrize(
    ("name", "value"), [("LOG_LEVEL", "loud"), ("PORT", "10.96.0.12:8000"), ("PORT", "http://h:1")]
)
def test_what_cannot_be_understood_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name.lower()):
        settings(monkeypatch, **{name: value})


def test_a_misspelt_variable_is_named_with_the_nearest_setting_and_without_its_value() -> None:
    environment = dict.fromkeys(
        ("GATEWATCH_ALERT_PER_WEEK", "GATEWATCH_CHANELS", "gatewatch_redis_uri", "GATEWATCH_XYZZY", "PATH"), "hunter2"
    )
    assert strays(environment | {"GATEWATCH_CHANNELS": "a", "gatewatch_model": "demo"}) == [
        "GATEWATCH_ALERT_PER_WEEK is not a setting; GATEWATCH_ALERTS_PER_WEEK is",
        "GATEWATCH_CHANELS is not a setting; GATEWATCH_CHANNELS is",
        "GATEWATCH_XYZZY is not a setting",
        "gatewatch_redis_uri is not a setting; GATEWATCH_REDIS_URL is",
    ]


def test_a_variable_of_the_name_before_is_read_and_the_new_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, REMEMBERED_BYTES="1000").record_cache_bytes == 1000
    assert settings(monkeypatch, RECORD_CACHE_BYTES="2000").record_cache_bytes == 2000  # and the old one is still set
    assert Settings(record_cache_bytes=3000).record_cache_bytes == 3000
    assert strays({"GATEWATCH_REMEMBERED_BYTES": "1000"}) == [
        "GATEWATCH_REMEMBERED_BYTES is called GATEWATCH_RECORD_CACHE_BYTES now: set that instead"
    ]


def test_what_kubernetes_puts_there_for_services_is_no_misspelt_setting() -> None:
    """Of a service called gatewatch, and of one called gatewatch-redis; one line says that a port is not taken."""
    environment = {
        f"{service}_{name}": value
        for service in ("GATEWATCH", "GATEWATCH_REDIS")
        for name, value in {
            "PORT": "tcp://10.96.0.12:8000",
            "SERVICE_HOST": "10.96.0.12",
            "SERVICE_PORT": "8000",
            "SERVICE_PORT_HTTP": "8000",
            "PORT_8000_TCP": "tcp://10.96.0.12:8000",
            "PORT_8000_TCP_PROTO": "tcp",
            "PORT_8000_TCP_PORT": "8000",
            "PORT_8000_TCP_ADDR": "10.96.0.12",
        }.items()
    }
    assert strays(environment) == ["GATEWATCH_PORT is an address, which Kubernetes or Docker put there: ignored"]
