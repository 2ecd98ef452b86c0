"""Logs and traces of the colony, wired once per process. No goal, quote or key is ever logged."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from colony.settings import Settings
from colony_client import causes

tracer = trace.get_tracer("colony")
_W3C = TraceContextTextMapPropagator()


def setup(settings: Settings) -> None:
    """JSON lines on stderr, spans to OTLP when an endpoint is set, traceparent on every outgoing request."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            trace_back,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process="colony")
    resource = Resource.create({"service.name": "colony", "deployment.environment.name": settings.environment})
    provider = TracerProvider(resource=resource)
    if settings.otel_exporter_otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # only when traces leave

        endpoint = f"{settings.otel_exporter_otlp_endpoint}/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    HTTPXClientInstrumentor().instrument()


def _with_trace(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        record["trace_id"] = f"{span.trace_id:032x}"
    return record


def trace_back(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return causes.told(record)


def continuing(traceparent: str | None) -> Context | None:
    """The context of the trace a dispatch belongs to; None keeps the one of the current request."""
    return _W3C.extract({"traceparent": traceparent}) if traceparent else None
