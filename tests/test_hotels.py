"""Hotel software is asked at its one address, fails in every way, and never files a guest whom nobody declared."""

from __future__ import annotations

import copy
import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import structlog
from aiohttp import web

from asm_daemon import hotels
from asm_daemon.crypto import Keyring
from asm_daemon.daemon import HOTEL_EVENTS, HOTEL_RESERVATIONS
from asm_daemon.intake import Intake
from asm_daemon.log import configure_logging
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from asm_daemon.sealing import open_expected
from asm_daemon.store import expected as expected_store
from asm_daemon.store import hotels as store
from asm_daemon.store.hotels import Registered
from connectors import pms_ota
from connectors.hotels import client as hotel_client
from schemas.act import ActKind
from schemas.hotel_systems import NewHotelSystem
from schemas.hotels import HotelSystem, source_ref
from tests.hotel_server import HotelServer, hotel_server
from tests.stack import DEPLOYMENT, Clock, Pools, command, declaration

SAMPLES = Path(__file__).resolve().parents[1] / "deploy" / "samples"
CREDENTIALS = {
    HotelSystem.APALEO: {"client_id": "ASM", "client_secret": "geheim"},
    HotelSystem.MEWS: {"client_token": "C-geheim", "access_token": "A-geheim"},
    HotelSystem.OHIP: {"client_id": "ASM", "client_secret": "geheim", "app_key": "K", "enterprise_id": "E"},
}
CARDS = (b"4111111111111111", b"5555555555554444", b"4012888888881881")


@pytest.fixture
async def hotel() -> AsyncIterator[HotelServer]:
    async with hotel_server() as server:
        yield server


@pytest.fixture
def secrets_of(tmp_path: Path) -> Callable[[HotelSystem], Path]:
    def written(system: HotelSystem) -> Path:
        path = tmp_path / f"{system}.json"
        path.write_bytes(orjson.dumps(CREDENTIALS[system]))
        return path

    return written


class Desk:
    """What a test does: register a system, ring, pull, and look."""

    def __init__(
        self, pools: Pools, intake: Intake, keyring: Keyring, clock: Clock, hotel: HotelServer, facility: Facility
    ) -> None:
        self.pools, self.intake, self.keyring, self.clock = pools, intake, keyring, clock
        self.hotel, self.facility = hotel, facility
        self.answer_seconds = 5.0

    async def register(self, system: HotelSystem, file: Path, **members: Any) -> str:
        new = NewHotelSystem(
            facility=self.facility.code,
            system=system,
            base_url=self.hotel.url,
            token_url=f"{self.hotel.url}/connect/token" if system is HotelSystem.APALEO else None,
            property_id=members.get("property_id", "MUC"),
            credentials_file=str(file),
        )
        return await hotels.add_system(await self.pools.get("asm_auth"), "operator", new, self.clock())

    async def ring(self, system: HotelSystem, body: Any) -> hotels.Rung:
        pool = await self.pools.get("asm_intake")
        events = HOTEL_EVENTS[system](orjson.dumps(body))
        systems = await hotels.systems_at(pool, system, [self.facility])
        return await hotels.ring(pool, self.keyring, system, systems, events, self.clock())

    async def pull(self) -> dict[str, int]:
        def opened(system: Registered) -> Any:
            return hotel_client.open_client(
                system.system, system.base_url, system.token_url, system.property_id, Path(system.credentials_file),
                answer_seconds=self.answer_seconds,
            )  # fmt: skip

        pool = await self.pools.get("asm_intake")
        found = await hotels.pull_once(pool, self.intake, self.keyring, opened, HOTEL_RESERVATIONS, self.clock)
        return {name: count for name, count in found.items() if count}

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await self.pools.database.connect()
        found: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        return found

    async def waiting(self) -> list[tuple[int, str | None, datetime]]:
        return [tuple(row) for row in await self.rows("SELECT attempts, last_code, due_at FROM hotel_pulls")]

    async def expected(self) -> list[tuple[str, bool]]:
        rows = await self.rows("SELECT state, present FROM expected_stays")
        return sorted([(row["state"], row["present"]) for row in rows], reverse=True)

    async def stays(self) -> list[str]:
        return [row["status"] for row in await self.rows("SELECT status FROM stays ORDER BY id")]


@pytest.fixture
async def desk(
    pools: Pools, intake: Intake, keyring: Keyring, clock: Clock, hotel: HotelServer, facility: Facility
) -> Desk:
    clock.instant = clock.instant.replace(microsecond=0)
    return Desk(pools, intake, keyring, clock, hotel, facility)


def apaleo(clock: Clock, status: str = "Confirmed", **changes: Any) -> dict[str, Any]:
    """A reservation for two, one of them known by name."""
    now = clock().astimezone(UTC)
    return {
        "id": "X-1",
        "status": status,
        "arrival": (now - timedelta(hours=1)).isoformat(),
        "departure": (now + timedelta(days=2)).isoformat(),
        "adults": 2,
        "unit": {"name": "305"},
        "primaryGuest": {"firstName": "Anna", "lastName": "Sample", "nationalityCountryCode": "DE"},
        "paymentAccount": {"accountNumber": "4111111111111111"},
        **changes,
    }


EVENT = {"topic": "Reservation", "type": "amended", "propertyId": "MUC", "data": {"entityId": "X-1"}}


@pytest.fixture
async def rung(desk: Desk, secrets_of: Callable[[HotelSystem], Path]) -> Desk:
    """Apaleo is registered, knows a booking, and has rung."""
    await desk.register(HotelSystem.APALEO, secrets_of(HotelSystem.APALEO))
    desk.hotel.reservations["X-1"] = apaleo(desk.clock)
    assert await desk.ring(HotelSystem.APALEO, EVENT) == hotels.Rung(1, 0)
    return desk


# -- who may see and change it -----------------------------------------------------------------------------------------


# asm_retention seals blobs anew and sees nothing else: tests/test_resealing.py
@pytest.mark.parametrize("role", ["asm_police", "asm_sync", "asm_publish", "asm_feeds", "asm_guest", "asm_audit"])
@pytest.mark.parametrize("table", ["hotel_systems", "hotel_pulls"])
async def test_only_the_directory_and_intake_reach_hotel_software(pools: Pools, role: str, table: str) -> None:
    connection = await pools.database.connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch(f"SELECT 1 FROM {table}")


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("asm_auth", "SELECT reservation_sealed FROM hotel_pulls"),
        ("asm_auth", "UPDATE hotel_pulls SET attempts = 0"),
        ("asm_intake", "UPDATE hotel_systems SET base_url = 'https://elsewhere.example'"),
        ("asm_intake", "DELETE FROM hotel_systems"),
    ],
)
async def test_intake_cannot_change_the_address_and_the_directory_cannot_read_what_rang(
    pools: Pools, role: str, statement: str
) -> None:
    connection = await pools.database.connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


@pytest.mark.parametrize("url", ["http://hotel.example", "https://u:p@hotel.example", "https://hotel.example/?a=1",
                                 "ftp://hotel.example", "https://", "https://[", "file:///etc/passwd"])  # fmt: skip
def test_only_a_plain_https_address_is_registered(url: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        NewHotelSystem(facility="A", system="apaleo", base_url=url, credentials_file="/f")  # type: ignore[arg-type]


async def test_an_unknown_facility_is_refused(desk: Desk, pools: Pools) -> None:
    new = NewHotelSystem(facility="HY-KS-9999", system=HotelSystem.MEWS, base_url="https://h.example",
                         credentials_file="/f")  # fmt: skip
    with pytest.raises(Refused):
        await hotels.add_system(await pools.get("asm_auth"), "operator", new, desk.clock())


# -- what a hotel system does wrong ------------------------------------------------------------------------------------


def big() -> web.Response:
    return web.Response(body=b'{"a":"' + b"x" * (hotel_client.ANSWER_BYTES + 1), content_type="application/json")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (lambda: web.Response(status=401), "unauthorised"),
        (lambda: web.Response(status=403), "unauthorised"),
        (lambda: web.Response(status=500), "status_500"),
        (lambda: web.Response(status=502, text="<html>", content_type="text/html"), "status_502"),
        (lambda: web.Response(status=302, headers={"Location": "http://elsewhere.invalid/"}), "redirected"),
        (lambda: web.Response(text="<html>", content_type="text/html"), "malformed_json"),
        (lambda: web.json_response([1]), "malformed_json"),
        (big, "answer_too_large"),
    ],
)
async def test_an_answer_that_is_none_is_asked_for_again_later(
    rung: Desk, failure: Callable[[], web.Response], code: str
) -> None:
    token = web.json_response({"access_token": "opened"})
    rung.hotel.failing += [token, failure()]
    assert await rung.pull() == {"postponed": 1}
    [(attempts, last_code, due_at)] = await rung.waiting()
    assert (attempts, last_code) == (1, code)
    assert timedelta(0) < due_at - rung.clock() <= timedelta(seconds=hotels.BACKOFF_FIRST_SECONDS)
    assert await rung.pull() == {}, "it is not due yet"
    rung.clock.instant = due_at
    assert await rung.pull() == {"fetched": 1}
    assert await rung.waiting() == []
    assert await rung.expected() == [("open", False), ("open", False)]


@pytest.mark.parametrize("failure", ["hang", "slow"])
async def test_an_answer_that_does_not_come_is_not_waited_for(rung: Desk, failure: str) -> None:
    rung.answer_seconds = 0.3
    rung.hotel.failing += [web.json_response({"access_token": "opened"}), failure]
    assert await rung.pull() == {"postponed": 1}
    [(_, code, _)] = await rung.waiting()
    assert code == "timeout"


async def test_who_asks_to_wait_is_left_alone_for_so_long(rung: Desk) -> None:
    rung.hotel.failing.append(web.Response(status=429, headers={"Retry-After": "900"}))
    assert await rung.pull() == {"postponed": 1}
    [(_, code, due_at)] = await rung.waiting()
    assert (code, due_at) == ("overloaded", rung.clock() + timedelta(seconds=900))


async def test_a_system_that_is_away_is_asked_once_and_not_for_each_reservation(rung: Desk) -> None:
    for number in range(2, 6):
        await rung.ring(HotelSystem.APALEO, {**EVENT, "data": {"entityId": f"X-{number}"}})
    rung.hotel.failing.append(web.Response(status=503))
    assert await rung.pull() == {"postponed": 5}
    assert len(rung.hotel.asked) == 1


async def test_no_connection_and_no_credentials_are_told_apart(
    desk: Desk, secrets_of: Callable[[HotelSystem], Path], tmp_path: Path
) -> None:
    await desk.register(HotelSystem.APALEO, tmp_path / "absent.json")
    await desk.ring(HotelSystem.APALEO, EVENT)
    await desk.pull()
    assert [code for _, code, _ in await desk.waiting()] == ["no_credentials"]
    (tmp_path / "absent.json").write_text("{}")
    desk.clock.instant += timedelta(hours=1)
    await desk.pull()
    assert [code for _, code, _ in await desk.waiting()] == ["wrong_credentials_file"]
    assert desk.hotel.asked == []
    desk.hotel.url = "http://127.0.0.1:1"
    await desk.register(HotelSystem.APALEO, secrets_of(HotelSystem.APALEO))
    desk.clock.instant += timedelta(hours=1)
    await desk.pull()
    assert [code for _, code, _ in await desk.waiting()] == ["no_connection"]


async def test_a_reservation_that_the_system_does_not_know_is_let_go(rung: Desk) -> None:
    rung.hotel.reservations.clear()
    assert await rung.pull() == {"gone": 1}
    assert await rung.waiting() == []


async def test_what_waits_for_a_closed_facility_takes_no_place_from_others(rung: Desk) -> None:
    pool = await rung.pools.get("asm_intake")
    connection = await rung.pools.database.connect()
    async with pool.acquire() as asking:
        assert len(await store.due_pulls(asking, rung.clock(), hotels.latest(rung.clock()), 20, 1)) == 1
        await connection.execute("UPDATE facilities SET active = false")
        assert await store.due_pulls(asking, rung.clock(), hotels.latest(rung.clock()), 20, 1) == []


async def test_a_clock_that_was_hours_ahead_makes_no_reservation_wait_for_hours(
    desk: Desk, secrets_of: Callable[[HotelSystem], Path]
) -> None:
    await desk.register(HotelSystem.APALEO, secrets_of(HotelSystem.APALEO))
    desk.hotel.reservations["X-1"] = apaleo(desk.clock)
    right = desk.clock()
    desk.clock.instant += timedelta(hours=3)
    await desk.ring(HotelSystem.APALEO, EVENT)
    desk.clock.instant = right
    assert await desk.pull() == {"fetched": 1}


async def test_a_reservation_that_failed_by_a_clock_days_ahead_is_asked_for_again(rung: Desk) -> None:
    right = rung.clock()
    rung.clock.instant += timedelta(days=1)
    rung.hotel.failing.append(web.Response(status=429, headers={"Retry-After": "900"}))
    assert await rung.pull() == {"postponed": 1}
    rung.clock.instant = right
    assert await rung.pull() == {"fetched": 1}


async def test_a_slow_system_gives_the_turn_back_and_keeps_what_is_due(
    rung: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hotels, "PASS_SECONDS", 0.0)
    await rung.ring(HotelSystem.APALEO, {**EVENT, "data": {"entityId": "X-2"}})
    assert await rung.pull() == {"fetched": 1}
    assert [attempts for attempts, _, _ in await rung.waiting()] == [0]
    assert await rung.pull() == {"gone": 1}


async def test_an_answer_about_another_reservation_is_not_taken(rung: Desk) -> None:
    rung.hotel.reservations["X-1"] = apaleo(rung.clock, id="X-2")
    assert await rung.pull() == {"postponed": 1}
    assert [code for _, code, _ in await rung.waiting()] == ["another_reservation"]
    assert await rung.expected() == []


async def test_a_system_that_never_answers_is_given_up_after_days(rung: Desk) -> None:
    rung.clock.instant += hotels.GIVEN_UP_AFTER + timedelta(seconds=1)
    rung.hotel.failing.append(web.Response(status=500))
    assert await rung.pull() == {"given_up": 1}
    assert await rung.waiting() == []


async def test_what_changes_while_it_is_fetched_is_fetched_again(rung: Desk) -> None:
    rung.hotel.while_asked = lambda: rung.ring(HotelSystem.APALEO, EVENT)
    assert await rung.pull() == {"fetched": 1}
    assert [attempts for attempts, _, _ in await rung.waiting()] == [0]
    assert await rung.pull() == {"fetched": 1}
    assert await rung.waiting() == []


async def test_a_new_ring_does_not_wait_for_an_old_failure(rung: Desk) -> None:
    rung.hotel.failing.append(web.Response(status=500))
    assert await rung.pull() == {"postponed": 1}
    await rung.ring(HotelSystem.APALEO, EVENT)
    assert await rung.pull() == {"fetched": 1}


async def test_events_of_another_hotel_are_ignored(rung: Desk) -> None:
    assert await rung.ring(HotelSystem.APALEO, {**EVENT, "propertyId": "BER"}) == hotels.Rung(0, 1)
    assert await rung.ring(HotelSystem.APALEO, {"topic": "system", "type": "healthcheck"}) == hotels.Rung(0, 1)
    assert await rung.ring(HotelSystem.APALEO, {**EVENT, "data": {"entityId": "../../x"}}) == hotels.Rung(0, 1)


# -- what comes of it --------------------------------------------------------------------------------------------------


async def test_only_the_registered_addresses_are_called_with_the_secrets_in_the_head(rung: Desk) -> None:
    assert await rung.pull() == {"fetched": 1}
    assert rung.hotel.asked == ["POST /connect/token", "GET /booking/v1/reservations/X-1"]
    assert rung.hotel.headers[0]["Authorization"].startswith("Basic ")
    assert rung.hotel.headers[1]["Authorization"] == "Bearer opened"


async def test_mews_is_asked_for_guests_and_rooms(desk: Desk, secrets_of: Callable[[HotelSystem], Path]) -> None:
    sample = orjson.loads((SAMPLES / "hotel-mews.json").read_bytes())
    now = desk.clock()
    [reservation] = sample["Reservations"]
    reservation |= {
        "ActualStartUtc": (now - timedelta(hours=1)).isoformat(),
        "ScheduledEndUtc": (now + timedelta(days=1)).isoformat(),
    }
    desk.hotel.mews = {
        "reservations/getAll/2023-06-06": {"Reservations": [reservation]},
        "companionships/getAll": {"Companionships": sample["Companionships"]},
        "customers/getAll": {"Customers": sample["Customers"]},
        "resources/getAll": {"Resources": sample["Resources"]},
    }
    await desk.register(HotelSystem.MEWS, secrets_of(HotelSystem.MEWS), property_id=None)
    event = {"Discriminator": "ServiceOrderUpdated", "Value": {"Id": reservation["Id"]}}
    assert await desk.ring(HotelSystem.MEWS, {"Events": [event, {"Discriminator": "Other"}]}) == hotels.Rung(1, 1)
    assert await desk.pull() == {"fetched": 1}
    assert [path.rpartition("/v1/")[2] for path in desk.hotel.asked] == list(desk.hotel.mews)
    assert desk.hotel.bodies[0]["ReservationIds"] == [reservation["Id"]]
    assert {body["AccessToken"] for body in desk.hotel.bodies} == {"A-geheim"}
    assert await desk.stays() == ["declared"], "the guest in house lacked nothing"
    assert await desk.expected() == [("open", True)], "the companion without a name is missing"


async def test_ohip_is_asked_for_the_hotel(desk: Desk, secrets_of: Callable[[HotelSystem], Path]) -> None:
    sample = orjson.loads((SAMPLES / "hotel-ohip.json").read_bytes())
    [reservation] = sample["reservations"]["reservation"]
    today = desk.clock().date()
    reservation["roomStay"] |= {
        "arrivalDate": (today + timedelta(days=1)).isoformat(),
        "departureDate": (today + timedelta(days=3)).isoformat(),
    }
    desk.hotel.reservations["33697"] = sample
    await desk.register(HotelSystem.OHIP, secrets_of(HotelSystem.OHIP), property_id="HN1")
    event = {"moduleName": "RESERVATION", "primaryKey": "33697", "hotelId": "HN1"}
    assert await desk.ring(HotelSystem.OHIP, event) == hotels.Rung(1, 0)
    assert await desk.pull() == {"fetched": 1}
    assert desk.hotel.asked == ["POST /oauth/v1/tokens", "GET /rsv/v1/hotels/HN1/reservations/33697"]
    assert desk.hotel.headers[0]["enterpriseId"] == "E"
    assert (desk.hotel.headers[1]["x-app-key"], desk.hotel.headers[1]["x-hotelid"]) == ("K", "HN1")
    assert await desk.expected() == [("open", False), ("open", False)]
    assert await desk.stays() == []


async def again(desk: Desk, reservation: dict[str, Any]) -> dict[str, int]:
    desk.hotel.reservations["X-1"] = reservation
    await desk.ring(HotelSystem.APALEO, EVENT)
    return await desk.pull()


async def test_a_booking_lives_with_its_reservation(rung: Desk) -> None:
    await rung.pull()
    assert await again(rung, apaleo(rung.clock, adults=1)) == {"fetched": 1}
    assert await rung.expected() == [("open", False), ("ended", False)], "the party is smaller now"
    await again(rung, apaleo(rung.clock))
    assert await rung.expected() == [("open", False), ("open", False)]
    await again(rung, apaleo(rung.clock, "NoShow"))
    assert await rung.expected() == [("ended", False), ("ended", False)]
    await again(rung, apaleo(rung.clock, "InHouse"))
    assert await rung.expected() == [("open", True), ("open", True)]
    await again(rung, apaleo(rung.clock, "Canceled"))
    assert await rung.expected() == [("open", True), ("open", True)], "who is in house is not cancelled from afar"
    assert await rung.stays() == []


async def test_a_departure_before_the_declaration_is_remembered(rung: Desk) -> None:
    gone = rung.clock() - timedelta(minutes=10)
    await again(rung, apaleo(rung.clock, "CheckedOut", checkOutTime=gone.isoformat()))
    rows = await rung.rows("SELECT departed_at FROM expected_stays")
    assert [row["departed_at"] for row in rows] == [gone, gone]


async def test_who_left_long_ago_and_was_never_known_is_not_announced(rung: Desk) -> None:
    before = rung.clock() - timedelta(days=30)
    old = apaleo(rung.clock, "CheckedOut", checkOutTime=before.isoformat(), arrival=before.isoformat())
    assert await again(rung, old) == {"fetched": 1}
    assert await rung.expected() == []


async def test_the_desk_declares_and_the_booking_cannot_undo_it(rung: Desk) -> None:
    await rung.pull()
    fields = declaration(1) | {"source_ref": "apaleo:X-1:1"}
    [outcome] = await rung.intake.submit([command(rung.facility, ActKind.DECLARE, fields, rung.clock)])
    assert outcome.outcome == "accepted"
    await again(rung, apaleo(rung.clock, "Canceled"))
    assert await rung.stays() == ["declared"]
    assert await rung.expected() == [("ended", False)]
    await again(rung, apaleo(rung.clock, "InHouse"))
    assert await rung.stays() == ["declared"]


async def test_another_guest_in_the_same_place_does_not_get_the_first_ones_document(
    rung: Desk, keyring: Keyring
) -> None:
    known = {"birthDate": "1990-05-06", "identificationNumber": "TEST00001", "identificationType": "PassportNumber"}
    guest = apaleo(rung.clock)["primaryGuest"]
    await again(rung, apaleo(rung.clock, primaryGuest=guest | known))
    await again(rung, apaleo(rung.clock, primaryGuest={"firstName": "Ben", "lastName": "Other"}))
    pool = await rung.pools.get("asm_intake")
    tag = keyring.reference_tag(rung.facility.id, source_ref("apaleo", "X-1", 1))
    async with pool.acquire() as connection:
        _, [row] = await expected_store.find_named(connection, [rung.facility.id], [tag])
    contents = open_expected(keyring, row)
    assert contents.known["guest"] == {"full_name": "Other Ben"}


async def test_nothing_of_a_card_or_a_guest_is_stored_or_logged(rung: Desk) -> None:
    stream = io.BytesIO()
    configure_logging("info", DEPLOYMENT, stream)
    sample = orjson.loads((SAMPLES / "hotel-apaleo.json").read_bytes())
    await again(rung, {**copy.deepcopy(sample), "id": "X-1"})
    pool = await rung.pools.get("asm_intake")
    read = list(pms_ota.read((SAMPLES / "hotel-opentravel.xml").read_bytes()))
    await hotels.take(pool, rung.intake, rung.keyring, rung.facility, read, rung.clock(), "vendor-1")
    rung.hotel.failing.append(web.Response(status=500, text="4111111111111111"))
    await again(rung, sample)
    structlog.reset_defaults()
    stored = b""
    connection = await rung.pools.database.connect()
    names = await connection.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = "
                                   "'public'::regnamespace")  # fmt: skip
    for name in names:
        stored += str(await connection.fetch(f'SELECT t::text FROM "{name["relname"]}" AS t')).encode()
    for secret in (*CARDS, b"Sample", b"TEST00001", b"X-1", b"BK-7001", b"geheim"):
        assert secret not in stored
        assert secret not in stream.getvalue()


async def test_a_token_opens_one_system_only_and_is_not_kept(
    rung: Desk, secrets_of: Callable[[HotelSystem], Path]
) -> None:
    token = await rung.register(HotelSystem.APALEO, secrets_of(HotelSystem.APALEO))
    pool = await rung.pools.get("asm_intake")
    found = await hotels.system_of_webhook(pool, HotelSystem.APALEO, token)
    assert found is not None
    assert found.facility == rung.facility
    assert await hotels.system_of_webhook(pool, HotelSystem.MEWS, token) is None
    rows = await rung.rows("SELECT h::text AS whole FROM hotel_systems h")
    assert token not in rows[0]["whole"]
    auth = await rung.pools.get("asm_auth")
    [facts] = await hotels.list_systems(auth)
    assert (facts.facility, facts.system, facts.waiting) == (rung.facility.code, "apaleo", 1)
    assert await hotels.remove_system(auth, "operator", rung.facility.code, HotelSystem.APALEO, rung.clock())
    assert not await hotels.remove_system(auth, "operator", rung.facility.code, HotelSystem.APALEO, rung.clock())
    assert await rung.waiting() == []
    assert await hotels.system_of_webhook(pool, HotelSystem.APALEO, token) is None
