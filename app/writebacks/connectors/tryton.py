"""The connector for Tryton: leads and opportunities (`sale.opportunity`) are read and changed, parties are read.

Tryton keeps no idempotency keys. What makes a change happen at most once is its own guard: a call that names the version
(`_timestamp`) it was made for is refused by Tryton once the record has another one. So an approved change can only ever
be the very next revision of the version it was approved for, and whether it happened is read from Tryton's history:
who made that next revision, and which values it holds. The write account must therefore be the root's alone.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, assert_never
from urllib.parse import quote

from app import outbound
from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    NotApplied,
    NotConfigured,
    Observed,
    Page,
    Payload,
    Reader,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    verify,
)
from app.writebacks.connectors.tryton_words import (
    FIELDS,
    MODELS,
    call_for,
    datetime_as_sent,
    datetime_in,
    domain_of,
    id_of,
    model_of,
    moment_of,
    observed,
    version_of,
)
from app.writebacks.connectors.wire import Answer, Line, NoAnswer, claimed_payload, fit_key, json_in

LARGEST_ANSWER = 4 * 1024 * 1024
LOGIN_PAUSE_S = 60.0  # Tryton answers every further failed login more slowly: asking often makes it worse
UNCLEAR = "The next change was made by the root's account with other values: a person has to look."


class _NoLogin(Exception):
    """Tryton did not let the account in, so nothing was asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Unknown(Exception):
    """Tryton does not know the session."""


class _Said(Exception):
    """Tryton's own error: its transaction was rolled back, as far as the error tells."""

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(told)
        self.kind = kind
        self.told = told


@dataclass(frozen=True)
class _Session:
    user: int
    header: str


@dataclass(frozen=True)
class _Fate:
    """What became of the version a payload was approved for.

    standing: the record still has it. ours: the next revision is the approved change. theirs: it is another change.
    unclear: it is of the root's own account, in the approved fields, with other values.
    """

    verdict: Literal["standing", "ours", "theirs", "unclear"]
    current: Observed | None  # None: the record is gone
    revision: str = ""


@dataclass(frozen=True)
class _Revision:
    """The record as its history shows it, and the user who made it so."""

    seen: Observed
    maker: int


class TrytonReader(Reader):
    """Reads as one Tryton account (`credential` is `login:password`). Times are seconds; `total_s` bounds one call."""

    def __init__(
        self,
        name: str,
        base_url: str,
        database: str,
        credential: str,
        *,
        allowed: frozenset[str],
        connect_s: float = 2.0,
        total_s: float = 10.0,
    ) -> None:
        self.name = name
        self._login, colon, self._password = credential.partition(":")
        if not (colon and self._login and self._password):
            raise NotConfigured(f"The credential of {name} must be a Tryton login and password, joined by a colon.")
        problem = outbound.unfit(base_url, allowed, any_public=False)
        if problem is not None:
            raise NotConfigured(f"The address of {name} {problem}.")
        if not database:
            raise NotConfigured(f"{name} does not say which database of Tryton it means.")
        self._numbers = itertools.count(1)
        self._session: _Session | None = None
        self._entering = asyncio.Lock()
        self._url = base_url.rstrip("/") + f"/{quote(database, safe='')}/rpc/"
        self._line = Line(
            "Tryton",
            allowed=allowed,
            connect_s=connect_s,
            total_s=total_s,
            max_bytes=LARGEST_ANSWER,
            read=lambda body: json_in(_unzipped(body)),
            idle=0,  # a fresh connection per call: a kept one that died meanwhile looks just like a request lost on the way
            encoded=True,  # Tryton labels long answers gzip, whether they are or not
        )

    async def aclose(self) -> None:
        """Ends the session in Tryton, when it can be reached at once, and the connections."""
        if self._session is not None:
            with contextlib.suppress(TimeoutError, NoAnswer, _NoLogin, _Unknown, _Said):
                async with asyncio.timeout(2):
                    await self._exchange("common.db.logout", [], self._session)
        await self._line.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        model, id = model_of(kind), id_of(record_id)
        # searched for, not read: Tryton words "no such record" as a sentence in the user's language
        rows = await self._ask(f"model.{model}.search_read", [["id", "=", id]], 0, 1, None, list(FIELDS[kind]))
        match rows:
            case [dict(row)] if row.get("id") == id:
                return observed(kind, row)
            case []:
                raise RecordMissing(f"Tryton shows this account no {kind} {record_id}.", 404)
        raise ReadFailed("Tryton's record has an unexpected shape.")

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        """`limit` is 1 to 200. Opportunities can be filtered by `state` and `party` (an id), parties by `name`."""
        model, domain = model_of(kind), domain_of(kind, filters or {})
        if not 1 <= limit <= 200:
            raise Refused("limit must be 1 to 200.", None)
        if cursor:
            domain.append(["id", ">", id_of(cursor)])
        rows = await self._ask(f"model.{model}.search_read", domain, 0, limit + 1, [["id", "ASC"]], list(FIELDS[kind]))
        if not isinstance(rows, list):
            raise ReadFailed("Tryton's list has an unexpected shape.")
        items = tuple(observed(kind, row) for row in rows[:limit])
        return Page(items, items[-1].record_id if len(rows) > limit else None)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        raise ReadFailed("Whether a change was applied can only be told by the account that writes.")

    # --- calls

    async def _ask(self, method: str, *params: Any, context: Mapping[str, Any] | None = None) -> Any:
        """Calls something that changes nothing. Raises ReadFailed or Refused."""
        try:
            return await self._call(method, *params, context=context)
        except (NoAnswer, _NoLogin) as silent:
            code = silent.code if isinstance(silent, NoAnswer) else "connector_unreachable"
            raise ReadFailed(silent.reason, code) from silent
        except _Said as said:
            if said.kind == "UserError":
                raise Refused(said.told, 400) from said
            raise ReadFailed(said.told) from said

    async def _call(self, method: str, *params: Any, context: Mapping[str, Any] | None = None) -> Any:
        """Calls as the account; logs in first, and once more when the session has ended, which is before any work."""
        asked = [*params, dict(context or {})]
        for last in (False, True):
            session = await self._enter()
            try:
                return await self._exchange(method, asked, session)
            except _Unknown as unknown:
                if self._session is session:
                    self._session = None
                if last:
                    raise _NoLogin("Tryton ends every session of this account at once.") from unknown
        raise AssertionError

    async def _enter(self) -> _Session:
        async with self._entering:
            if self._session is None:
                asked = [self._login, {"password": self._password}]
                try:
                    answer = await self._exchange("common.db.login", asked, None)
                except _Unknown as refused:
                    raise _NoLogin("Tryton refused the login.") from refused
                except NoAnswer as silent:  # a login changes no record: whatever became of it, nothing was asked
                    raise _NoLogin(f"No login: {silent.reason}") from silent
                except _Said as said:
                    raise _NoLogin(f"No login: {said.told}") from said
                match answer:
                    case [int(user), str(token), *_]:
                        plain = f"{self._login}:{user}:{token}".encode()
                        self._session = _Session(user, f"Session {base64.b64encode(plain).decode('ascii')}")
                    case _:
                        raise _NoLogin("Tryton's answer to the login has an unexpected shape.")
            return self._session

    async def _exchange(self, method: str, params: Any, session: _Session | None) -> Any:
        """One call and its whole, bounded answer. Raises NoAnswer, _Unknown or _Said."""
        number = next(self._numbers)
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "Content-Type": "application/json"}
        if session is not None:
            headers["Authorization"] = session.header
        content = json.dumps({"id": number, "method": method, "params": params}).encode()
        answer = await self._line.exchange("POST", self._url, headers=headers, content=content)
        if answer.status == 401 and (session is None or _is_trytons_refusal(answer)):
            raise _Unknown
        if answer.status == 429 and session is None:
            raise _NoLogin("Tryton takes no more logins for a while: too many have failed.")
        return _result(answer, number)


class TrytonWriter(TrytonReader):
    """Changes opportunities with the account that may, and reads with it too."""

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        if payload is None:
            raise ReadFailed("Tryton keeps no keys: without the payload nothing can be told.")
        call_for(payload, self.name)
        fate = await self._fate(payload)
        if fate.verdict == "unclear":
            raise ReadFailed(UNCLEAR)
        return _receipt(fit_key(idempotency_key), payload, fate) if fate.verdict == "ours" else None

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = claimed_payload(claimed)
        method, params = call_for(payload, self.name)
        key, id = fit_key(idempotency_key), id_of(payload.record_id)
        guard = {"_timestamp": {f"{MODELS[payload.kind]},{id}": payload.expected_version}}
        said: _Said | None = None
        try:
            await self._call(f"model.{MODELS[payload.kind]}.{method}", [id], *params, context=guard)
        except _NoLogin as outside:
            raise NotApplied(outside.reason, retryable=True, retry_after_s=LOGIN_PAUSE_S) from outside
        except NoAnswer as silent:
            raise silent.about_a_change() from silent
        except _Said as error:
            said = error
        # Tryton has answered, so this call is over; what it did is for the history to say, whatever was answered.
        try:
            fate = await self._fate(payload)
        except (ReadFailed, Refused) as blind:
            raise Ambiguous(blind.reason) from blind
        return self._conclusion(payload, key, fate, said)

    def _conclusion(self, payload: Payload, key: str, fate: _Fate, said: _Said | None) -> Applied:
        match fate.verdict:
            case "ours":
                # an error does not unmake it: an earlier call of ours, given up as lost, has arrived after all
                return Applied(_receipt(key, payload, fate), replayed=said is not None)
            case "theirs":
                if said is None:
                    raise Ambiguous("Tryton agreed, and its history shows another change in that place.")
                if fate.current is None:
                    raise RecordMissing(f"Tryton shows this account no {payload.kind} {payload.record_id}.", 404)
                raise Stale("The record was changed in Tryton after it was read.", fate.current)
            case "unclear":  # what this very call did, Tryton has said; an earlier one was asked about before it
                if said is not None and said.kind == "ConcurrencyException" and fate.current is not None:
                    raise Stale(said.told, fate.current)
                raise Ambiguous(UNCLEAR)
            case "standing":
                if said is None:
                    raise NotApplied("Tryton agreed and left the record as it was.", retryable=False)
                if said.kind in ("UserError", "UserWarning"):
                    raise Refused(said.told, 409 if said.kind == "UserWarning" else 400)
                raise NotApplied(said.told, retryable=True)
        assert_never(fate.verdict)

    async def _fate(self, payload: Payload) -> _Fate:
        """Raises ReadFailed when Tryton cannot be asked, or when its history does not tell."""
        current: Observed | None = None
        with contextlib.suppress(RecordMissing):
            current = await self.read(payload.kind, payload.record_id)
        if current is not None and current.version == payload.expected_version:
            return _Fate("standing", current)
        moments = await self._revisions(payload)
        approved_for = moment_of(payload.expected_version)
        if approved_for not in moments:
            raise ReadFailed("Tryton's history does not hold the version that the change was approved for.")
        later = [moment for moment in moments if moment > approved_for]
        if not later:
            raise ReadFailed("Tryton's history holds nothing after the version that the change was approved for.")
        following = await self._revision(payload, min(later))
        if following is not None and following.maker != (await self._enter_to_read()).user:
            return _Fate("theirs", current)
        if following is not None and verify(payload, following.seen).matches:
            return _Fate("ours", current, following.seen.version)
        before = await self._revision(payload, approved_for)
        if before is None:
            raise ReadFailed("This account may not read the record's history any more.")
        if following is None:  # a deletion is the one revision that cannot be read
            return _Fate("theirs", current)
        if all(before.seen.value.get(name) == following.seen.value.get(name) for name in payload.changes):
            return _Fate("theirs", current)  # of this account, but for another approved change: none of these fields
        return _Fate("unclear", current)

    async def _enter_to_read(self) -> _Session:
        try:
            return await self._enter()
        except _NoLogin as outside:
            raise ReadFailed(outside.reason) from outside

    async def _revisions(self, payload: Payload) -> set[datetime]:
        rows = await self._ask(f"model.{MODELS[payload.kind]}.history_revisions", [id_of(payload.record_id)])
        try:
            return {datetime_in(row[0]) for row in rows}
        except (TypeError, LookupError, ValueError) as odd:
            raise ReadFailed("Tryton's history has an unexpected shape.") from odd

    async def _revision(self, payload: Payload, moment: datetime) -> _Revision | None:
        """The record as that revision left it; None when Tryton refuses to show it."""
        fields = [*FIELDS[payload.kind], "write_uid", "create_uid"]
        try:
            rows = await self._ask(
                f"model.{MODELS[payload.kind]}.read",
                [id_of(payload.record_id)],
                fields,
                context={"_datetime": datetime_as_sent(moment)},
            )
        except Refused:
            return None
        match rows:
            case [dict(row)]:
                # `_timestamp` is not kept in the history: a revision's moment is its version
                seen = observed(payload.kind, row | {"_timestamp": version_of(moment)})
                return _Revision(seen, int(row.get("write_uid") or row.get("create_uid") or 0))
        raise ReadFailed("Tryton's history has an unexpected shape.")


def _receipt(key: str, payload: Payload, fate: _Fate) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        "record": f"{MODELS[payload.kind]},{payload.record_id}",
        "follows": payload.expected_version,
        "revision": fate.revision,
    }


# --- what it answers


def _result(answer: Answer, number: int) -> Any:
    """Tryton's result. Anything but its own JSON may come from somewhere between here and there, and proves nothing."""
    document = answer.document if answer.status == 200 and answer.media_type == "application/json" else None
    match document:
        case {"id": same, "result": result} if same == number:
            return result
        case {"id": same, "error": [str(kind), told]} if same == number:
            raise _said(kind, told)
    raise NoAnswer(f"What answered {answer.status} is not Tryton, or not to this question.", sent=True)


def _said(kind: str, told: Any) -> _Said:
    """Tryton's error in one bounded sentence: it is stored and shown."""
    match kind, told:
        case "UserError", [str(message), str(more), *_]:
            return _Said(kind, f"Tryton refused: {message} {more}"[:500].rstrip())
        case "UserWarning", [str(name), str(message), *_]:
            return _Said(kind, f"Tryton warns ({name[:100]}), and a warning is for a person: {message}"[:500])
        case "ConcurrencyException", _:
            return _Said(kind, "The record was changed in Tryton after it was read.")
        case "LoginException", _:
            return _Said(kind, "Tryton asks for more than a password.")
    return _Said("", f"Tryton failed: {kind}"[:500])


def _is_trytons_refusal(answer: Answer) -> bool:
    """Tryton's own 401 to a session it does not know, sent before it looks at what is asked."""
    return str(answer.headers.get("www-authenticate", "")) == 'Basic realm="Tryton"'


def _unzipped(body: bytes) -> bytes:
    """Tryton labels long answers gzip whether they are or not, so the bytes decide. An unreadable one gives nothing."""
    if body[:2] != b"\x1f\x8b":
        return body
    unpacking = zlib.decompressobj(wbits=31)
    try:
        plain = unpacking.decompress(body, LARGEST_ANSWER)
    except zlib.error:
        return b""
    return plain if unpacking.eof else b""
