"""`mission-root colony-kit` and `mission-root root-kit`: does a colony, or a root, keep the contract?

Exit codes: 0 nothing fails · 1 a requirement fails · 2 the kit cannot be run like this.
"""

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import show
from app.cli.client import AsJson, Failed, Url, emit, url_of_up

if TYPE_CHECKING:
    from colony_kit.report import Report, Result

Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write the report as JUnit XML.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="Only this requirement; may be repeated.")]
RESULTS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "not_applicable": ("n/a", "dim")}
Heard = Callable[["Result"], None]


def colony_kit(
    base_url: Annotated[
        str, typer.Option("--base-url", envvar="COLONY_SERVICE_BASE_URL", help="The colony's address.")
    ] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the kit's root listens.")
    ] = "127.0.0.1:0",
    callback_base_url: Annotated[
        str, typer.Option("--callback-base-url", help="How the colony reaches that address, where it differs.")
    ] = "",
    restart_command: Annotated[
        str, typer.Option("--restart-command", metavar="CMD", help="Restarts the colony; without it that is not asked.")
    ] = "",
    patience: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that one mission may take.")] = 60.0,
    only: Only = None,
    junit: Junit = None,
    as_json: AsJson = False,
) -> None:
    """Play the root against a running colony, in any language, and say which requirements of the contract it meets.

    The key comes from COLONY_SERVICE_API_KEY or ROOT_API_KEY, as kid:secret.
    """
    from colony_kit.environment import Misuse, address, service_keys
    from colony_kit.of_colony import REQUIREMENTS, run
    from colony_kit.of_colony.play import Pace

    def asked(heard: Heard) -> Awaitable["Report"]:
        if not base_url:
            raise Misuse("No colony: give --base-url or set COLONY_SERVICE_BASE_URL.")
        return run(
            _url(base_url, "--base-url"),
            service_keys(),
            listen=address(listen),
            callback_base_url=_url(callback_base_url, "--callback-base-url") if callback_base_url else None,
            restart=_words(restart_command),
            only=only or (),
            pace=Pace(patience=patience),
            heard=heard,
        )

    _report("colony", asked, len(only or REQUIREMENTS), junit, as_json)


def root_kit(
    url: Url = "",
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Where the kit's colony listens, and the root dispatches to; else the address in COLONY_SERVICE_BASE_URL.",
        ),
    ] = "",
    patience: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds to wait for one thing, such as a lease.")
    ] = 60.0,
    only: Only = None,
    junit: Junit = None,
    as_json: AsJson = False,
) -> None:
    """Play a colony against a running root, and say which requirements of the contract it meets.

    The root's COLONY_SERVICE_BASE_URL leads to --listen. The service key comes from COLONY_SERVICE_API_KEY or
    ROOT_API_KEY, as kid:secret; missions are asked for with the API key of MISSION_ROOT_API_KEY.
    """
    from colony_kit.environment import address, service_keys
    from colony_kit.of_root import REQUIREMENTS, run
    from colony_kit.of_root.play import Pace

    def asked(heard: Heard) -> Awaitable["Report"]:
        return run(
            _url(url or url_of_up(), "--url"),
            _api_key(),
            service_keys(),
            listen=address(listen or _usual_address()),
            only=only or (),
            pace=Pace(patience=patience),
            heard=heard,
        )

    _report("root", asked, len(only or REQUIREMENTS), junit, as_json)


def _api_key() -> str:
    from colony_kit.environment import Misuse

    if not (key := os.environ.get("MISSION_ROOT_API_KEY", "")):
        raise Misuse("No API key: set MISSION_ROOT_API_KEY to one that may ask for missions.")
    return key


def _usual_address() -> str:
    """Where a root that was told COLONY_SERVICE_BASE_URL dispatches to."""
    from colony_client.contract import url_origin
    from colony_kit.environment import Misuse

    try:
        return url_origin(os.environ.get("COLONY_SERVICE_BASE_URL", "")).partition("://")[2]
    except ValueError:
        raise Misuse("Give --listen HOST:PORT, the address that the root's COLONY_SERVICE_BASE_URL leads to.") from None


def _report(
    kit: str, asked: Callable[[Heard], Awaitable["Report"]], total: int, junit: Path | None, as_json: bool
) -> None:
    """Runs a kit, shows what it found, and leaves with its exit code."""
    from colony_kit.environment import Misuse
    from colony_kit.junit import write

    async def whole() -> "Report":
        with show.counting(total, f"asking the {kit}", quiet=as_json) as count:
            return await asked(lambda _: count())

    try:
        report = asyncio.run(whole())
        if junit is not None:
            write(report, junit)
    except Misuse as misuse:
        raise Failed(str(misuse), 2) from None
    if as_json:
        emit(report.document())
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _show(report: "Report") -> None:
    """A line for each requirement, then what stands behind those that fail, then the sum."""
    found = show.rows("nr", "result", "requirement")
    for one in report.results:
        words, colour = RESULTS[one.outcome]
        found.add_row(one.id, show.coloured(words, colour), show.visible(one.sentence))
    show.out.print(found)
    for one in report.results:
        if one.outcome == "fail":
            show.heading(f"{one.id} fails")
            show.line(one.sentence)
            show.line(one.evidence)
        elif one.outcome == "not_applicable":
            show.aside(f"{one.id} is not applicable: {one.evidence}.")
    counts = report.counts()
    show.line(
        f"{report.target}: {counts['pass']} pass, {counts['fail']} fail, {counts['not_applicable']} not applicable, "
        f"in {report.seconds:.1f} s."
    )


def _url(text: str, option: str) -> str:
    from colony_client.contract import url_origin
    from colony_kit.environment import Misuse

    try:
        url_origin(text)
    except ValueError as wrong:
        raise Misuse(f"{option} {wrong}.") from None
    return text.rstrip("/")


def _words(command: str) -> list[str]:
    from colony_kit.environment import Misuse

    try:
        return shlex.split(command)
    except ValueError as wrong:
        raise Misuse(f"--restart-command cannot be read: {wrong}.") from None
