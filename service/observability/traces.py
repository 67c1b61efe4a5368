"""Traces: spans of OpenTelemetry from a request through the batch that scores it to what Redis was asked for it.

    POST /v1/readings       a request; it belongs to the trace that the caller's `traceparent` names
      batch                 below the first request in it that is sampled, with links to all of those
        unit of work        from the records that Redis is asked for to those that it has saved; again where others were
                            faster

This module, the SDK and the exporter are imported only with GATEWATCH_TRACES, and need the extra `traces`. Where spans
go and which of them are kept is said by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and the others). No span has the name of a stream, a tenant or a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.util.types import AnyValue

from gatewatch.service.errors import ServiceError

MOST_LINKS: Final = 128
"""Of a batch; it is what OpenTelemetry keeps of a span."""

TOLD_BY: Final = frozenset((b"traceparent", b"tracestate", b"baggage"))
"""Headers that say of which trace a request is."""

METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


class Traces:
    """Makes the spans of a process, and sends them away in a thread of their own."""

    def __init__(self, version: str) -> None:
        own = Resource({"service.name": "gatewatch", "service.version": version})
        self._provider = TracerProvider(resource=Resource.create().merge(own).merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gatewatch", version)

    def request(self, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> Span:
        """Begin the span of a request; whoever answers it calls `answered`."""
        told = {name.decode(): value.decode("latin-1") for name, value in headers if name in TOLD_BY}
        shown = method if method in METHODS else "_OTHER"
        return self._tracer.start_span(
            f"{shown} {route}",
            propagate.extract(told),
            SpanKind.SERVER,
            {"http.request.method": shown, "http.route": route},
        )

    @staticmethod
    def answered(span: Span, status: int) -> None:
        """End the span of a request."""
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    @staticmethod
    def within(span: Span) -> AbstractContextManager[Span]:
        """What is done inside belongs to a span, which is not ended by it."""
        return trace.use_span(span, record_exception=False, set_status_on_exception=False)

    @staticmethod
    def current() -> SpanContext | None:
        """Of which span something is; None where that is not kept."""
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid and context.trace_flags.sampled else None

    @contextmanager
    def batch(self, of: Sequence[SpanContext | None], readings: int) -> Iterator[None]:
        """The span of a batch; none where none of its requests is sampled."""
        sampled = [context for context in of if context is not None]
        if not sampled:
            yield
            return
        parent = trace.set_span_in_context(trace.NonRecordingSpan(sampled[0]))
        links = [Link(context) for context in sampled[:MOST_LINKS]]
        attributes = {"gatewatch.readings": readings, "gatewatch.requests": len(of)}
        with self._tracer.start_as_current_span("batch", parent, SpanKind.INTERNAL, attributes, links):
            yield

    @contextmanager
    def unit_of_work(self, streams: int) -> Iterator[None]:
        """What Redis is asked for some streams; none where nothing that is sampled asks it."""
        if self.current() is None:
            yield
            return
        attributes: dict[str, AnyValue] = {"db.system.name": "redis", "gatewatch.streams": streams}
        with self._tracer.start_as_current_span(
            "unit of work", None, SpanKind.CLIENT, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except ServiceError as error:
                span.set_status(StatusCode.ERROR, error.title)
                raise

    def stop(self) -> None:
        """Send what is left; it may take as long as the exporter waits."""
        self._provider.shutdown()
