"""Spans of OpenTelemetry, as a collector gets them; and nothing of it where it is off."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.samples import readings
from tests.support.whole_path import serving

CALLER, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEPT = {"traceparent": f"00-{CALLER}-{PARENT}-01"}


class Collector:
    """What takes OTLP over HTTP, as any collector does.

    Attributes:
        spans: that came, with `service`, the name of who sent them.
    """

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.services: set[str] = set()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(names["service.name"])
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "links": {link.span_id.hex() for link in span.links},
                        "attributes": {
                            one.key: one.value.string_value or one.value.int_value for one in span.attributes
                        },
                    }
                )

    def named(self, name: str, trace: str = CALLER) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name and span["trace"] == trace]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector, and where it listens."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_trace_goes_from_the_caller_through_door_batch_and_unit_of_work(artefact: Path, tmp_path: Path) -> None:
    """On the fast path and on the other, of a reading that is applied and of one that is refused."""
    with collecting() as (collector, url):
        settings = {"GATEWATCH_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "of-a-test"}
        with serving(artefact, tmp_path, **settings) as (service, _):
            sent = readings("a", 3)
            httpx2.post(f"{service}/v1/readings", json=sent[:1], headers=KEPT)
            zipped = {"content-encoding": "gzip", "content-type": "application/json"}
            httpx2.post(
                f"{service}/v1/streams/a/readings", content=gzip.compress(json.dumps(sent[1]).encode()),
                headers=KEPT | zipped,
            )  # fmt: skip
            httpx2.post(f"{service}/v1/readings", content=b"{", headers=KEPT)
            httpx2.get(f"{service}/livez", headers=KEPT)
            httpx2.post(f"{service}/v1/readings", json=sent[2:], headers={"traceparent": f"00-{CALLER}-{PARENT}-00"})
            httpx2.get(f"{service}/v1/streams/a")
    fast, refused = sorted(collector.named("POST /v1/readings"), key=lambda span: span["attributes"][STATUS])
    (routed,) = collector.named("POST /v1/streams/{stream}/readings")
    for request, status in ((fast, 200), (routed, 200), (refused, 400)):
        assert (request["parent"], request["attributes"][STATUS]) == (PARENT, status)
    batches = {batch["parent"]: batch for batch in collector.named("batch")}
    works = {work["parent"]: work for work in collector.named("unit of work")}
    assert set(batches) == {fast["id"], routed["id"]}  # and what the caller does not keep makes none
    for parent, batch in batches.items():
        assert batch["links"] == {parent}
        assert works[batch["id"]]["attributes"] == {"db.system.name": "redis", "gatewatch.streams": 1}
    assert len(collector.spans) == 3 + 2 + len(works) + 1
    assert {span["trace"] for span in collector.spans if span["name"] == "GET /v1/streams/{stream}"} != {CALLER}
    assert collector.services == {"of-a-test"}


STATUS = "http.response.status_code"


def test_a_batch_names_all_the_requests_that_share_it(artefact: Path, tmp_path: Path) -> None:
    with collecting() as (collector, url):
        settings = {"GATEWATCH_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with serving(artefact, tmp_path, **settings) as (service, _), ThreadPoolExecutor(8) as pool:

            def send(number: int) -> int:
                return httpx2.post(f"{service}/v1/readings", json=readings(f"s{number}", 1)).status_code

            assert set(pool.map(send, range(64))) == {200}
    requests = {span["id"]: span for span in collector.spans if span["name"] == "POST /v1/readings"}
    batches = [span for span in collector.spans if span["name"] == "batch"]
    assert len(requests) == 64
    assert sorted(link for batch in batches for link in batch["links"]) == sorted(requests)
    assert all(batch["trace"] == requests[batch["parent"]]["trace"] for batch in batches)
    assert all(batch["attributes"]["gatewatch.requests"] == len(batch["links"]) for batch in batches)
    assert len(batches) < 64


STARTED = """
import sys
from starlette.testclient import TestClient
from gatewatch.service.app import create_app
with TestClient(create_app()) as client:
    assert client.post("/v1/readings", json={"stream": "a", "values": {"pressure": 1}}).status_code == 200
print(*sys.modules, sep="\\n")
"""


def test_nothing_of_it_is_imported_where_it_is_off(artefact: Path, redis_url: str, tenant: str) -> None:
    """FastAPI brings the interfaces itself, and redis-py looks at the SDK's metrics; nobody else looks at anything."""
    environment = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_REDIS_URL": redis_url, "GATEWATCH_TENANT": tenant}

    def imported(**more: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", STARTED], env=environment | more, capture_output=True, text=True, check=True
        )
        return {
            name
            for name in done.stdout.splitlines()
            if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace", "opentelemetry.proto"))
            or name == "gatewatch.service.observability.traces"
        }

    assert imported(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == set()
    assert len(imported(GATEWATCH_TRACES="true", OTEL_TRACES_SAMPLER="always_off")) > 3
