"""Hotel software: OpenTravel, Apaleo, Mews and OHIP become guests who are expected, and no card number gets through."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import pms_apaleo, pms_mews, pms_ohip, pms_ota
from connectors.card_numbers import holds_card_number, is_payment
from schemas.act import Act, ActKind, Unreadable, to_json
from schemas.codes import NATIONALITIES
from schemas.country_codes import ALPHA_3
from schemas.hotels import PARTY_LIMIT, Changed, HotelEvents, NotEvents, reservation_of, source_ref

SAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "samples"
OTA = (SAMPLES / "hotel-opentravel.xml").read_bytes()
JSON_SAMPLES = {
    "apaleo": (pms_apaleo.read, SAMPLES / "hotel-apaleo.json"),
    "mews": (pms_mews.read, SAMPLES / "hotel-mews.json"),
    "ohip": (pms_ohip.read, SAMPLES / "hotel-ohip.json"),
}
CARDS = ("4111111111111111", "5555555555554444", "4012888888881881", "378282246310005", "6011111111111117")
"""Test numbers that card schemes publish."""
Read = Callable[[bytes], Iterator[Act | Unreadable]]


def acts_of(read: Read, document: bytes) -> list[Act]:
    found = list(read(document))
    assert all(isinstance(each, Act) for each in found), found
    return [each for each in found if isinstance(each, Act)]


def refusal_of(document: bytes, read: Read = pms_ota.read) -> tuple[int, list[str]]:
    [found] = read(document)
    assert isinstance(found, Unreadable)
    return found.row, [each.code for each in found.violations]


def ota(reservation: str, root: str = "OTA_HotelResNotifRQ", **attributes: str) -> bytes:
    given = "".join(f' {name}="{text}"' for name, text in attributes.items())
    return f"<{root}{given}><HotelReservations>{reservation}</HotelReservations></{root}>".encode()


def reservation(inside: str = "", status: str = "Commit", identity: str = "R1") -> str:
    return f'<HotelReservation ResStatus="{status}"><UniqueID Type="14" ID="{identity}"/>{inside}</HotelReservation>'


def guest(name: str = "Sample", inside: str = "", rph: str = "1") -> str:
    return (
        f'<ResGuest ResGuestRPH="{rph}"><Profiles><ProfileInfo><Profile><Customer><PersonName><Surname>{name}</Surname>'
        f"</PersonName>{inside}</Customer></Profile></ProfileInfo></Profiles></ResGuest>"
    )


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_entities_are_refused_before_they_grow() -> None:
    laughs = '<!DOCTYPE r [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    )
    assert refusal_of(f"{laughs}]><OTA_HotelResNotifRQ>&j;</OTA_HotelResNotifRQ>".encode()) == (0, ["doctype_refused"])


def test_a_file_of_the_host_is_not_read() -> None:
    document = b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><OTA_HotelResNotifRQ>&x;</OTA_HotelResNotifRQ>'
    assert refusal_of(document) == (0, ["doctype_refused"])


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", "no_rows"),
        (b"OTA", "not_well_formed"),
        (b"<OTA_HotelResNotifRQ>", "not_well_formed"),
        (b"<OTA_HotelAvailRQ/>", "missing_element"),
        (b"<OTA_HotelResNotifRQ/>", "no_rows"),
        (b"<a>" * 40 + b"</a>" * 40, "missing_element"),
        (b"<OTA_HotelResNotifRQ>" + b"<a>" * 40, "too_deep"),
        (b'<?xml version="1.0" encoding="utf-8"?><OTA_HotelResNotifRQ>\xff</OTA_HotelResNotifRQ>', "undecodable"),
        (b'<?xml version="1.0" encoding="shift_jis"?><OTA_HotelResNotifRQ/>', "undecodable"),
        (ota(reservation() * 201), "too_many_rows"),
    ],
)
def test_a_document_that_is_no_reservation_is_refused_as_a_whole(document: bytes, code: str) -> None:
    assert refusal_of(document) == (0, [code])


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (reservation(identity=""), "required"),
        (reservation(identity="mã 1"), "wrong_source_ref"),
        (reservation(identity="x" * 65), "wrong_source_ref"),
        (reservation(status="Quote"), "out_of_range"),
        (reservation('<RoomStays><RoomStay><GuestCounts><GuestCount Count="51"/></GuestCounts></RoomStay></RoomStays>'),
         "out_of_range"),
    ],
)  # fmt: skip
def test_one_wrong_reservation_does_not_take_the_others_with_it(written: str, code: str) -> None:
    first, second = pms_ota.read(ota(written + reservation(identity="R2")))
    assert isinstance(first, Unreadable)
    assert (first.row, [each.code for each in first.violations]) == (1, [code])
    assert isinstance(second, Act)
    assert second.source_ref == "ota:R2:1"


@pytest.mark.parametrize("read", [pms_apaleo.read, pms_mews.read, pms_ohip.read])
@pytest.mark.parametrize(("document", "code"), [(b"{", "not_json"), (b"[]", "no_rows"), (b'{"a": 1}', "no_rows"),
                                               (b"[" * 100_000, "not_json")])  # fmt: skip
def test_json_without_a_reservation_is_refused(read: Read, document: bytes, code: str) -> None:
    assert refusal_of(document, read) == (0, [code])


@pytest.mark.parametrize("events", [pms_apaleo.events, pms_mews.events, pms_ohip.events])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"7", b'{"Events": 1}', b'{"topic": []}'])
def test_a_body_that_is_no_webhook_call_is_told_from_events(
    events: Callable[[bytes], HotelEvents], body: bytes
) -> None:
    with pytest.raises(NotEvents):
        events(body)


# -- cards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("written", ["{0}", "Sample {0}", "{1}", "{1} 12/27 123", "x{0}y"])
def test_a_card_number_is_seen_wherever_it_stands(card: str, written: str) -> None:
    grouped = " ".join(card[place : place + 4] for place in range(0, len(card), 4))
    assert holds_card_number(written.format(card, grouped))


@pytest.mark.parametrize("number", ["000090000001", "0000000001", "+84 000 000 001", "2026-12-01T14:00:00.0000000Z",
                                    "35d4b117-4e60-44a3-9580-c582117eff98", "12345678-1234-4567-8912-345678901234",
                                    "TEST00001"])  # fmt: skip
def test_numbers_of_documents_telephones_and_systems_are_no_card_numbers(number: str) -> None:
    assert not holds_card_number(number)


def test_no_card_number_leaves_the_opentravel_sample() -> None:
    for card in (*CARDS, "5555 5555", "4012 8888", "Guest Sample"):
        assert card.encode() not in b"".join(map(to_json, pms_ota.read(OTA)))


@pytest.mark.parametrize("name", JSON_SAMPLES)
def test_no_card_number_leaves_a_json_sample(name: str) -> None:
    read, path = JSON_SAMPLES[name]
    document = path.read_bytes()
    assert any(card.encode() in document for card in CARDS)
    output = b"".join(map(to_json, read(document)))
    assert not any(card.encode() in output for card in CARDS)


@pytest.mark.parametrize("card", CARDS)
def test_a_card_number_in_a_name_or_a_document_is_dropped_with_a_warning(card: str) -> None:
    inside = f'<Telephone PhoneNumber="{card}"/><Document DocID="{card}" DocType="2"/>'
    [act] = acts_of(pms_ota.read, ota(reservation(f"<ResGuests>{guest(f'Sample {card}', inside)}</ResGuests>")))
    assert "guest" not in act.fields
    assert {(each.code, each.pointer) for each in act.warnings} == {
        ("card_number_removed", pointer) for pointer in ("/guest/full_name", "/guest/phone", "/guest/document/number")
    }
    assert card.encode() not in to_json(act)


def test_a_card_in_an_error_is_not_repeated() -> None:
    document = ota(reservation(status=CARDS[0]) + reservation(identity=f"{CARDS[0]} é"))
    assert CARDS[0].encode() not in b"".join(map(to_json, pms_ota.read(document)))
    assert pms_ota.envelope(ota("", EchoToken=CARDS[0])).echo_token is None


@pytest.mark.parametrize("name", ["PaymentCard", "Guarantee", "paymentAccount", "DepositPayments", "credit_card",
                                  "CreditCardId", "CardNumber", "reservationPaymentMethods"])  # fmt: skip
def test_names_about_payment_are_known(name: str) -> None:
    assert is_payment(name)


@pytest.mark.parametrize("name", ["IdentityCard", "Document", "identificationNumber", "Passport", "company", "expand"])
def test_names_about_people_are_not_taken_for_payment(name: str) -> None:
    assert not is_payment(name)


# -- OpenTravel --------------------------------------------------------------------------------------------------------


def test_a_party_of_three_with_one_name_is_three_guests_to_wait_for() -> None:
    first, *others = acts_of(pms_ota.read, OTA)
    assert [each.source_ref for each in (first, *others)] == [f"ota:BK-7001:{place}" for place in (1, 2, 3)]
    assert {each.kind for each in (first, *others)} == {ActKind.EXPECT}
    stay = {"arrived_at": "2026-12-01T00:00:00+07:00", "planned_departure_at": "2026-12-03T12:00:00+07:00", "reason": 1}
    assert first.fields == stay | {
        "room": "305",
        "guest": {
            "full_name": "Sample Anna",
            "birth_date": "1990-05-06",
            "gender": "F",
            "nationality": "DEU",
            "phone": "0000000001",
            "document": {"type": 4, "number": "TEST00001"},
        },
    }
    assert [each.fields for each in others] == [stay, stay]
    assert first.origin["/guest/full_name"] == "HotelReservation[1]/ResGuest[1]"


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        ("Commit", [ActKind.EXPECT]),
        ("Modify", [ActKind.EXPECT]),
        ("Reserved", [ActKind.EXPECT]),
        ("Cancel", [ActKind.CANCEL]),
        ("Cancelled", [ActKind.CANCEL]),
        ("No-show", [ActKind.CANCEL]),
        ("Checked-Out", [ActKind.EXPECT, ActKind.CHECK_OUT]),
    ],
)
def test_the_status_says_what_it_is(status: str, kinds: list[ActKind]) -> None:
    inside = '<RoomStays><RoomStay><TimeSpan Start="2026-11-01" Duration="P2N"/></RoomStay></RoomStays>'
    found = acts_of(pms_ota.read, ota(reservation(inside, status)))
    assert [each.kind for each in found] == kinds
    if kinds[-1] is ActKind.CHECK_OUT:
        assert found[-1].fields == {"departed_at": "2026-11-03T12:00:00+07:00"}


def test_who_is_in_house_runs_the_deadline() -> None:
    [act] = acts_of(pms_ota.read, ota(reservation(status="In-house")))
    assert act.fields == {"reason": 1, "present": True}


def test_a_cancel_request_names_its_reservation() -> None:
    document = b'<OTA_CancelRQ><UniqueID Type="14" ID="R9"/></OTA_CancelRQ>'
    [act] = acts_of(pms_ota.read, document)
    assert (act.kind, act.source_ref, act.fields) == (ActKind.CANCEL, "ota:R9:1", {"reason": "guest_did_not_stay"})


def test_guests_sleep_where_their_rooms_say() -> None:
    rooms = "".join(
        f'<RoomStay><RoomTypes><RoomType RoomID="{room}"/></RoomTypes><GuestCounts><GuestCount Count="2"/>'
        f"</GuestCounts><ResGuestRPHs>{rph}</ResGuestRPHs></RoomStay>"
        for room, rph in (("101", "1"), ("102", "2"))
    )
    inside = f"<RoomStays>{rooms}</RoomStays><ResGuests>{guest('One')}{guest('Two', rph='2')}</ResGuests>"
    found = acts_of(pms_ota.read, ota(reservation(inside)))
    assert [each.fields.get("room") for each in found] == ["101", "102", None, None]


def test_a_booking_firm_is_no_guest() -> None:
    firm = (
        '<ResGuest><Profiles><ProfileInfo><Profile ProfileType="3"><Customer><PersonName><Surname>Firm</Surname>'
        "</PersonName></Customer></Profile></ProfileInfo></Profiles></ResGuest>"
    )
    [act] = acts_of(pms_ota.read, ota(reservation(f"<ResGuests>{firm}</ResGuests>")))
    assert "guest" not in act.fields


@pytest.mark.parametrize(
    "document",
    [
        codecs.BOM_UTF8 + OTA,
        OTA.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        OTA.replace(b"UTF-8", b"ISO-8859-1"),
        OTA.replace(b"<OTA_HotelResNotifRQ", b'<s:Envelope xmlns:s="s"><s:Header><a><b/></a></s:Header><s:Body>'
                    b"<OTA_HotelResNotifRQ").replace(b"</OTA_HotelResNotifRQ>",
                                                     b"</OTA_HotelResNotifRQ></s:Body></s:Envelope>")
        .replace(b'<?xml version="1.0" encoding="UTF-8"?>', b""),
        OTA.replace(b"<OTA_HotelResNotifRQ xmlns=", b"<ota:OTA_HotelResNotifRQ xmlns:ota=").replace(
            b"</OTA_HotelResNotifRQ>", b"</ota:OTA_HotelResNotifRQ>"),
    ],
)  # fmt: skip
def test_encodings_soap_and_prefixes_make_no_difference(document: bytes) -> None:
    assert acts_of(pms_ota.read, document) == acts_of(pms_ota.read, OTA)
    assert pms_ota.envelope(document).echo_token == "demo-1"


@given(st.binary(max_size=400))
def test_any_bytes_are_answered(noise: bytes) -> None:
    for read in (pms_ota.read, pms_apaleo.read, pms_mews.read, pms_ohip.read):
        assert list(read(noise))
        assert list(read(OTA[:700] + noise))
    pms_ota.envelope(noise)


_TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "Id", "Reservations", "Customers", "reservations", "reservation", "roomStay", "adults",
                         "guestCounts", "primaryGuest", "reservationGuests", "State", "status", "arrival", "Count",
                         "PersonCounts", "reservationIdList", "Events", "Value", "topic", "data", "moduleName"]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(_TREE)
def test_any_json_is_answered(tree: Any) -> None:
    document = orjson.dumps(tree, option=orjson.OPT_PASSTHROUGH_DATETIME) if _fits(tree) else b"{}"
    for module in (pms_apaleo, pms_mews, pms_ohip):
        assert list(module.read(document))
        try:
            module.events(document)
        except NotEvents:
            continue


def _fits(tree: Any) -> bool:
    try:
        orjson.dumps(tree)
    except TypeError:
        return False
    return True


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "refs"), [
    ("apaleo", ["apaleo:XPGMSXGF-1:1", "apaleo:XPGMSXGF-1:2", "apaleo:XPGMSXGF-1:3"]),
    ("mews", [f"mews:bfee2c44-1f84-4326-a862-5289598f6e2d:{place}" for place in (1, 2)]),
    ("ohip", ["ohip:33697:1", "ohip:33697:2"]),
])  # fmt: skip
def test_a_reservation_is_a_party(name: str, refs: list[str]) -> None:
    read, path = JSON_SAMPLES[name]
    found = acts_of(read, path.read_bytes())
    assert [each.source_ref for each in found] == refs
    assert found[0].fields["guest"] == {
        "full_name": "Sample Anna",
        "birth_date": "1990-05-06",
        "gender": "F",
        "nationality": "DEU",
        "phone": "0000000001",
        "document": {"type": 4, "number": "TEST00001"},
    }
    assert found[0].fields["room"] == "305"
    assert "guest" not in found[-1].fields


def test_instants_of_mews_are_utc() -> None:
    first = acts_of(pms_mews.read, JSON_SAMPLES["mews"][1].read_bytes())[0]
    assert first.fields["arrived_at"] == "2026-11-28T14:30:00+07:00"
    assert first.fields["present"] is True


@pytest.mark.parametrize(
    ("name", "member", "left", "gone"),
    [
        ("apaleo", '"status": "InHouse"', '"status": "CheckedOut"', '"status": "Canceled"'),
        ("mews", '"State": "Started"', '"State": "Processed"', '"State": "Canceled"'),
        ("ohip", '"reservationStatus": "Reserved"', '"reservationStatus": "CheckedOut"',
         '"reservationStatus": "NoShow"'),
    ],
)  # fmt: skip
def test_departures_and_cancellations_are_acts_for_the_whole_party(
    name: str, member: str, left: str, gone: str
) -> None:
    read, path = JSON_SAMPLES[name]
    document = path.read_text()
    assert member in document
    departed = acts_of(read, document.replace(member, left).encode())
    assert [each.kind for each in departed] == [ActKind.EXPECT, ActKind.CHECK_OUT] * (len(departed) // 2)
    assert all("+07:00" in each.fields["departed_at"] for each in departed if each.kind is ActKind.CHECK_OUT)
    assert {each.kind for each in acts_of(read, document.replace(member, gone).encode())} == {ActKind.CANCEL}


def test_events_name_each_reservation_once_and_count_the_rest() -> None:
    order = {"Discriminator": "ServiceOrderUpdated", "Value": {"Id": "bfee2c44"}}
    other = {"Discriminator": "CustomerUpdated", "Value": {"Id": "x"}}
    body = orjson.dumps({"EnterpriseId": "E1", "Events": [order, order, other, {}, 7]})
    assert pms_mews.events(body) == HotelEvents((Changed("bfee2c44", "E1"),), 3)
    body = b'{"topic":"Reservation","type":"amended","id":"e","propertyId":"MUC","data":{"entityId":"X-1"}}'
    assert pms_apaleo.events(body) == HotelEvents((Changed("X-1", "MUC"),), 0)
    assert pms_apaleo.events(b'{"topic":"system","type":"healthcheck"}') == HotelEvents((), 1)
    event = {"moduleName": "RESERVATION", "eventName": "CHECK IN", "primaryKey": "33697", "hotelId": "HN1"}
    nested = {
        "data": {
            "newEvent": {
                "moduleName": "RESERVATION",
                "metadata": {"hotelId": "HN1"},
                "detail": [{"elementName": "RESV NAME ID", "newValue": "33698"}],
            }
        }
    }
    assert pms_ohip.events(orjson.dumps([event, nested, {"moduleName": "PROFILE", "primaryKey": "1"}])) == HotelEvents(
        (Changed("33697", "HN1"), Changed("33698", "HN1")), 1)  # fmt: skip


def test_the_name_of_a_guest_tells_the_reservation() -> None:
    assert reservation_of(source_ref("ota", "a:b", 3)) == ("ota:a:b", 3)
    for other in ("B-1", "ota:1", "ota:1:0", f"ota:1:{PARTY_LIMIT + 1}", "ota:1:x", ""):
        assert reservation_of(other) is None


def test_every_country_of_hotel_software_is_a_nationality() -> None:
    assert set(ALPHA_3.values()) <= set(NATIONALITIES)
    assert len(set(ALPHA_3.values())) == len(ALPHA_3) == 249
