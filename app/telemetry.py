"""Logs, traces and metrics, wired once per process. No secret and no user text goes into any of them."""

import asyncio
import atexit
import json
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import structlog
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, SamplingResult, TraceIdRatioBased
from prometheus_client import Counter, Gauge, Histogram
from pydantic_core import to_json

from app.build import name_of
from colony_client import causes

tracer = trace.get_tracer("mission_root")
requests = structlog.get_logger("http")
PROCESS: dict[str, str] = {}  # which one this is, once it is set up

# The product's own metrics. Labels take values from fixed sets only.
MISSIONS = Counter("mission_root_missions", "Missions by type and the state they moved to.", ["mission_type", "state"])
STAGE_SECONDS = Histogram(
    "mission_root_stage_seconds",
    "Time the colony spent in a stage.",
    ["stage"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
)
PROVIDER_FAILURES = Counter("mission_root_provider_failures", "Provider failures a colony reported.", ["code"])
DECISIONS = Counter("mission_root_decisions", "Human decisions by what came of them.", ["outcome"])
DECISION_SECONDS = Histogram(
    "mission_root_decision_seconds",
    "Time from the opening of an approval to a decision on it.",
    ["verdict"],
    buckets=(10, 30, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200),
)
POLICY = Counter("mission_root_policy_decisions", "Policy decisions by action and effect.", ["action", "effect"])
BLOCKS = Counter(
    "mission_root_policy_blocks", "Denials by action and rule; rules of tenants count together.", ["action", "rule"]
)
WRITEBACKS = Counter("mission_root_writebacks", "Executions by how they were settled.", ["state"])
TOOL_CALLS = Counter(
    "mission_root_tool_calls", "Tool calls by kind of tool and what came of them.", ["kind", "outcome"]
)
TOOL_SECONDS = Histogram(
    "mission_root_tool_seconds",
    "Time a tool took to answer.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 20, 60),
)
TOOL_FAILURES = Counter(
    "mission_root_tool_server_failures", "Calls that a tool server did not answer usably.", ["code"]
)
TOOL_SESSIONS_FULL = Counter(
    "mission_root_tool_sessions_full", "Calls of tools for which there was no room for a session.", ["of"]
)
QUARANTINED = Counter("mission_root_quarantined_payloads", "Payloads refused at the boundary and kept.", ["origin"])
COLONY_FAILURES = Counter(
    "mission_root_colony_failures", "Calls that the colony did not answer as the contract says, by why.", ["code"]
)
STRANGERS = Counter(
    "mission_root_colony_calls_refused", "Calls to the internal API that proved no key, or no mission.", ["reason"]
)
WEBHOOKS = Counter("mission_root_webhook_tries", "Tries to deliver a webhook by what came of them.", ["outcome"])
MODEL_CALLS = Counter("mission_root_model_calls", "Calls of model providers by outcome.", ["provider", "outcome"])
MODEL_TOKENS = Counter("mission_root_model_tokens", "Tokens that model providers counted.", ["provider", "direction"])
MODEL_SECONDS = Histogram(
    "mission_root_model_seconds",
    "How long calls of model providers took, streams to their end.",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
BUS_FACTS = Counter("mission_root_bus_facts", "Facts that the message bus has acknowledged.")
BUS_LAG = Gauge("mission_root_bus_lag_seconds", "Age of the oldest fact not yet on the message bus; 0: none.")
REPAIRS = Counter(
    "mission_root_mission_repairs", "Open missions that waited for nothing, by state and repair.", ["state", "repair"]
)
WORK_DONE = Counter("mission_root_work_items", "Work items by kind and outcome.", ["kind", "outcome"])
POOL_WAIT = Histogram(
    "mission_root_pool_wait_seconds",
    "Time until a session had its database connection.",
    ["pool"],
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
POOL_IN_USE = Gauge("mission_root_pool_in_use", "Database connections that are in use.", ["pool"])
POOL_EXHAUSTED = Counter("mission_root_pool_exhausted", "Sessions that got no database connection in time.", ["pool"])
BUILD = Gauge("mission_root_build_info", "1; its labels say what runs here.", ["process", "version", "environment"])
COMPONENT_UP = Gauge(
    "mission_root_component_up", "1 when a dependency answers, 0 when its breaker is open.", ["component"]
)


def begin(counter: Counter, *labels: Iterable[str]) -> None:
    """Says 0 for every combination: Prometheus sees no increase in what it sees for the first time."""
    for values in product(*labels):
        counter.labels(*values)


SPANS_LEAVE_MS = 1000
LAST_SPANS_S = 0.5  # of the ten seconds in which a process ends; see app.process
MOST_LINES = 500  # that wait to be written
PLAIN = frozenset((str, int, float, bool, type(None)))
TEXTS = frozenset((str,))
SECRET_WORDS = ("authorization", "secret", "password", "token", "api_key", "signature", "cookie", "database_url")


def setup(
    process: str,
    *,
    level: str = "info",
    otlp_endpoint: str | None = None,
    sample: float = 1.0,
    environment: str = "local",
    build: str | None = None,
) -> None:
    """Configures logging and tracing of this process. Call once, before anything logs. build: what it was made from."""
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=Lines,
        cache_logger_on_first_use=True,
    )
    Lines.requests = Lines() if least <= logging.INFO else None
    PROCESS["process"] = process
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format='{"level":"%(levelname)s","logger":"%(name)s","event":%(message)r}',
    )
    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": f"mission-root-{process}", "deployment.environment.name": environment}
        ),
        sampler=ParentBased(Chosen(sample)),
        shutdown_on_exit=False,  # the library waits half a minute for a collector that is away
    )
    atexit.register(let_spans_leave, provider)
    provider.add_span_processor(WithoutQueries())
    if otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # only when traces leave

        provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=f"{otlp_endpoint}/v1/traces"), schedule_delay_millis=SPANS_LEAVE_MS
            )
        )
    trace.set_tracer_provider(provider)
    BUILD.labels(process, name_of(build), environment).set(1)


def let_spans_leave(provider: TracerProvider) -> None:
    """What was not sent yet has a moment at the end of the process; a collector that does not answer holds up no stop."""
    last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    last.start()
    last.join(LAST_SPANS_S)


def without_query(span: Any, _scope: Any = None) -> None:
    """What stands behind the question mark of an address is what people wrote, or a secret: it leaves with no trace."""
    said = getattr(span, "attributes", None) or {}
    for name in ("http.url", "http.target", "url.full"):
        if "?" in str(said.get(name, "")):
            span.set_attribute(name, str(said[name]).partition("?")[0])
    if "url.query" in said:
        span.set_attribute("url.query", "")


class WithoutQueries(SpanProcessor):
    """Of calls that leave here. Those that come in get their address later: see app.http.serving.instrument."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        without_query(span)


@contextmanager
def span(name: str, **named: Any) -> Iterator[trace.Span]:
    """A span around a block. What an exception says stays out of it, as it stays out of the log: only its type is kept."""
    with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False, **named) as made:
        try:
            yield made
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise


class Lines:
    """Where lines go: to the standard error stream, those of one turn of the event loop in one piece."""

    requests: ClassVar["Lines | None"] = None  # where lines of requests go, once lines of their level are wanted
    waiting: ClassVar[list[str]] = []
    due: ClassVar[bool] = False  # somebody is about to write
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *_: Any) -> None:
        atexit.register(Lines.write)

    def info(self, line: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # outside of a loop there is nobody to do it later
            return self.warning(line)
        with Lines.lock:
            Lines.waiting.append(line)
            due, full, Lines.due = Lines.due, len(Lines.waiting) >= MOST_LINES, True
        if full:
            Lines.write()  # whoever was about to, does not come: its loop has ended
        elif not due:
            loop.call_soon(Lines.write)

    debug = info

    def warning(self, line: str) -> None:
        with Lines.lock:
            Lines.waiting.append(line)
        Lines.write()  # it may be the last

    error = critical = warning

    @staticmethod
    def write() -> None:
        with Lines.lock:
            lines, Lines.waiting, Lines.due = Lines.waiting, [], False
            if lines:
                sys.stderr.write("\n".join(lines) + "\n")
                sys.stderr.flush()


_drawn: ContextVar[bool | None] = ContextVar(
    "drawn", default=None
)  # whether new traces are sampled; None: nobody has drawn


@contextmanager
def leaving_a_trace(certainly: bool = True) -> Iterator[None]:
    """Within, a new trace is sampled for certain: somebody else has drawn the lot."""
    token = _drawn.set(certainly)
    try:
        yield
    finally:
        _drawn.reset(token)


def leaving_no_trace() -> AbstractContextManager[None]:
    """Within, no new trace is sampled."""
    return leaving_a_trace(certainly=False)


class Chosen(TraceIdRatioBased):
    """A share of all traces, and those that were chosen already."""

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        drawn = _drawn.get()
        if drawn is None:
            return super().should_sample(*args, **named)
        return (ALWAYS_ON if drawn else ALWAYS_OFF).should_sample(*args, **named)


def add_process(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Not among what is bound: a request begins with nothing bound."""
    return {**PROCESS, **record}


def add_trace(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record["trace_id"] = f"{context.trace_id:032x}"
    return record


def redact(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A last net: a field that is named like a secret is never printed, whoever logged it."""
    if any(map(named_like_a_secret, record)):
        for name in filter(named_like_a_secret, record):
            record[name] = "[redacted]"
    return record


@lru_cache(maxsize=4096)
def named_like_a_secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_WORDS)


def render(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> str:
    """One line of ASCII: what was written by whoever it may be moves no cursor and ends no line."""
    if PLAIN.issuperset(map(type, record.values())):
        try:
            return to_json(record, ensure_ascii=True).decode()
        except ValueError:  # a lone surrogate, which has no UTF-8
            pass
    return json.dumps(record, default=repr)  # a field that its class keeps out of its repr stays out of the log


def trace_back(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return causes.told(record, SPEAKING)


# Exceptions whose messages we write ourselves, and know to hold no one's data.
SPEAKING = ("app", "colony_client")

PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    add_process,
    add_trace,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    trace_back,
    redact,
    render,
]


def say_request(method: str, path: str, status: int, ms: float) -> None:
    """The line that each request ends with. What the processors would make of it is known beforehand: that costs half of them.

    The chain has the word whenever it is not known: something else is bound than plain names and texts, or nothing is set up.
    """
    bound = structlog.contextvars.get_contextvars()
    if Lines.requests and TEXTS.issuperset(map(type, bound.values())) and not any(map(named_like_a_secret, bound)):
        said = {
            **PROCESS, **bound, "method": method, "path": path, "status": status, "ms": ms, "event": "request",
            "level": "info", "timestamp": datetime.now(UTC),
        }  # fmt: skip
        add_trace(None, "info", said)
        with suppress(ValueError):  # a lone surrogate
            return Lines.requests.info(to_json(said, ensure_ascii=True).decode())
    requests.info("request", method=method, path=path, status=status, ms=ms)


def traceparent() -> str | None:
    """The W3C traceparent of the current span, for storing beside a row that continues the trace later."""
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else None


def continuing(stored: str | None) -> Any:
    """The trace context of a stored traceparent, for starting a span that belongs to the same trace."""
    return propagate.extract({"traceparent": stored} if stored else {})
