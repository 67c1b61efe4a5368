"""Every knob of the service: its unit, its default. Read once, in create_app, from the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, unquote_plus, urlsplit

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "GATEWATCH_"
COMMANDS_KEY: Final = "GATEWATCH_KEY"
"""No setting of the service: the API key that commands show to one, see client/remote.py."""

RENAMED = {"REMEMBERED_BYTES": "RECORD_CACHE_BYTES"}
"""Variables, without the prefix, that have another name now; the old one is read where the new one is not set."""

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\*?|\*")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
_OF_KUBERNETES = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What a container gets from Kubernetes for a service called gatewatch or gatewatch-..., and from Docker for a link."""


class Settings(BaseSettings):
    """Settings from environment variables GATEWATCH_<NAME>; an empty one, usual in compose files, is not set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
        extra="ignore",
        hide_input_in_errors=True,  # a URL may hold a password
    )

    model: str = Field(
        "general",
        description="folder of the artefact; or `general`, shipped, for any stream; or `demo`, the pump station",
    )
    trusted_keys: Path | None = Field(
        None, description="PEM file of Ed25519 public keys; a model that none of them has signed is refused"
    )
    channels: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="the only ones that the general model takes, names with commas between; without, it takes what a "
        "stream sends; a trained model has its own",
    )
    stream_channels: int = Field(
        64,
        ge=1,
        le=4096,
        description="most channels of a stream, where GATEWATCH_CHANNELS is not set; a reading of one more is rejected",
    )
    alerts_per_week: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="of the general model: false alerts that a stream may raise in a week; 1 if not set",
    )
    models: str | None = Field(
        None,
        description="repository of models for rules: a folder, or an fsspec URL as s3://bucket/models; beside a "
        "private Redis the folder `models` in GATEWATCH_DATA_DIR if not set",
    )
    models_look_s: float = Field(
        1.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="time between looks at the repository, which notice what was promoted there, seconds",
    )
    loaded_models: int = Field(1000, ge=1, description="most models of the repository that a process has in memory")
    loaded_bytes: int = Field(
        2**30, ge=2**20, description="most memory that they take in a process, bytes; what is longest unused is dropped"
    )
    shadow_streams: int = Field(
        1000, ge=1, description="most streams that shadows of models follow in a process; of more, none is compared"
    )
    redis_url: str | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; without it, a private one is "
        "started",
    )
    data_dir: Path = Field(Path("gatewatch-data"), description="where the private server keeps its append-only file")
    durability: Literal["fast", "strict"] = Field(
        "fast",
        description="strict: an answer leaves after Redis has it on disk; fast: a power cut may cost two seconds",
    )
    tenant: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="prefix of all Redis keys")

    open: Literal["loopback", "always", "never"] = Field(
        "loopback",
        description="who needs no key: loopback: whoever asks on a loopback address, until the first key is made; "
        "always: everybody, for a service behind a proxy that lets in only who may; never: nobody",
    )
    keys_file: Path | None = Field(
        None, description="JSON file with keys, beside those in Redis; read again when it changes"
    )
    oidc_issuer: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#@]+$",
        description="URL of an OpenID Connect provider whose tokens are taken in place of keys; needs the extra `oidc`",
    )
    oidc_audience: str = Field("gatewatch", min_length=1, description="what a token's `aud` must name")
    tenant_new_streams_per_minute: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="most streams that each tenant may begin in a minute, over all processes; a reading of one more is "
        "rejected; no limit if not set",
    )
    tenant_readings_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most readings a second of each tenant, over all processes; more get 429; no limit if not set",
    )
    tenant_bytes_per_s: float | None = Field(
        None,
        gt=0,
        le=1e12,
        allow_inf_nan=False,
        description="most bytes a second of each tenant's bodies, decompressed, and of the states that it has kept, "
        "copied or gone back to, over all processes; more get 429; no limit if not set",
    )
    tenant_posts_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests with readings a second of each tenant, over all processes; more get 429; no limit "
        "if not set",
    )
    tenant_reads_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests a second of each tenant that look at something, over all processes; more get 429; "
        "no limit if not set",
    )
    tenant_changes_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests a second of each tenant that change something (policies, rules, windows, labels, "
        "settings, states), over all processes; more get 429; no limit if not set",
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names that the service is reached by, with commas between, beside IP addresses, localhost and "
        "names without a dot; a request for another one, which a browser may have been made to send, gets 403",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file of the certificate chain for HTTPS; read again when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM file of its key")
    workers: int = Field(1, ge=1, le=64, description="processes")
    drain_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="how long, after SIGTERM, /readyz says 503 while all is still answered, before the stop, seconds",
    )
    shutdown_grace_s: int = Field(
        10, ge=1, le=86_400, description="how long a stop waits for requests in flight, seconds"
    )
    traces: bool = Field(
        False, description="spans of OpenTelemetry go where the OTEL_ variables say; needs the extra `traces`"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="least severe line logged"
    )

    history_readings: int = Field(128, ge=32, le=65536, description="last readings of a stream kept in Redis")
    stream_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        allow_inf_nan=False,
        description="days after which a stream that applied no reading is forgotten; never if not set",
    )
    snapshots: int = Field(10, ge=1, le=1000, description="most snapshots of a stream; one more is refused")
    incidents: int = Field(
        10_000, ge=1, description="most incidents kept; of more, the oldest that have ended unanswered go first"
    )
    incident_days: float = Field(90.0, gt=0, description="how long an incident is kept after it began, days")
    incident_write_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="an incident that goes on is written at most once in so many seconds, unless people would see a "
        "difference; with each reading if 0",
    )
    batch_readings: int = Field(1024, ge=1, le=65536, description="most readings scored together")
    waiting_readings: int = Field(
        20_000,
        ge=1,
        description="most readings waiting in a process; more get 429, but of a tenant with less than its share",
    )
    waiting_ms: float = Field(
        500.0, gt=0, description="most time that what waits ahead of a request may take, milliseconds; more gets 429"
    )
    correcting_ms: float = Field(
        2000.0,
        gt=0,
        description="most time that the corrections ahead of a late reading may take, milliseconds; more gets 429",
    )
    all_rejected_is_422: bool = Field(
        False, description="answer 422, not 200, where every reading of a request was rejected"
    )
    request_readings: int = Field(10_000, ge=1, description="most readings in one request; more get 413")
    waiting_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        description="most bytes of bodies, beyond 64 KiB of each, in a process; a larger body gets 429",
    )
    streams: int = Field(2_000_000, ge=1, description="most streams of a tenant; a reading of one more is rejected")
    tenant_channels: int = Field(
        20_000_000,
        ge=1,
        description="most channels that all streams of a tenant have together; a reading that brings more is rejected",
    )
    request_bytes: int = Field(
        8 * 2**20, ge=1024, description="largest body, also after decompression; larger gets 413"
    )
    head_deadline_s: float = Field(
        5.0, gt=0, description="time for a request's head to arrive, seconds; later gets 408"
    )
    body_deadline_s: float = Field(
        30.0, gt=0, description="time for a body to arrive, or for an answer to be read, seconds; later gets 408"
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="how long a connection may be idle between requests, seconds; longer than those in front keep it",
    )
    head_bytes: int = Field(32_768, ge=1024, description="largest head: URL and headers; larger gets 431")
    connections: int = Field(
        4096,
        ge=1,
        description="most open connections of a process; over it the oldest without a whole request is closed",
    )
    future_s: float = Field(
        60.0,
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="how far ahead of the service's clock a timestamp may be, seconds",
    )

    store_timeout_ms: int = Field(
        250, ge=10, le=600_000, description="longest wait for a connection to Redis or an answer of it, milliseconds"
    )
    store_replicas: int = Field(
        0, ge=0, le=16, description="replicas of Redis that must have what is saved before it is answered; 0 for none"
    )
    slot_buckets: int = Field(
        64,
        ge=1,
        le=16_384,
        description="buckets that streams are kept in, each in a slot of a Cluster; what a Redis began with stays",
    )
    record_cache_bytes: int = Field(
        64 * 2**20,
        ge=0,
        validation_alias=AliasChoices("GATEWATCH_RECORD_CACHE_BYTES", "GATEWATCH_REMEMBERED_BYTES"),
        description="most bytes of stream records that a process caches, so as not to load them; 0 for no cache",
    )
    save_attempts: int = Field(
        20, ge=1, description="compare-and-set attempts when other processes write the same stream"
    )
    open_anomaly_s: float = Field(
        3600.0,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="a silent stream's open anomaly stops counting after this, seconds",
    )
    silent_after: float = Field(
        10.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="a stream that sends nothing for so many times its usual interval is silent, and an incident; not "
        "within a minute, nor three times the longest pause that it is known for; 0 for never",
    )
    group_by: str | None = Field(
        None,
        pattern="^[A-Za-z_][A-Za-z0-9_]{0,31}$",
        description="tag whose value streams share that belong together, as site: their incidents that begin at about "
        "the same time are one group with one alert",
    )
    group_within_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="how far from the beginning of a group an incident may begin that belongs to it, seconds",
    )
    open_series: int = Field(
        100, ge=0, le=10_000, description="most streams with an open anomaly that /metrics names, highest scores first"
    )
    channel_series: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="streams whose channels have series of value, band and score, with commas between; `pump-*` are "
        "all whose names begin with pump-",
    )
    channel_series_streams: int = Field(
        100, ge=1, le=10_000, description="most streams whose channels have series; of more, the first by name"
    )
    external_url: str | None = Field(
        None, description="address that people reach the service by, http:// or https://, for the links in alerts"
    )

    webhook_url: str | None = Field(
        None, description="where incidents that open and end are posted to, http:// or https://; nowhere if not set"
    )
    webhook_secret_file: Path | None = Field(
        None,
        description="file with the secret that posts are signed with: `whsec_` and base64, or 16 characters and more",
    )
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="hosts that GATEWATCH_WEBHOOK_URL may name, with commas between; any if not set"
    )
    webhook_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="networks that are not public and may be posted to, as 10.1.0.0/16, with commas between"
    )
    webhook_timeout_s: float = Field(
        10.0, gt=0, le=300, allow_inf_nan=False, description="longest time that one post may take in all, seconds"
    )
    webhook_retry_s: float = Field(
        86_400.0,
        ge=0,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="how long what was not taken is posted again before it becomes a dead letter, seconds",
    )
    webhook_dead_letters: int = Field(
        1000, ge=1, le=100_000, description="dead letters kept of a tenant; of more, the last"
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _are_names(cls, channels: object) -> object:
        names = tuple(name.strip() for name in channels.split(",")) if isinstance(channels, str) else channels
        if isinstance(names, tuple) and (len(set(names)) < len(names) or "" in names):
            raise ValueError("expected names that differ, with commas between")
        return names

    @field_validator("allowed_hosts", "webhook_hosts", mode="before")
    @classmethod
    def _are_hosts(cls, hosts: object) -> object:
        names = tuple(name.strip() for name in hosts.split(",")) if isinstance(hosts, str) else hosts
        if isinstance(names, tuple) and not all(_HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("expected names of hosts without a port, with commas between, as gatewatch,gw.example.com")
        return names

    @field_validator("channel_series", mode="before")
    @classmethod
    def _are_patterns(cls, patterns: object) -> object:
        names = tuple(name.strip() for name in patterns.split(",")) if isinstance(patterns, str) else patterns
        if isinstance(names, tuple) and not all(_NAME_PATTERN.fullmatch(str(name)) for name in names):
            raise ValueError("expected names of streams, or beginnings of names with * behind, with commas between")
        return names

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _are_networks(cls, networks: object) -> object:
        names = tuple(name.strip() for name in networks.split(",")) if isinstance(networks, str) else networks
        for name in names if isinstance(names, tuple) else ():
            try:
                ip_network(name)
            except ValueError as error:
                raise ValueError(f"expected networks as 10.1.0.0/16, with commas between: {error}") from error
        return names

    @field_validator("webhook_url")
    @classmethod
    def _is_posted_to(cls, url: str | None) -> str | None:
        parts = _split(url) if url is not None else None
        fits = parts is not None and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        if url is not None and not (fits and parts is not None and parts.hostname and parts.hostname.isascii()):
            raise ValueError("expected http:// or https:// with a host in ASCII, without a user and a password")
        return url

    @model_validator(mode="after")
    def _has_a_whole_webhook(self) -> Self:
        if self.webhook_url is not None:
            host = urlsplit(self.webhook_url).hostname
            if self.webhook_secret_file is None:
                raise ValueError("GATEWATCH_WEBHOOK_URL needs GATEWATCH_WEBHOOK_SECRET_FILE: posts are signed")
            if self.webhook_hosts and host not in {name.lower() for name in self.webhook_hosts}:
                raise ValueError("GATEWATCH_WEBHOOK_URL names a host that is not among GATEWATCH_WEBHOOK_HOSTS")
        return self

    @field_validator("external_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        parts = _split(url) if url is not None else None
        web = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        if url is not None and not (web and parts is not None and parts.password is None):
            raise ValueError("expected http:// or https:// with a host and perhaps a path, without a password")
        return url.rstrip("/") if url is not None else None

    @field_validator("log_level", "durability", "open", mode="before")
    @classmethod
    def _is_a_word(cls, word: object) -> object:
        word = word.strip().lower() if isinstance(word, str) else word
        return {"warn": "warning", "fatal": "critical"}.get(word, word) if isinstance(word, str) else word

    @field_validator("host", mode="before")
    @classmethod
    def _is_bare(cls, host: object) -> object:
        return host[1:-1] if isinstance(host, str) and host.startswith("[") and host.endswith("]") else host

    @field_validator("port", mode="before")
    @classmethod
    def _is_a_number(cls, port: object, field: ValidationInfo) -> Any:
        ours = not (isinstance(port, str) and _ADDRESS.fullmatch(port))
        return port if ours else cls.model_fields[str(field.field_name)].default

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: str | None) -> str | None:
        if url is not None and not _can_be_used(url):
            raise ValueError(
                "expected redis://[user:password@]host:port/db, rediss://..., unix://path, "
                "redis+sentinel://host:port,host:port/master or redis+cluster://host:port,host:port, with options of "
                "redis-py; @ : / ? # in a password are written %40 %3A %2F %3F %23"
            )
        return url

    @model_validator(mode="after")
    def _has_both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("GATEWATCH_TLS_CERT and GATEWATCH_TLS_KEY go together; expected both, or none")
        return self

    def redacted(self) -> dict[str, object]:
        """The settings as environment variables, without the password in the URL."""
        shown = {variable(name): value for name, value in self.model_dump(mode="json").items()}
        if self.redis_url:
            shown["GATEWATCH_REDIS_URL"] = redact(self.redis_url)
        if self.webhook_url:  # its path may be a secret
            shown["GATEWATCH_WEBHOOK_URL"] = "{0.scheme}://{0.netloc}/***".format(urlsplit(self.webhook_url))
        return shown


def repository_in(data_dir: Path) -> Path:
    """Where the models of a service with a private Redis are, if its settings name no repository."""
    return data_dir / "models"


def variable(field: str) -> str:
    """The environment variable of a field, or of one that is told by its variable."""
    return PREFIX + field.upper().removeprefix(PREFIX)


def strays(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that begins as ours do and is not read: misspelt, or put there by others."""
    known = {field.upper(): variable(field) for field in Settings.model_fields}
    read = {*known.values(), COMMANDS_KEY}
    lines = []
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if upper == variable("port") and _ADDRESS.fullmatch(value):
            lines.append(f"{name} is an address, which Kubernetes or Docker put there: ignored")
        elif upper.removeprefix(PREFIX) in RENAMED and upper.startswith(PREFIX):
            lines.append(f"{name} is called {PREFIX}{RENAMED[upper.removeprefix(PREFIX)]} now: set that instead")
        elif upper.startswith(PREFIX) and upper not in read and not _OF_KUBERNETES.fullmatch(upper):
            near = difflib.get_close_matches(upper.removeprefix(PREFIX), known, 1)
            lines.append(f"{name} is not a setting" + (f"; {known[near[0]]} is" if near else ""))
    return lines


def _can_be_used(url: str) -> bool:
    """Whether redis-py can make a connection of it; nothing is connected here."""
    several = url.partition("://")[0].lower().endswith(("+sentinel", "+cluster"))
    parts = _split(url)
    if not several and (parts is None or parts.scheme not in ("redis", "rediss", "unix")):
        return False
    if several and ("#" in url or url.count("@") > 1):
        return False
    from redis import RedisError  # an import of 0.1 s, which only a service needs

    from gatewatch.service.storage.addresses import address_of, connections_of

    try:
        address = address_of(url)
        connections_of(url, 1.0)()
    except (ValueError, TypeError, RedisError):
        return False
    return "decode_responses" not in address.options  # states are bytes, not text


def _split(url: str) -> SplitResult | None:
    """A URL's parts; None where it has none, or where an unescaped character may have cut a password in two."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError where it is no number
    except ValueError:
        return None
    stray = parts.fragment or (parts.scheme != "unix" and "@" in parts.path)
    options = parts.query.split("&") if parts.query else []
    return None if stray or not all("=" in option for option in options) else parts


def redact(url: str) -> str:
    """A URL without its password; without all of it where a password may stand out of place."""
    parts = _split(url)
    if parts is None:
        return f"{url.partition('://')[0]}://***" if "://" in url else "***"
    if parts.password is not None:
        user = f"{parts.username}:***@" if parts.username else ":***@"
        parts = parts._replace(netloc=user + parts.netloc.rpartition("@")[2])
    options = [option.partition("=") for option in parts.query.split("&")]
    shown = [
        f"{name}=***" if equals and "pas" in unquote_plus(name).lower() else f"{name}{equals}{value}"
        for name, equals, value in options
    ]
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{'&'.join(shown)}" if parts.query else "")
