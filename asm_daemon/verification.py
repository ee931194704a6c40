"""What comes of a verification (kết quả đối chiếu): what the owner is told of it, and whom else it concerns.

The population database says of every guest whether document, name and birth date belong together. An owner learns one
bit of that, "check the document again", and only so often a day: else a key would be a way to ask it about strangers.
**Whether an answer is told never depends on what it is** (docs/adr/0022). What is found goes to the police in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from asm_daemon import rules
from asm_daemon.crypto import Keyring
from asm_daemon.store import Connection, alerts, events, police_alerts
from asm_daemon.store import sync as sync_store
from asm_daemon.store import verification as store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.events import EventKind, NewEvent, event_id_of
from asm_daemon.store.police_alerts import NewPoliceAlert, PoliceAlertKind
from asm_daemon.store.sync import Confirmation
from asm_daemon.store.verification import Counted, DayCount, Earlier
from schemas.folding import fold_document, fold_name
from schemas.population import PopulationItem, Verification

ANSWERS_PERCENT = 150
"""How many answers a facility is told a day, in percent of its capacity: everybody new in one day, and half of them
mistyped once."""
ANSWERS_AT_LEAST = 10
"""… and never fewer, so that a house with two beds may correct itself."""
PATTERN_PERCENT = 20
"""From how many stays a day, in percent of the capacity, withdrawing them or making somebody else of them is a pattern.
Typing errors of a full house are half of that."""
PATTERN_AT_LEAST = 5
SOON = timedelta(hours=24)
"""A stay cancelled within this time of its answer was perhaps declared for the answer."""
CHECK_AGAIN = frozenset({Verification.MISMATCH, Verification.UNKNOWN, Verification.DOCUMENT_REVOKED})
"""What looks alike to the owner. The revoked is among them: a number on that list is `document_revoked` whatever the
name, so if it looked like a match, any false name would find it out."""


def answers_a_day(capacity: int, percent: int = ANSWERS_PERCENT) -> int:
    """How many answers a facility of this capacity is told a day."""
    return max(ANSWERS_AT_LEAST, capacity * percent // 100)


def pattern_begins(capacity: int) -> int:
    """From how many withdrawn or exchanged guests a day the operator is alerted."""
    return max(PATTERN_AT_LEAST, capacity * PATTERN_PERCENT // 100)


def question_of(keyring: Keyring, item: PopulationItem) -> bytes | None:
    """The tag of what is asked about the guest of a stay: equal ones are answered alike. None: nothing is asked."""
    guest = item.guest
    if guest is None or guest.document is None:
        return None
    document = guest.document
    asked = (document.type, fold_document(document.number), fold_name(guest.full_name), guest.birth_date)
    return keyring.question_tag(item.stay_id, orjson.dumps(asked))


async def record(
    connection: Connection, confirmed: Sequence[Confirmation], now: datetime, answers_percent: int = ANSWERS_PERCENT
) -> None:
    """Record confirmations and everything that follows from them, in the caller's transaction (asm_sync).

    That is: what the owner is told and the event of it, the alert of the police, and the operator's. `confirmed` are in
    the order of facility and stay; none occurs twice.
    """
    counted, earlier = await _read(connection, confirmed, now)
    days = {facility_id: each.day for facility_id, each in counted.items()}
    judged: list[Confirmation] = []
    newly_told: list[UUID] = []
    for one in confirmed:
        day, before = days.get(one.facility_id), earlier.get(one.stay_id, ())
        if day is None:
            judged.append(one._replace(check_document=False))
            continue
        limit = answers_a_day(counted[one.facility_id].capacity, answers_percent)
        days[one.facility_id], answer = _judge(one, day, before, now, limit)
        judged.append(one._replace(check_document=answer))
        if days[one.facility_id].told > day.told:
            newly_told.append(one.stay_id)
    fresh = await sync_store.acknowledge(connection, judged, now)
    await sync_store.clear_waiting(connection, judged)
    await _tell(connection, judged, fresh.intersection(newly_told), now)
    await _alert_police(connection, judged, earlier, now)  # also of what was confirmed before, as something else
    await _alert_operator(connection, counted, days, now)


async def _read(
    connection: Connection, confirmed: Sequence[Confirmation], now: datetime
) -> tuple[dict[int, Counted], dict[UUID, list[Earlier]]]:
    """The counts of the facilities concerned, whose turn it then is, and what was confirmed of these stays before."""
    asking = [one for one in confirmed if one.question is not None or one.withdrawn]
    if not asking:
        return {}, {}
    counted = await store.lock_counts(connection, {one.facility_id for one in asking}, rules.local_day(now))
    earlier: dict[UUID, list[Earlier]] = {}
    for each in await store.read_earlier(connection, [(one.facility_id, one.stay_id) for one in asking]):
        earlier.setdefault(each.stay_id, []).append(each)
    return counted, earlier


def _judge(
    one: Confirmation, day: DayCount, earlier: Sequence[Earlier], now: datetime, limit: int
) -> tuple[DayCount, bool | None]:
    """What the owner is told of a confirmation, and the facility's day after it. The same question gets the answer that
    it got, for nothing; another one is counted, whatever its answer is."""
    if any(each.version == one.version for each in earlier):  # by another worker, or before it was lost there
        return day, None
    if one.question is None:
        soon = one.withdrawn and any(each.question and each.confirmed_at > now - SOON for each in earlier)
        return day._replace(withdrawn=day.withdrawn + soon), False
    known = [each.check_document for each in earlier if each.question == one.question]
    told_before = [answer for answer in known if answer is not None]
    if told_before:
        return day, told_before[0]
    if not known and any(each.question for each in earlier):
        day = day._replace(asked_again=day.asked_again + 1)
    if day.told >= limit:
        return day._replace(withheld=day.withheld + 1), None
    return day._replace(told=day.told + 1), one.verification in CHECK_AGAIN


async def _tell(connection: Connection, judged: Sequence[Confirmation], told: set[UUID], now: datetime) -> None:
    kind = EventKind.CHECK_DOCUMENT
    made = [
        NewEvent(event_id_of(kind, one.stay_id, one.version), one.facility_id, kind, one.stay_id, now)
        for one in judged
        if one.check_document and one.stay_id in told
    ]
    if made:
        await events.append_events(connection, made)


async def _alert_police(
    connection: Connection, judged: Sequence[Confirmation], earlier: Mapping[UUID, Sequence[Earlier]], now: datetime
) -> None:
    """Once for each guest as declared: a later version of a stay that says the same of its guest raises no other."""
    revoked = Verification.DOCUMENT_REVOKED
    known = {
        (stay_id, each.question) for stay_id, rows in earlier.items() for each in rows if each.verification == revoked
    }
    raised = [
        NewPoliceAlert(uuid7(), PoliceAlertKind.DOCUMENT_REVOKED, one.facility_id, one.stay_id, one.version, now)
        for one in judged
        if one.verification == revoked and (one.stay_id, one.question) not in known
    ]
    if raised:
        await police_alerts.insert_alerts(connection, raised)


async def _alert_operator(
    connection: Connection, counted: Mapping[int, Counted], days: Mapping[int, DayCount], now: datetime
) -> None:
    """Write the counts that changed, and alert the operator of those that a facility's size does not explain."""
    changed = [facility_id for facility_id in sorted(days) if days[facility_id] != counted[facility_id].day]
    if changed:
        await store.save_counts(connection, [days[facility_id] for facility_id in changed])
    for facility_id in changed:
        before, day, facility = counted[facility_id].day, days[facility_id], counted[facility_id]
        details = {**day._asdict(), "counted_on": day.counted_on.isoformat(), "capacity": facility.capacity}
        del details["facility_id"]
        exchanged = day.withdrawn + day.asked_again
        if exchanged > before.withdrawn + before.asked_again and exchanged >= pattern_begins(facility.capacity):
            await alerts.raise_alert(connection, AlertKind.DECLARE_AND_CANCEL, facility.code, details, now)
        if day.withheld > before.withheld:
            await alerts.raise_alert(connection, AlertKind.VERIFICATION_WITHHELD, facility.code, details, now)
