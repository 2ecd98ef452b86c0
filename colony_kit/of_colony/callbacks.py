"""What a colony sends: judged over all that was heard, whatever else was asked meanwhile."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from colony_client.artifacts import (
    AggregationPacket,
    Citation,
    Claim,
    Passage,
    ResearchArtifact,
    ReviewPacket,
    WorkerResult,
    WritebackProposal,
    quote_sha256,
)
from colony_kit.attempt import Attempt, Breach, Mood
from colony_kit.library import Shown
from colony_kit.of_colony.play import Play
from colony_kit.report import Failed, NotApplicable


async def signed(play: Play) -> str:
    return await _no(play, "signature")


async def fresh_nonces(play: Play) -> str:
    return await _no(play, "nonce")


async def own_token(play: Play) -> str:
    """A second mission, so that there is a token to mistake for its own."""
    await play.plain()
    with contextlib.suppress(Failed):
        await play.worked(play.attempt())
    return await _no(play, "token")


async def newest_token(play: Play) -> str:
    """A mission whose tools take their time, so that the root has much to answer meanwhile."""
    slow = play.attempt(Mood(tools_after=play.pace.slow))
    await play.accepted(slow)
    if not await slow.until(lambda: len(slow.tokens) > 4 or slow.terminal, play.pace.patience):
        raise Failed(f"the mission did not get on; the root had heard {slow.story()}")
    await play.cancel(slow)
    if old := [one for attempt in play.root.attempts.values() for one in attempt.found("old_token")]:
        raise Failed(f"{len(old)} callbacks; {old[0]}")
    return f"{len(slow.tokens)} tokens issued to a slow mission, each used in its turn"


async def shape(play: Play) -> str:
    return await _no(play, "shape")


async def consecutive(play: Play) -> str:
    """Where the root was good: elsewhere a gap has another cause, and another number."""
    return await _no(play, "gap", calm=True)


async def ends_once(play: Play) -> str:
    with contextlib.suppress(Failed):
        await play.plain()
    await asyncio.sleep(play.pace.quiet)
    return await _no(play, "after_end")


async def own_artifacts(play: Play) -> str:
    return await _no(play, "stranger", "roots_own")


async def citations(play: Play) -> str:
    await play.plain()
    await _leads_or_nothing(play)
    seen = 0
    for attempt in play.root.attempts.values():
        for span in cited(attempt):
            seen += 1
            if problem := _wrong(span, attempt, play.root.library.stored):
                raise Failed(
                    f"mission {attempt.mission_id} cites bytes {span.start} to {span.end} of {span.document}, "
                    f"source {span.source[:12]}…: {problem}"
                )
    if not seen:
        raise NotApplicable("no mission has cited anything")
    return f"{seen} citations compared with what the tools had shown"


async def result(play: Play) -> str:
    """Claims of the result rest on citations; `complete` comes after the result."""
    attempt = await play.plain()
    assert attempt.terminal is not None
    if attempt.terminal.signal != "complete":
        raise NotApplicable(f"the mission ended with {attempt.terminal.signal}: {attempt.terminal.reason}")
    packets = [one for one in attempt.artifacts if isinstance(one, AggregationPacket)]
    if not packets:
        raise Failed(f"complete came without an aggregation_packet; the root had heard {attempt.story()}")
    if bare := [claim for claim in packets[-1].claims if not claim.citations]:
        raise Failed(f"claim {bare[0].id} of the aggregation_packet cites nothing")
    return f"{packets[-1].answer_status}, {len(packets[-1].claims)} claims, each cited"


async def proposals(play: Play) -> str:
    await _leads_or_nothing(play)
    made = [
        one
        for attempt in play.root.attempts.values()
        for one in attempt.artifacts
        if isinstance(one, WritebackProposal)
    ]
    if not made:
        raise NotApplicable("no mission has proposed anything")
    for one in made:
        kind, _, name = one.target.partition("/")
        row = play.root.library.record(kind, name)
        if row is None:
            raise Failed(f"proposal {one.proposal_id} changes {one.target}, a record that no tool has shown")
        if str(one.expected_version) != row["version"]:
            raise Failed(
                f"proposal {one.proposal_id} expects version {one.expected_version} of {one.target}; it was shown at {row['version']}"
            )
        if all(row["fields"].get(field) == value for field, value in one.changes.items()):
            raise Failed(f"proposal {one.proposal_id} changes nothing: {one.target} says so already")
        if not one.evidence:
            raise Failed(f"proposal {one.proposal_id} gives no evidence")
    return f"{len(made)} proposals, each for a record and a version that was shown"


def cited(attempt: Attempt) -> Iterator[Citation | Passage]:
    for one in attempt.artifacts:
        match one:
            case WorkerResult() | AggregationPacket():
                yield from _of_claims(one.claims)
            case ReviewPacket():
                yield from (found.citation for claim in one.claims for found in claim.citations if found.verified)
            case ResearchArtifact():
                yield from one.passages
            case WritebackProposal():
                yield from one.evidence


def _of_claims(claims: list[Claim]) -> Iterator[Citation]:
    return (citation for claim in claims for citation in claim.citations)


def _wrong(span: Any, attempt: Attempt, stored: dict[str, bytes]) -> str | None:
    if Shown(span.source, span.document) not in attempt.shown:
        return "no tool has shown this mission that document with these bytes"
    held = stored[span.source][span.start : span.end]
    if held != span.quote.encode():
        return f"these bytes are not its quote, they say {held[:60].decode(errors='replace')!r}"
    if quote_sha256(held) != span.quote_sha256:
        return "quote_sha256 is not the hash of the quote"
    return None


async def _leads_or_nothing(play: Play) -> None:
    """A colony need not know CRM missions."""
    with contextlib.suppress(Failed):
        await play.leads()


async def _no(play: Play, *breaches: Breach, calm: bool = False) -> str:
    """Nothing of this kind in all that was heard; a mission that did not get to its end may show it, too."""
    failed: Failed | None = None
    try:
        await play.plain()
    except Failed as stuck:
        failed = stuck
    attempts = [one for one in play.root.attempts.values() if one.heard and (one.calm or not calm)]
    if found := [one for attempt in attempts for one in attempt.found(*breaches)]:
        raise Failed(f"{len(found)} times; {found[0]}")
    if failed:
        raise failed
    return f"{sum(len(one.heard) for one in attempts)} callbacks of {len(attempts)} attempts looked at"
