"""From canonical arguments to a result: the one place where a tool is asked, whoever answers."""

from typing import Any

from pydantic import ValidationError

from app.canonical import canonical, fingerprint
from app.errors import Problem
from app.http.edge import entry
from app.telemetry import TOOL_CALLS, TOOL_SECONDS, begin, span
from app.tools import layers
from app.tools.builtin import Arguments, Context, Result, said_no
from app.tools.known import Known, drift
from app.tools.mcp import CODES, Answer, ServerFailed
from app.tools.schemas import fit
from app.tools.sessions import Drifted, Full, Sessions, Unusable
from app.writebacks.connectors import ConnectorError

MOST_ERRORS = 20
begin(TOOL_CALLS, ["built_in", "mcp"], ["answered", "proposed", "upstream_unavailable", "tool_failed"])


async def ask(sessions: Sessions, context: Context, known: Known, arguments: dict[str, Any]) -> Result:
    """What a reading tool answers to arguments that were taken in canonical form. Raises Problem.

    Nothing else decides what a call's result is: the same arguments recorded here can be answered from a record.
    """
    kind = "built_in" if known.built_in else "mcp"
    try:
        with TOOL_SECONDS.labels(kind).time(), span("tool", attributes={"tool.name": known.name}):
            result = await (
                run(context, known, arguments) if known.built_in else call(sessions, context, known, arguments)
            )
    except Problem as refused:
        TOOL_CALLS.labels(kind, refused.code).inc()
        raise
    TOOL_CALLS.labels(kind, "answered").inc()
    return result


async def run(context: Context, known: Known, arguments: dict[str, Any]) -> Result:
    """A tool of the root's own."""
    assert known.built_in is not None and known.built_in.run is not None
    try:
        return await known.built_in.run(context, read_arguments(known.built_in.arguments, arguments))
    except ConnectorError as error:
        raise said_no(error) from None


def read_arguments(model: type[Arguments], arguments: dict[str, Any]) -> Any:
    """Arguments that fit a built-in tool. Raises Problem validation."""
    try:
        return model.model_validate(arguments)
    except ValidationError as refused:
        found = [entry(("body", "arguments", *item["loc"]), item["msg"]) for item in refused.errors()[:MOST_ERRORS]]
        raise Problem("validation", f"{found[0].get('pointer')}: {found[0]['detail']}", errors=found) from None


async def call(sessions: Sessions, context: Context, known: Known, arguments: dict[str, Any]) -> Result:
    """A tool of a layer: its arguments are held against the pinned schema before its server sees them."""
    layer, wanted = known.layer, known.entry
    assert layer is not None and wanted is not None
    assert known.pin is not None
    fit(known.pin, arguments)
    try:
        answer = await sessions.ask(context.tenant, layer, wanted.name, arguments)
    except Drifted as found:
        await layers.note(context.database, context.tenant, layer.name, layer.version, drifted=found.tools)
        raise drift(known.name) from None
    except Unusable as lacking:
        raise Problem(
            "tool_failed", f"{known.name} cannot be called from here: {lacking}.", cause="tool_unusable"
        ) from None
    except Full as full:
        whom = "one tenant" if full.of == "tenant" else "this process"
        detail = f"As many servers of tools are being asked as {whom} asks at once."
        raise Problem("rate_limited", detail, retry_after=1, limit="tools") from None
    except ServerFailed as failure:
        raise failed(known, failure) from None
    return await result(context, known, arguments, answer)


def failed(known: Known, failure: ServerFailed) -> Problem:
    """A server's failure as a colony hears it: what may pass is asked again, what will not is gone on without."""
    said: dict[str, Any] = {"said": failure.said} if failure.said else {}
    detail = f"{known.name}: {CODES[failure.code]}."
    if failure.retryable:
        return Problem("upstream_unavailable", detail, retry_after=2, cause=failure.code)
    return Problem("tool_failed", detail, cause=failure.code, **said)


async def result(context: Context, known: Known, arguments: dict[str, Any], answer: Answer) -> Result:
    """The citable bytes are the answer's text as it came, or its structured content as canonical JSON when there is no text.

    The document's name says which tool was asked what: the same question that is answered otherwise another time is the same
    document in other bytes.
    """
    layer = known.layer
    assert layer is not None and known.entry is not None
    data = answer.text.encode() if answer.text else b"" if answer.structured is None else canonical(answer.structured)
    laid = await context.objects.lay_down(context.tenant, data)
    source, version = laid.sha256, f"v{layer.version}"
    document = f"{layer.name}/{known.entry.name}/{fingerprint(arguments).hex()[:32]}"
    value: dict[str, Any] = {
        "tool": known.name,
        "layer_version": layer.version,
        "source": source.hex() if data else None,
        "document": document,
        "version": version,
        "text": data.decode(),
        "structured": answer.structured,
        "left_out": answer.left_out,
    }
    return Result(value, shown=[(source, document, version)] if data else [], keep=[laid] if data else [])
