"""What the police may ask about stays: a recorded search by an officer (cán bộ) under a purpose (mục đích tra cứu).

A question goes in two phases and fails closed. What will be asked is committed to the audit and sealed into its signed
tree before anything is read; what was found is committed before anything is answered. Refusals are recorded too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.audit import AuditBroken, AuditEntry, NotSealed
from asm_daemon.crypto import (
    IndexField,
    KeyPurpose,
    Keyring,
    Tampered,
    UnknownEpoch,
    document_value,
    epoch_at,
    epoch_bounds,
    seal_to_auditor,
)
from asm_daemon.index_keys import ask_by_every_key
from asm_daemon.ledger import canonical_json, instant_text
from asm_daemon.model import Contents, Principal, PrincipalKind, StayRow
from asm_daemon.problems import Refused
from asm_daemon.rules import guest_value
from asm_daemon.sealing import open_contents
from asm_daemon.store import LOST
from asm_daemon.store import police as store
from asm_daemon.store import police_alerts as alerts_store
from asm_daemon.store.police import Hit, Span
from asm_daemon.store.police_alerts import PoliceAlertRow
from schemas.codes import FacilityKind
from schemas.police import (
    AlertAcknowledgement,
    AlertOpening,
    DocumentSearch,
    FoundFacility,
    FoundStay,
    OpenedAlert,
    PoliceAlert,
    PoliceAlerts,
    Purpose,
    QueryKind,
    SearchResult,
)
from schemas.queries import AlertsQuery
from schemas.stay import Input
from schemas.violations import Violation, violation

ACQUIRE_SECONDS = 5.0
READ_ROUNDS = 20  # pages read for one answer; more would mean that somebody plants collisions
UNREADABLE_NAMED = 50  # ids of broken stays that an audit entry has room for
TERMS_CONTEXT = b"asm-audit-terms/1|"
CASE_REF_FORM = "15/2026/HS-PC02"
# Number, year, symbol of the unit. Short digits only, so that a document number can never stand here in clear.
_CASE_REF = re.compile(r"[0-9]{1,6}/20[0-9]{2}/[A-ZĐ]{1,8}[0-9]{0,3}(-[A-ZĐ]{1,8}[0-9]{0,3}){0,3}")
_DATABASE_ERRORS = (asyncpg.PostgresError, *LOST)
_LAST_ID = UUID(int=2**128 - 1)
_Allowed = TypeVar("_Allowed")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Desk:
    """What answering the police takes: `pool` as asm_police, which can only read and append to the audit; `audit_pool`
    as asm_audit, for sealing. Without the auditor's public key search terms are not recorded, only that there was a
    search, and with `terms_required` nobody searches."""

    pool: asyncpg.Pool
    audit_pool: asyncpg.Pool
    keyring: Keyring
    deployment: str
    auditor_public_key: bytes | None = field(repr=False)
    guard: Callable[[datetime], Awaitable[None]] | None = None
    """Raises Refused while the audit is not confirmed by others; asked after the question is on record."""
    terms_required: bool = False
    kept_days: Mapping[FacilityKind, int] = field(default_factory=dict)
    """Days that stays of each kind of facility are kept after their end now: a search beyond them says so."""


async def purposes(pool: asyncpg.Pool) -> list[Purpose]:
    """Every purpose in force, by code. Refused `unavailable`."""
    async with reading(pool) as connection:
        return await store.list_purposes(connection)


async def search(desk: Desk, officer: Principal, question: DocumentSearch, now: datetime) -> SearchResult:
    """Find the stays of a document number registered within the purpose's window, newest first, sandboxes left out.

    Refused `forbidden` (not an officer), `request_invalid` (unknown purpose, wrong case reference),
    `purpose_not_allowed`, `audit_unavailable` (no record, no answer), `audit_not_witnessed`, `unavailable` (recorded,
    but not carried out).
    """
    purpose = await _purpose(desk, question)
    intent = _intent(desk, officer, question, purpose, now, QueryKind.DOCUMENT)
    allowed = await begin(desk, intent, lambda: _allowed(officer, purpose, question, QueryKind.DOCUMENT))
    try:
        found = await _find(desk, question, allowed, now)
        forgotten_before = await _forgotten_before(desk, allowed, now)  # after it: what it did not find is told of
    except Refused as failure:
        await record(desk, outcome(intent, {"problem": failure.code}))
        raise
    await record(desk, outcome(intent, found.summary()))
    for stay_id in found.unreadable:
        log.error("police.stay_unreadable", stay_id=str(stay_id))
    return SearchResult(
        trace=str(intent.id),
        searched_from=_window_start(allowed, now),
        forgotten_before=forgotten_before,
        stays=found.stays,
        more=found.more,
        unreadable=len(found.unreadable),
    )


async def _purpose(desk: Desk, question: DocumentSearch | AlertOpening) -> Purpose | None:
    in_force = {purpose.code: purpose for purpose in await purposes(desk.pool)}
    return in_force.get(question.purpose)


async def begin(desk: Desk, intent: AuditEntry, check: Callable[[], _Allowed]) -> _Allowed:
    """Record and seal what will be asked, or the refusal by `check`, which is then raised. Returns what it returned."""
    try:
        allowed = check()
        if desk.terms_required and desk.auditor_public_key is None:
            raise Refused("audit_unavailable")  # noqa: TRY301 - recorded like every refusal
    except Refused as refusal:
        faults = [fault.code for fault in refusal.violations]
        details = {**intent.details, "problem": refusal.code, "faults": faults}
        await record(desk, replace(intent, action=f"{intent.action}.refuse", details=details))
        raise
    await _record_and_seal(desk, intent)
    return allowed


def _allowed(
    officer: Principal, purpose: Purpose | None, question: DocumentSearch | AlertOpening, kind: QueryKind
) -> Purpose:
    if officer.kind is not PrincipalKind.OFFICER:
        raise Refused("forbidden")
    wrong: list[Violation] = []
    if purpose is None:
        wrong.append(violation("unknown_code", "/purpose", table="/v1/police/purposes"))
    if not _CASE_REF.fullmatch(question.case_ref):
        wrong.append(violation("wrong_format", "/case_ref", expected=CASE_REF_FORM))
    if purpose is None or wrong:
        raise Refused("request_invalid", violations=wrong)
    if kind not in purpose.query_kinds:
        raise Refused("purpose_not_allowed")
    return purpose


# ----------------------------------------------------------------------------------------------------------------------
# The record


def _intent(
    desk: Desk,
    officer: Principal,
    question: DocumentSearch | AlertOpening,
    purpose: Purpose | None,
    now: datetime,
    kind: QueryKind,
    about: str | None = None,
) -> AuditEntry:
    """What is about to be asked. What the officer typed is sealed to the auditor; in clear stand only codes and ids."""
    entry = AuditEntry(
        at=now,
        actor_kind=officer.kind.value,
        actor=str(officer.id),
        organisation=officer.organisation,
        action="police.search",
        object=about,
        purpose=None if purpose is None else purpose.code,
        case_ref=question.case_ref if _CASE_REF.fullmatch(question.case_ref) else None,
    )
    details: dict[str, Any] = {"kind": kind.value, "terms_sealed": sealed_terms(desk, entry.id, question)}
    if purpose is not None:
        details["searched_from"] = instant_text(_window_start(purpose, now))
    return replace(entry, details=details)


def sealed_terms(desk: Desk, entry_id: UUID, question: Input) -> str | None:
    """What was asked, for the audit entry: sealed to the auditor, base64; None without an auditor."""
    if desk.auditor_public_key is None:
        return None
    sealed = seal_to_auditor(desk.auditor_public_key, terms_info(entry_id), canonical_json(question.model_dump()))
    return base64.b64encode(sealed).decode("ascii")


def terms_info(entry_id: UUID) -> bytes:
    """What the auditor gives `open_as_auditor` with the `terms_sealed` of the audit entry `entry_id`."""
    return TERMS_CONTEXT + entry_id.bytes


def outcome(intent: AuditEntry, details: dict[str, Any]) -> AuditEntry:
    """What came of what `intent` announced."""
    return replace(intent, id=uuid7(), action=f"{intent.action}.outcome", object=f"audit/{intent.id}", details=details)


async def _record_and_seal(desk: Desk, intent: AuditEntry) -> None:
    """Returns once it cannot be denied that this was asked, and others confirm the audit in which it stands."""
    await record(desk, intent)
    await _seal(desk, intent.id, intent.at)
    if desk.guard is None:
        return
    try:
        await desk.guard(intent.at)
    except Refused as failure:
        await record(desk, outcome(intent, {"problem": failure.code}))
        raise


async def record(desk: Desk, entry: AuditEntry) -> None:
    """Commit an entry of its own. Refused `audit_unavailable`."""
    try:
        async with desk.pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
            await audit.append(connection, entry)
    except _DATABASE_ERRORS:
        log.exception("police.audit_unavailable")
        raise Refused("audit_unavailable", retry_after_seconds=5) from None


async def _seal(desk: Desk, entry_id: UUID, now: datetime) -> None:
    """Returns once a signed checkpoint covers the entry: from then on it cannot be removed without a trace."""
    key = desk.keyring.signing_key(KeyPurpose.CHECKPOINT)
    try:
        async with desk.audit_pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            await audit.seal_through(connection, entry_id, key, desk.deployment, now)
    except (AuditBroken, NotSealed, *_DATABASE_ERRORS):
        log.exception("police.audit_unavailable")
        raise Refused("audit_unavailable", retry_after_seconds=5) from None


# ----------------------------------------------------------------------------------------------------------------------
# The search


@dataclass(slots=True)
class _Found:
    stays: list[FoundStay] = field(default_factory=list)
    unreadable: list[UUID] = field(default_factory=list)
    more: bool = False

    def summary(self) -> dict[str, Any]:
        """What the audit keeps of an answer: how much it was, and the SHA-256 of the ids in it (16 bytes each, in
        order), which later proves which stays it held."""
        return {
            "count": len(self.stays),
            "more": self.more,
            "returned_sha256": digest_of_ids(UUID(stay.stay_id) for stay in self.stays),
            "unreadable_count": len(self.unreadable),
            "unreadable": [str(stay_id) for stay_id in self.unreadable[:UNREADABLE_NAMED]],
        }


def digest_of_ids(ids: Iterable[UUID]) -> str:
    """SHA-256 over ids, 16 bytes each, in hexadecimal."""
    return sha256(b"".join(each.bytes for each in ids)).hexdigest()


async def _find(desk: Desk, question: DocumentSearch, purpose: Purpose, now: datetime) -> _Found:
    wanted, since = document_value(question.document_number), _window_start(purpose, now)
    return await ask_by_every_key(
        desk.keyring,
        lambda: spans(desk.keyring, wanted, since, now),
        lambda searched: _hits(desk, searched, wanted, purpose),
    )


async def _hits(desk: Desk, searched: list[Span], wanted: str, purpose: Purpose) -> _Found:
    found, before, page = _Found(), _LAST_ID, purpose.max_rows + 1
    async with reading(desk.pool) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        for _ in range(READ_ROUNDS):
            hits = await store.hits_by_document(connection, searched, before, page)
            for hit in hits:
                _take(found, desk.keyring, hit, wanted)
                if len(found.stays) > purpose.max_rows:
                    found.stays.pop()
                    found.more = True
                    return found
            if len(hits) < page:
                return found
            before = hits[-1].stay.id
    raise Refused("unavailable")  # an incomplete answer would look like a complete one


def _take(found: _Found, keyring: Keyring, hit: Hit, wanted: str) -> None:
    """Add a hit if it is one: equal tags are a hint, the opened number decides."""
    try:
        contents = open_if_of(keyring, hit.stay, wanted)
    except (Tampered, UnknownEpoch):
        found.unreadable.append(hit.stay.id)
        return
    if contents is not None:
        found.stays.append(_found_stay(hit, contents))


def open_if_of(keyring: Keyring, stay: StayRow, wanted: str) -> Contents | None:
    """Open a stay; None if it is somebody else's than `wanted`, a `document_value`. Raises Tampered, UnknownEpoch."""
    contents = open_contents(keyring, stay)
    return contents if guest_value(contents.declared["guest"]) == wanted else None


def spans(keyring: Keyring, value: str, since: datetime, now: datetime) -> list[Span]:
    """One span a month of the window whose keys exist. Keys older than what is kept are destroyed, and with them the
    stays; but this month's must be there, or what was declared today would be missed in silence."""
    if epoch_at(now) not in keyring.epochs():
        keyring.reload()
        if epoch_at(now) not in keyring.epochs():
            raise Refused("unavailable", retry_after_seconds=60)
    return list(_spans_of(keyring, value, since, now))


def _spans_of(keyring: Keyring, value: str, since: datetime, now: datetime) -> Iterator[Span]:
    oldest = _oldest_id(since)
    for epoch in keyring.epochs():
        if epoch_at(since) <= epoch <= epoch_at(now):
            lo, hi = epoch_bounds(epoch)
            with suppress(UnknownEpoch):  # ended since the line above: then there is nothing of it to be found
                for tag in keyring.blind_indexes(epoch, IndexField.DOCUMENT, value):
                    yield Span(max(lo, oldest), hi, tag)


def _oldest_id(since: datetime) -> UUID:
    """The lowest UUIDv7 of an instant: milliseconds, then what is random."""
    return UUID(int=int(since.timestamp() * 1000) << 80)


def _window_start(purpose: Purpose, now: datetime) -> datetime:
    return now - timedelta(days=purpose.window_days)


async def _forgotten_before(desk: Desk, purpose: Purpose, now: datetime) -> dict[FacilityKind, datetime]:
    """Kinds of facility of which what ended before these instants, within the window, may be gone: by the periods of
    today, and by those of the time when months were gone through."""
    since = _window_start(purpose, now)
    found = {kind: now - timedelta(days=days) for kind, days in desk.kept_days.items()}
    async with reading(desk.pool) as connection:
        rounds = await store.rounds_since(connection, epoch_at(since))
    for each in rounds:
        for kind in FacilityKind:
            cutoff_at = each.by_kind.get(kind, each.cutoff_at)
            found[kind] = max(found.get(kind, cutoff_at), cutoff_at)
    return {kind: cutoff_at for kind, cutoff_at in found.items() if cutoff_at > since}


def _found_stay(hit: Hit, contents: Contents) -> FoundStay:
    stay, facility, declared = hit.stay, hit.facility, contents.declared
    return FoundStay.model_validate(
        {
            "stay_id": str(stay.id),
            "version": stay.version,
            "status": stay.status,
            "cancellation": contents.cancellation,
            "facility": FoundFacility(
                code=facility.code,
                name=facility.name,
                kind=facility.kind.value,
                commune=facility.commune,
                address=facility.address,
            ),
            "guest": declared["guest"],
            "party": declared.get("party"),
            "room": declared.get("room"),
            "reason": declared["reason"],
            "reason_text": declared.get("reason_text"),
            "arrived_at": stay.arrived_at,
            "planned_departure_at": stay.planned_departure_at,
            "departed_at": stay.departed_at,
            "declared_at": stay.declared_at,
            "late_minutes": stay.late_minutes,
            "verification": hit.verification,
        }
    )


# ----------------------------------------------------------------------------------------------------------------------
# Alerts


async def list_alerts(desk: Desk, officer: Principal, query: AlertsQuery, now: datetime) -> PoliceAlerts:
    """A page of alerts, the newest first: where and why, never who. Recorded in two phases like a search, but without
    a purpose: it is what the population database told the police themselves, and opening a stay takes one.

    Refused `request_invalid` (a cursor of another list), `audit_unavailable`, `unavailable`.
    """
    scope = f"police-alerts|{officer.id}|{query.state}"
    before = _LAST_ID
    if query.cursor is not None:
        try:
            before = UUID(bytes=desk.keyring.open_cursor(scope, query.cursor))
        except Tampered:
            raise Refused("request_invalid", violations=[violation("wrong_cursor", "/cursor")]) from None
    intent = _alert_entry(officer, "police.alerts.list", now, None, {"state": query.state})
    await _record_and_seal(desk, intent)
    async with reading(desk.pool) as connection:
        rows = await alerts_store.list_alerts(connection, before, query.state, query.limit + 1)
    page = rows[: query.limit]
    returned = digest_of_ids(row.stay_id for row in page)
    await record(desk, outcome(intent, {"count": len(page), "returned_sha256": returned}))
    following = desk.keyring.seal_cursor(scope, page[-1].alert_id.bytes) if len(rows) > query.limit else None
    return PoliceAlerts(trace=str(intent.id), alerts=[_shown_alert(row) for row in page], next=following)


async def open_alert(
    desk: Desk, officer: Principal, alert_id: UUID, opening: AlertOpening, now: datetime
) -> OpenedAlert:
    """The stay of an alert with its guest, as declared then and as corrected since. It takes a purpose that allows to
    look at a stay, and shows none from before its window.

    Refused like `search`, and `not_found` (no such alert), `record_unreadable`.
    """
    purpose = await _purpose(desk, opening)
    intent = _intent(desk, officer, opening, purpose, now, QueryKind.STAY, f"police_alert/{alert_id}")
    allowed = await begin(desk, intent, lambda: _allowed(officer, purpose, opening, QueryKind.STAY))
    try:
        alert, stays = await _read_alert(desk, alert_id, _window_start(allowed, now))
    except Refused as failure:
        await record(desk, outcome(intent, {"problem": failure.code}))
        raise
    shown = [UUID(stay.stay_id) for stay in stays[:1]]
    summary = {
        "count": len(shown),
        "returned_sha256": digest_of_ids(shown),
        "versions": [stay.version for stay in stays],
    }
    await record(desk, outcome(intent, summary))
    alerted = next((stay for stay in stays if stay.version == alert.version), None)
    newest = next((stay for stay in stays if stay.version != alert.version), None)
    return OpenedAlert(trace=str(intent.id), alert=_shown_alert(alert), stay=alerted, changed_to=newest)


async def _read_alert(desk: Desk, alert_id: UUID, since: datetime) -> tuple[PoliceAlertRow, list[FoundStay]]:
    async with reading(desk.pool) as connection:
        alert = await alerts_store.find_alert(connection, alert_id)
        hits = await alerts_store.hits_of_alert(connection, alert_id, _oldest_id(since))
    if alert is None:
        raise Refused("not_found")
    try:
        return alert, [_found_stay(hit, open_contents(desk.keyring, hit.stay)) for hit in hits]
    except (Tampered, UnknownEpoch):
        log.exception("police.stay_unreadable", stay_id=str(alert.stay_id))
        raise Refused("record_unreadable", stay_id=str(alert.stay_id)) from None


async def acknowledge_alert(
    desk: Desk, officer: Principal, alert_id: UUID, told: AlertAcknowledgement, now: datetime
) -> PoliceAlert:
    """Note that an officer saw or handled an alert. Said again it changes nothing, and is on record all the same, since
    the answer shows the alert: recorded and sealed before, and with what it changed in one transaction.

    Refused `not_found`, `unavailable`, `audit_unavailable`, `audit_not_witnessed`.
    """
    intent = _alert_entry(officer, "police.alert.acknowledge", now, alert_id, {"state": told.state})
    await _record_and_seal(desk, intent)
    async with reading(desk.pool) as connection, connection.transaction():
        changed = await alerts_store.change_state(connection, alert_id, told.state, officer.id, now)
        await audit.append(connection, outcome(intent, {"changed": changed}))
        alert = await alerts_store.find_alert(connection, alert_id)
    if alert is None:
        raise Refused("not_found")
    return _shown_alert(alert)


def _alert_entry(
    officer: Principal, action: str, now: datetime, alert_id: UUID | None, details: dict[str, Any]
) -> AuditEntry:
    return AuditEntry(
        at=now,
        actor_kind=officer.kind.value,
        actor=str(officer.id),
        organisation=officer.organisation,
        action=action,
        object=None if alert_id is None else f"police_alert/{alert_id}",
        details=details,
    )


def _shown_alert(row: PoliceAlertRow) -> PoliceAlert:
    return PoliceAlert.model_validate(
        {
            "alert_id": str(row.alert_id),
            "kind": row.kind.value,
            "raised_at": row.raised_at,
            "facility": FoundFacility(
                code=row.facility_code,
                name=row.facility_name,
                kind=row.facility_kind,
                commune=row.facility_commune,
                address=row.facility_address,
            ),
            "stay_id": str(row.stay_id),
            "version": row.version,
            "arrived_at": row.arrived_at,
            "status": row.status,
            "confirmed_version": row.confirmed_version,
            "verification": row.verification,
            "state": row.state,
            "changed_at": row.changed_at,
            "changed_by": None if row.changed_by is None else str(row.changed_by),
        }
    )


@asynccontextmanager
async def reading(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """A connection for reading; a database that does not answer is Refused `unavailable`."""
    try:
        async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            yield connection
    except _DATABASE_ERRORS as error:
        log.warning("police.database_away", exc_info=error)
        raise Refused("unavailable", retry_after_seconds=5) from None
