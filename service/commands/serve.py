"""gatewatch serve."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

import structlog
import typer

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.artefact.signatures import trust_of
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.errors import ArtefactError, GatewatchError
from gatewatch.service import workers as processes
from gatewatch.service.cli_support.settings import settings_of_environment
from gatewatch.service.cli_support.terminal import warn, warn_in_one_line
from gatewatch.service.http.ports import Port, address_of, hold
from gatewatch.service.observability.tally import Tally
from gatewatch.service.settings import Settings, repository_in, strays

if TYPE_CHECKING:
    import uvicorn

log = structlog.get_logger(__name__)

HSTS: Final = ("strict-transport-security", "max-age=31536000")

WORKER_S = 30
"""Until a worker process that says nothing is killed and another one started. It says nothing before it has imported
what it needs: on two busy cores that took longer than uvicorn's 5 s; six were killed in 37 s before one came up."""


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on [GATEWATCH_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on [GATEWATCH_PORT]")] = None,
    workers: Annotated[int | None, typer.Option(help="processes [GATEWATCH_WORKERS]")] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="print the settings, redacted, and end")
    ] = False,
) -> None:
    """Answer HTTP. Without GATEWATCH_REDIS_URL a private Redis is started, with its data in GATEWATCH_DATA_DIR."""
    from gatewatch.service.observability.logs import configure_logs  # all that follows is not wanted for --help
    from gatewatch.service.storage.private_redis import PrivateRedisError, start_private_redis

    given = {"GATEWATCH_HOST": host, "GATEWATCH_PORT": port, "GATEWATCH_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    settings = settings_of_environment()
    configure_logs(settings.log_level)
    unread = strays(os.environ)
    if show_settings:
        for line in unread:
            warn_in_one_line(f"gatewatch: {line}")
        print(json.dumps(settings.redacted(), indent=1))
        return
    for line in unread:
        log.warning(line)

    renewable = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not os.isatty(0)
    if renewable:  # whoever wants this process renewed before it serves gets what it loads from now on
        signal.signal(signal.SIGHUP, lambda *_: None)
    if settings.tls_cert and settings.tls_key:
        from gatewatch.service.http.certificates import Certificate

        Certificate(settings.tls_cert, settings.tls_key)
    _detector(settings).require_live()  # a bad artefact is reported before anything is started
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it has stopped
        signal.signal(number, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and os.isatty(0):  # sent when the terminal is closed
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(port) for port in _hold(settings.host, settings.port)]
        if settings.redis_url is None:
            appendfsync: Literal["always", "everysec"] = "always" if settings.durability == "strict" else "everysec"
            try:
                private = stack.enter_context(start_private_redis(settings.data_dir, appendfsync))
            except PrivateRedisError as error:
                raise GatewatchError(str(error)) from error
            private.keep_running()
            os.environ["GATEWATCH_REDIS_URL"] = private.url
            if settings.models is None:
                os.environ["GATEWATCH_MODELS"] = str(repository_in(settings.data_dir).resolve())
        addresses = [address_of(port) for port in ports]
        log.info("listening", addresses=addresses)
        _require_keys(settings)
        if os.isatty(2):
            warn(
                f"Gatewatch listens on http://{addresses[0]}. Look: / is the page, /docs the API, /readyz whether "
                "readings are scored, /metrics what Prometheus reads; `gatewatch watch` shows streams. Ctrl-C ends it."
            )
        if settings.workers > 1:
            _serve_with_workers(settings, ports)
        else:
            _serve_alone(settings, ports, renewable)


def _config(settings: Settings, tally: Tally) -> uvicorn.Config:
    import uvicorn

    from gatewatch.service.http.certificates import server_context
    from gatewatch.service.http.connection_limits import Edge
    from gatewatch.service.runtime import allow_files

    tls = (settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    edge = Edge(
        settings.head_deadline_s, settings.body_deadline_s, settings.head_bytes, allow_files(settings.connections)
    )
    return uvicorn.Config(
        partial(processes.app, tally),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="gatewatch.service.http.certificates:Loop",
        http=cast(Any, edge),  # uvicorn only calls it; each worker gets a copy
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("x-content-type-options", "nosniff"), *([HSTS] if tls else [])],
        ssl_context_factory=partial(server_context, *tls) if tls else None,
        proxy_headers=False,
        timeout_keep_alive=cast(int, settings.keep_alive_s),  # a number of seconds, whole or not
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        timeout_worker_healthcheck=WORKER_S,
    )


def _serve_with_workers(settings: Settings, ports: list[Port]) -> None:
    """Serve in several processes, which uvicorn replaces one after the other on SIGHUP."""
    from uvicorn.supervisors import Multiprocess

    class Supervisor(Multiprocess):
        def handle_hup(self) -> None:
            try:
                _detector(settings).require_live()
            except GatewatchError as error:
                log.error("the workers before go on", error=str(error))
                return
            processes.begin_service()  # workers started from now on may have another model
            super().handle_hup()

    processes.begin_service()
    Supervisor(_config(settings, Tally.shared()), [*ports]).run()


def _serve_alone(settings: Settings, ports: list[Port], renewable: bool) -> None:
    """Serve in this process. SIGHUP has a new server take over, with the model as it is then."""
    from uvicorn import Server
    from uvicorn.config import STARTUP_FAILURE

    tally, listeners = Tally(), [port.another() for port in ports]
    while listeners:
        server = Server(_config(settings, tally))
        renewal = _Renewal(settings, ports, server)
        if renewable:
            signal.signal(signal.SIGHUP, renewal.ask)
        server.run([*listeners])
        if not server.started:
            sys.exit(STARTUP_FAILURE)
        listeners = renewal.listeners
        gc.unfreeze()  # what the server before had


class _Renewal:
    """Ends a server so that another one can take over.

    Attributes:
        listeners: the other one's sockets, which hold the connections that come meanwhile.
    """

    def __init__(self, settings: Settings, ports: list[Port], server: uvicorn.Server) -> None:
        self.listeners: list[Port] = []
        self._settings = settings
        self._ports = ports
        self._server = server
        self._asked = threading.Lock()

    def ask(self, *_: object) -> None:
        """End the server once it is known that the next one can begin; to look takes longer than a signal may."""
        threading.Thread(target=self._prepare, name="renewal", daemon=True).start()

    def _prepare(self) -> None:
        with self._asked:
            if self.listeners:
                return
            log.info("SIGHUP: a new server takes over")
            try:
                _detector(self._settings).require_live()
                listeners = [port.another() for port in self._ports]
            except (GatewatchError, OSError) as error:
                log.error("the server before goes on", error=str(error))
                return
            for listener in listeners:
                listener.listen(self._server.config.backlog)
            self.listeners = listeners
            self._server.should_exit = True


def _require_keys(settings: Settings) -> None:
    """Refuse to let in everybody beyond this machine. Where Redis does not answer, each request is asked for a key."""
    from gatewatch.service.access.access import is_loopback
    from gatewatch.service.access.key_store import FileKeys, keys_in_redis
    from gatewatch.service.errors import StoreUnavailable, cause_of

    if settings.keys_file is not None and FileKeys(settings.keys_file).read():
        return
    if settings.open != "loopback" or is_loopback(settings.host) or settings.oidc_issuer is not None:
        return
    try:
        if asyncio.run(keys_in_redis(os.environ["GATEWATCH_REDIS_URL"], settings.store_timeout_ms)):
            return
    except StoreUnavailable as error:
        log.warning("whether there are keys is not known", error=str(error), cause=cause_of(error))
        return
    raise GatewatchError(
        f"listening on {settings.host} without a key would let everybody in: make one (gatewatch keys create --scopes "
        "ingest,read), or set GATEWATCH_OPEN=always behind a proxy that lets in only who may"
    )


def _hold(host: str, number: int) -> list[Port]:
    try:
        return hold(host, number)
    except OSError as error:
        raise GatewatchError(f"cannot listen on {host}, port {number}: {error.strerror}") from error


def _detector(settings: Settings) -> Detector:
    try:
        trust = trust_of(settings.trusted_keys, settings.model)
        channels, budget = settings.channels, settings.alerts_per_week
        return load_detector(model_folder(settings.model), channels, budget, trust, unnamed=True)
    except ArtefactError as error:
        raise GatewatchError(str(error)) from error
