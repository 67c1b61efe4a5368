"""gatewatch serve."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import structlog
import typer
from pydantic import ValidationError

from models.artefact import model_folder
from models.detector import Detector
from models.errors import ArtefactError, GatewatchError
from models.general import load_detector
from service.http.port import Port, address_of, hold
from service.settings import Settings, redact

if TYPE_CHECKING:
    import uvicorn

log = structlog.get_logger(__name__)

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
    import uvicorn  # all that follows is not wanted for --help

    from service.http.edge import Edge, allow_files
    from service.storage.private_redis import PrivateRedisError, start_private_redis

    given = {"GATEWATCH_HOST": host, "GATEWATCH_PORT": port, "GATEWATCH_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    settings = _settings()
    if show_settings:
        print(json.dumps(settings.redacted(), indent=1))
        return
    from service.logs import configure_logs

    configure_logs(settings.log_level)

    _detector(settings).require_live()  # a bad artefact is reported before anything is started
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it has stopped
        signal.signal(number, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # sent when the terminal is closed
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
        if settings.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="gatewatch-")
            )
        edge = Edge(
            settings.head_deadline_s, settings.body_deadline_s, settings.head_bytes, allow_files(settings.connections)
        )
        config = uvicorn.Config(
            "service.app:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http=cast(Any, edge),  # uvicorn only calls it; each worker gets a copy
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=cast(int, settings.keep_alive_s),  # a number of seconds, whole or not
            timeout_graceful_shutdown=settings.shutdown_grace_s,
            timeout_worker_healthcheck=WORKER_S,
        )
        log.info("listening", addresses=[address_of(port) for port in ports])
        _run(config, ports)


def _run(config: uvicorn.Config, ports: list[Port]) -> None:
    """Serve in this process or, with several workers, in theirs."""
    from uvicorn import Server
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    if config.workers > 1:
        Multiprocess(config, [*ports]).run()
        return
    server = Server(config)
    server.run([port.another() for port in ports])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _hold(host: str, number: int) -> list[Port]:
    try:
        return hold(host, number)
    except OSError as error:
        raise GatewatchError(f"cannot listen on {host}, port {number}: {error.strerror}") from error


def _detector(settings: Settings) -> Detector:
    try:
        return load_detector(model_folder(settings.model), settings.channels, settings.alerts_per_week)
    except ArtefactError as error:
        hint = " in GATEWATCH_CHANNELS, as pressure,flow" if str(error).endswith("it is to watch") else ""
        raise GatewatchError(f"{error}{hint}") from error


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = f"GATEWATCH_{'_'.join(str(part) for part in problem['loc']).upper()}"
            value = redact(problem["input"]) if name == "GATEWATCH_REDIS_URL" else problem["input"]
            message = problem["msg"].removeprefix("Value error, ")
            found = "is not set" if problem["type"] == "missing" else f"is {value!r:.80}: {message}"
            lines.append(f"{name} {found}")
        raise GatewatchError("; ".join(lines)) from error
