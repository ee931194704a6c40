"""Hotel software at the door: bookings as OpenTravel, webhooks by key and by token, and nothing secret in the log."""

from __future__ import annotations

import base64
import io
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from asm_daemon import hotels
from asm_daemon.model import Facility, PrincipalKind, Scope
from schemas.hotel_systems import NewHotelSystem
from schemas.hotels import HotelSystem
from tests.stack import Clock, Pools
from tests.web.conftest import Answer, KeyMaker, Web

SAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "samples"
OTA = "/v1/hotel-events/opentravel"
NAMESPACE = "{http://www.opentravel.org/OTA/2003/05}"
CARDS = ("4111111111111111", "5555 5555 5555 4444", "4012 8888 8888 1881")
EVENT = {"topic": "Reservation", "type": "created", "propertyId": "MUC", "data": {"entityId": "X-1"}}


def booking(clock: Clock, **changes: str) -> bytes:
    """The sample, for tomorrow."""
    today = clock().date()
    text = (SAMPLES / "hotel-opentravel.xml").read_text()
    text = text.replace("2026-12-01", (today + timedelta(days=1)).isoformat())
    text = text.replace("2026-12-03", (today + timedelta(days=3)).isoformat())
    for old, new in changes.items():
        text = text.replace(old, new)
    return text.encode()


async def send(asm: Web, key: str | None, body: bytes, path: str = OTA, **headers: str) -> Answer:
    return await asm.ask("POST", path, key, data=body, headers={"Content-Type": "application/xml", **headers})


def answered(answer: Answer) -> ET.Element:
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/xml; charset=utf-8")
    return ET.fromstring(answer.body)  # noqa: S314 - our own answer


def names(root: ET.Element) -> list[str]:
    return [each.tag.removeprefix(NAMESPACE) for each in root]


def errors(root: ET.Element) -> list[tuple[str | None, str]]:
    return [
        (each.get("RecordID"), str(each.get("ShortText")).partition(":")[0]) for each in root.iter(f"{NAMESPACE}Error")
    ]


async def register(pools: Pools, facility: Facility, clock: Clock, property_id: str | None = "MUC") -> str:
    new = NewHotelSystem(
        facility=facility.code,
        system=HotelSystem.APALEO,
        base_url="https://api.hotel.example",
        token_url="https://identity.hotel.example/connect/token",
        property_id=property_id,
        credentials_file="/etc/asm-daemon/apaleo.json",
    )
    return await hotels.add_system(await pools.get("asm_auth"), "operator", new, clock())


async def rung(pools: Pools) -> list[str]:
    connection = await pools.database.connect()
    rows = await connection.fetch("SELECT f.code FROM hotel_pulls p JOIN hotel_systems h ON h.id = p.system_id "
                                  "JOIN facilities f ON f.id = h.facility_id ORDER BY f.code")  # fmt: skip
    return [row["code"] for row in rows]


# -- OpenTravel --------------------------------------------------------------------------------------------------------


async def test_what_is_no_opentravel_is_an_error_in_its_language(asm: Web, owner_key: str) -> None:
    for body, code in (
        (b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><OTA_HotelResNotifRQ>&x;</OTA_HotelResNotifRQ>",
         "doctype_refused"),
        (b"\xff\xfe\xff", "undecodable"),
        (b"{}", "not_well_formed"),
        (b"<OTA_HotelAvailRQ/>", "missing_element"),
        (b"<OTA_HotelResNotifRQ/>", "no_rows"),
    ):  # fmt: skip
        root = answered(await send(asm, owner_key, body))
        assert (names(root), errors(root)) == (["Errors"], [(None, code)])


async def test_the_door_is_shut_to_others(asm: Web, make_key: KeyMaker, facility: Facility, clock: Clock) -> None:
    body = booking(clock)
    assert (await send(asm, None, body)).problem == (401, "unauthenticated")
    reader = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.STATUS})
    assert (await send(asm, reader, body)).problem == (403, "scope_missing")
    officer = await make_key(PrincipalKind.OFFICER)
    assert (await send(asm, officer, body)).problem == (403, "forbidden")
    vendor = await make_key(PrincipalKind.VENDOR, facility)
    assert (await send(asm, vendor, body)).problem == (422, "facility_required")
    assert (await send(asm, vendor, body, f"{OTA}?facility=HY-KS-9999")).problem == (403, "facility_not_granted")
    assert (await asm.ask("POST", OTA, vendor, json={})).problem == (415, "unsupported_media_type")
    assert names(answered(await send(asm, vendor, body, f"{OTA}?facility={facility.code}")))[0] == "Success"


async def test_a_booking_is_kept_and_told_what_is_missing(
    asm: Web, owner_key: str, clock: Clock, pools: Pools, logged: io.BytesIO
) -> None:
    answer = await send(asm, owner_key, booking(clock))
    root = answered(answer)
    assert names(root) == ["Success", "Warnings", "HotelReservations"]
    assert (root.get("EchoToken"), root.get("Version")) == ("demo-1", "1.0")
    assert root.get("TimeStamp", "").endswith("+00:00")
    assert [each.get("ID") for each in root.iter(f"{NAMESPACE}UniqueID")] == ["BK-7001"]
    warned = [str(each.get("ShortText")) for each in root.iter(f"{NAMESPACE}Warning")]
    assert {each.partition(":")[0] for each in warned} == {"required", "document_or_guardian_required"}
    waiting = (await asm.ask("GET", "/v1/expected", owner_key)).json["expected"]
    assert sorted(each["source_ref"] for each in waiting) == [f"ota:BK-7001:{place}" for place in (1, 2, 3)]
    assert (await asm.ask("GET", "/v1/stays", owner_key)).json["stays"] == []
    connection = await pools.database.connect()
    stored = str(await connection.fetch("SELECT e::text FROM expected_stays AS e"))
    for secret in (*CARDS, "Sample"):
        assert secret not in answer.body.decode()
        assert secret not in stored
        assert secret.encode() not in logged.getvalue()


async def test_sending_again_is_harmless_and_a_cancellation_ends_the_whole_party(
    asm: Web, owner_key: str, clock: Clock
) -> None:
    for _ in range(2):
        assert names(answered(await send(asm, owner_key, booking(clock))))[0] == "Success"
    assert len((await asm.ask("GET", "/v1/expected", owner_key)).json["expected"]) == 3
    cancel = b'<OTA_CancelRQ Version="2.0"><UniqueID Type="14" ID="BK-7001"/></OTA_CancelRQ>'
    root = answered(await send(asm, owner_key, cancel))
    assert (names(root), root.get("Version")) == (["Success", "HotelReservations"], "2.0")
    assert (await asm.ask("GET", "/v1/expected", owner_key)).json["expected"] == []
    unknown = cancel.replace(b"BK-7001", b"BK-0")
    assert names(answered(await send(asm, owner_key, unknown)))[0] == "Success", "there is nothing to cancel"


async def test_the_reservation_that_is_refused_is_named_and_the_others_are_kept(
    asm: Web, owner_key: str, clock: Clock
) -> None:
    wrong = '<HotelReservation ResStatus="Quote"><UniqueID Type="14" ID="Q"/></HotelReservation></HotelReservations>'
    root = answered(await send(asm, owner_key, booking(clock, **{"</HotelReservations>": wrong})))
    assert names(root) == ["Errors"]
    assert errors(root) == [("HotelReservation[2]", "out_of_range")]
    assert len((await asm.ask("GET", "/v1/expected", owner_key)).json["expected"]) == 3


# -- webhooks ----------------------------------------------------------------------------------------------------------


async def test_a_webhook_rings_for_the_hotel_that_it_names(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility, pools: Pools, clock: Clock
) -> None:
    await register(pools, facility, clock)
    await register(pools, other_facility, clock, "BER")
    vendor = await make_key(PrincipalKind.VENDOR, facility, other_facility)
    for event, queued in ((EVENT, 1), ({**EVENT, "propertyId": "BER"}, 1), ({**EVENT, "propertyId": "ROM"}, 0)):
        answer = await asm.ask("POST", "/v1/hotel-events/apaleo", vendor, json=event)
        assert (answer.status, answer.json) == (202, {"queued": queued, "ignored": 1 - queued})
    assert await rung(pools) == [facility.code, other_facility.code]
    without = {name: value for name, value in EVENT.items() if name != "propertyId"}
    answer = await asm.ask("POST", "/v1/hotel-events/apaleo", vendor, json=without)
    assert answer.json == {"queued": 0, "ignored": 1}, "it might be about either"


async def test_a_key_rings_for_its_own_facilities_only(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility, pools: Pools, clock: Clock
) -> None:
    await register(pools, facility, clock)
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    answer = await asm.ask("POST", "/v1/hotel-events/apaleo", stranger, json=EVENT)
    assert (answer.status, answer.json) == (202, {"queued": 0, "ignored": 1})
    assert await rung(pools) == []


@pytest.mark.parametrize("system", ["mews", "apaleo", "ohip"])
async def test_unknown_events_are_answered_and_do_nothing(asm: Web, owner_key: str, pools: Pools, system: str) -> None:
    body: dict[str, dict[str, Any]] = {
        "mews": {"Events": [{"Discriminator": "SomethingNew", "Value": {"Id": "a"}}]},
        "apaleo": {"topic": "Folio", "type": "created", "data": {"entityId": "a"}},
        "ohip": {"moduleName": "PROFILE", "eventName": "NEW PROFILE", "primaryKey": "1"},
    }
    answer = await asm.ask("POST", f"/v1/hotel-events/{system}", owner_key, json=body[system])
    assert (answer.status, answer.json) == (202, {"queued": 0, "ignored": 1})
    assert await rung(pools) == []
    wrong = await asm.ask("POST", f"/v1/hotel-events/{system}", owner_key, json=[])
    assert wrong.problem == (400, "not_json")


async def test_a_system_that_nobody_knows_has_no_address(asm: Web, owner_key: str) -> None:
    assert (await asm.ask("POST", "/v1/hotel-events/opera", owner_key, json={})).problem == (404, "not_found")


async def test_a_key_may_be_the_password_of_basic_authentication_here_and_nowhere_else(
    asm: Web, owner_key: str, facility: Facility, pools: Pools, clock: Clock
) -> None:
    await register(pools, facility, clock)
    basic = {"Authorization": f"Basic {base64.b64encode(f'hotel:{owner_key}'.encode()).decode()}"}
    assert (await asm.ask("POST", "/v1/hotel-events/apaleo", json=EVENT, headers=basic)).status == 202
    assert (await asm.ask("GET", "/v1/stays", headers=basic)).problem == (401, "unauthenticated")
    for wrong in ("Basic", "Basic !", "Basic " + base64.b64encode(owner_key.encode()).decode(), "Basic w6k6w6k="):
        answer = await asm.ask("POST", "/v1/hotel-events/apaleo", json=EVENT, headers={"Authorization": wrong})
        assert answer.problem == (401, "unauthenticated")


async def test_the_token_in_the_address_rings_for_one_hotel_and_is_never_logged(
    asm: Web, facility: Facility, pools: Pools, clock: Clock, logged: io.BytesIO
) -> None:
    token = await register(pools, facility, clock)
    answer = await asm.ask("POST", f"/v1/hotel-events/apaleo/{token}", json=EVENT)
    assert (answer.status, answer.json) == (202, {"queued": 1, "ignored": 0})
    other = ("B" if token.startswith("A") else "A") + token[1:]
    for path in (f"/v1/hotel-events/mews/{token}", f"/v1/hotel-events/apaleo/{other}",
                 f"/v1/hotel-events/apaleo/{token}x", "/v1/hotel-events/apaleo/short"):  # fmt: skip
        assert (await asm.ask("POST", path, json=EVENT)).problem == (404, "not_found")
    assert (await asm.ask("POST", f"/v1/hotel-events/apaleo/{token}", data=b"{", headers={
        "Content-Type": "application/json"})).problem == (400, "not_json")  # fmt: skip
    assert token.encode() not in logged.getvalue()
    routes = {orjson.loads(line).get("route") for line in logged.getvalue().splitlines()}
    assert any("{token}" in str(route) for route in routes)


async def test_registering_again_replaces_the_token(asm: Web, facility: Facility, pools: Pools, clock: Clock) -> None:
    old = await register(pools, facility, clock)
    new = await register(pools, facility, clock)
    assert (await asm.ask("POST", f"/v1/hotel-events/apaleo/{old}", json=EVENT)).problem == (404, "not_found")
    assert (await asm.ask("POST", f"/v1/hotel-events/apaleo/{new}", json=EVENT)).status == 202
