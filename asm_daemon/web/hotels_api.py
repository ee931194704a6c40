"""What hotel software calls: bookings pushed as OpenTravel XML, and webhooks that say that something changed.

A webhook is answered before anything is fetched. Its token may stand in the address, since some systems offer nothing
else: it opens nothing but this doorbell, and no address is ever logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from xml.sax.saxutils import quoteattr

import asyncpg
from aiohttp import web

from asm_daemon import hotels, imports
from asm_daemon.crypto import Keyring
from asm_daemon.directory import authorise, facilities_within
from asm_daemon.hotels import Taken
from asm_daemon.intake import Intake
from asm_daemon.model import Scope
from asm_daemon.problems import Refused
from asm_daemon.store.hotels import Registered
from asm_daemon.web.bodies import JSON, Body, Content
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import PUBLIC, Call, NoQuery, Route, Shown, Table, owner
from schemas.act import Unreadable
from schemas.answers import EventsTaken
from schemas.hotels import Envelope, HotelEvents, HotelSystem, NotEvents, reservation_of
from schemas.queries import HotelQuery
from schemas.violations import Violation

EVENTS_BYTES = 1 << 20
XML = "application/xml"
_NAMESPACE = "http://www.opentravel.org/OTA/2003/05"
_SYSTEMS = "|".join(HotelSystem)
ReadEvents = Callable[[bytes], HotelEvents]
ReadEnvelope = Callable[[bytes], Envelope]


async def take_hotel_events(
    pool: asyncpg.Pool, keyring: Keyring, readers: Mapping[HotelSystem, ReadEvents], call: Call[NoQuery, bytes]
) -> web.Response:
    """Note which reservations are to be fetched, for the facilities of the key."""
    system = HotelSystem(call.path["system"])
    at = facilities_within(call.principal, Scope.DECLARE)
    return await _ring(pool, keyring, readers, call, system, await hotels.systems_at(pool, system, at))


async def take_hotel_webhook(
    pool: asyncpg.Pool, keyring: Keyring, readers: Mapping[HotelSystem, ReadEvents], call: Call[NoQuery, bytes]
) -> web.Response:
    """The same, by the token of one facility's system in the address; any other token is no address of ours."""
    system = HotelSystem(call.path["system"])
    registered = await hotels.system_of_webhook(pool, system, call.path["token"])
    if registered is None:
        raise Refused("not_found")
    return await _ring(pool, keyring, readers, call, system, [registered])


async def _ring(
    pool: asyncpg.Pool,
    keyring: Keyring,
    readers: Mapping[HotelSystem, ReadEvents],
    call: Call[NoQuery, bytes],
    system: HotelSystem,
    systems: list[Registered],
) -> web.Response:
    try:
        events = readers[system](call.body)
    except NotEvents:
        raise Refused("not_json") from None
    rung = await hotels.ring(pool, keyring, system, systems, events, call.received_at)
    return answer(EventsTaken(queued=rung.queued, ignored=rung.ignored), 202)


async def take_opentravel(
    intake: Intake, pool: asyncpg.Pool, keyring: Keyring, envelope: ReadEnvelope, call: Call[HotelQuery, bytes]
) -> web.Response:
    """Take in the reservations of one request, and answer in its own language, reservation by reservation."""
    facility = authorise(call.principal, call.query.facility, Scope.DECLARE)
    read = await imports.read_document("pms_ota", call.body, timeout_seconds=imports.READ_SECONDS)
    actor = str(call.principal.id)
    taken = await hotels.take(pool, intake, keyring, facility, read, call.received_at, actor)
    refused = [each for each in read if isinstance(each, Unreadable)]
    said = _opentravel_answer(envelope(call.body), call.received_at.isoformat(timespec="seconds"), taken, refused)
    return web.Response(text=said, content_type=XML, charset="utf-8")


# -- the answer in OpenTravel ------------------------------------------------------------------------------------------


def _opentravel_answer(envelope: Envelope, at: str, taken: list[Taken], refused: list[Unreadable]) -> str:
    """`OTA_HotelResNotifRS`: Success if every reservation was taken, with what is still missing as warnings.

    Errors name each reservation that was refused; the others are kept, and to send all of it again is harmless.
    """
    errors = [_fault("Error", f"HotelReservation[{each.row}]" if each.row else "", found)
              for each in refused for found in each.violations]  # fmt: skip
    warnings: list[str] = []
    kept: dict[str, None] = {}
    for each in taken:
        reservation, place = reservation_of(each.act.source_ref or "") or ("", 0)
        record = reservation.partition(":")[2]
        outcome = each.outcome
        if outcome is not None and outcome.refusal is not None:
            violations = outcome.refusal.violations
            errors += [_fault("Error", record, found, place) for found in violations] or [
                _element("Error", record, outcome.refusal.code, outcome.refusal.problem.title.en)
            ]
            continue
        kept[record] = None
        if outcome is not None:
            warnings += [_fault("Warning", record, found, place) for found in (*outcome.warnings, *outcome.missing)]
    head = "".join(
        f" {name}={quoteattr(text)}"
        for name, text in (("EchoToken", envelope.echo_token), ("TimeStamp", at), ("Version", envelope.version))
        if text is not None
    )
    ids = "".join(
        f'<HotelReservation><UniqueID Type="14" ID={quoteattr(record)}/></HotelReservation>' for record in kept
    )
    if errors:
        inside = f"<Errors>{''.join(errors)}</Errors>"
    else:
        inside = "<Success/>" + (f"<Warnings>{''.join(warnings)}</Warnings>" if warnings else "")
        inside += f"<HotelReservations>{ids}</HotelReservations>" if ids else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<OTA_HotelResNotifRS xmlns="{_NAMESPACE}"{head}>{inside}'
        "</OTA_HotelResNotifRS>"
    )


def _fault(name: str, record: str, found: Violation, place: int = 0) -> str:
    where = (f"khách · guest {place} " if place else "") + (found.place or found.pointer)
    text = f"{found.vi} · {found.en}"
    return _element(name, record, found.code, f"{where}: {text}" if where else text)


def _element(name: str, record: str, code: str, text: str) -> str:
    """Type 3 is a business rule and 450 "unable to process" in the OpenTravel lists; our own code is in the text."""
    identity = f" RecordID={quoteattr(record)}" if record else ""
    return f'<{name} Type="3" Code="450"{identity} ShortText={quoteattr(f"{code}: {text}")}/>'


# -- the table ---------------------------------------------------------------------------------------------------------


def _raw(limit_bytes: int, *media: str) -> Body[bytes]:
    """A body that its connector decodes."""
    schema = {"type": "object"} if media == (JSON,) else {"type": "string"}
    return Body(lambda content, _content_type: content, {each: Content(schema=schema) for each in media}, limit_bytes)


def hotel_routes(
    intake: Intake,
    pool: asyncpg.Pool,
    keyring: Keyring,
    readers: Mapping[HotelSystem, ReadEvents],
    envelope: ReadEnvelope,
    max_body_bytes: int,
) -> Table:
    """The routes for hotel software. `pool` connects as asm_intake."""
    xml = _raw(max_body_bytes, XML, "text/xml", "application/soap+xml")
    events = _raw(EVENTS_BYTES, JSON)
    rung = {202: Shown("Đã ghi nhận; sẽ hỏi lại phần mềm khách sạn · Noted, and to be fetched", EventsTaken)}
    who = owner(Scope.DECLARE, basic=True)
    path = f"/v1/hotel-events/{{system:{_SYSTEMS}}}"
    return (
        Route("POST", "/v1/hotel-events/opentravel", who, partial(take_opentravel, intake, pool, keyring, envelope),
              HotelQuery, xml,
              {200: Shown("OTA_HotelResNotifRS: Success, hoặc Errors theo từng đặt phòng · or Errors by reservation",
                          media=(XML,))},
              "Nhận đặt phòng OpenTravel làm khách dự kiến", "Take OpenTravel bookings as expected guests",
              ("facility_not_granted", "facility_required", "overloaded", "outcome_unknown")),
        Route("POST", path, who, partial(take_hotel_events, pool, keyring, readers), NoQuery, events, rung,
              "Webhook của phần mềm khách sạn, bằng khoá API", "A webhook of hotel software, by API key",
              ("not_json",)),
        Route("POST", path + "/{token:[A-Za-z0-9_-]{43}}", PUBLIC, partial(take_hotel_webhook, pool, keyring, readers),
              NoQuery, events, rung, "Webhook của phần mềm khách sạn, bằng mã trong địa chỉ",
              "A webhook of hotel software, by the token in its address", ("not_json", "not_found")),
    )  # fmt: skip
