"""Who may speak for whom: keys, grants and senders on a real database, and what the gate remembers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from asm_daemon import directory
from asm_daemon.directory import Gate, authorise, facilities_within
from asm_daemon.model import Principal, PrincipalKind, Scope, Sender
from asm_daemon.problems import Refused, from_validation
from schemas.codes import Department, FacilityKind
from schemas.directory import NewFacility
from schemas.hospital import HospitalProfile
from tests.conftest import Database
from tests.stack import TESTER, Pools

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


class Seconds:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.passed = 1000.0

    def __call__(self) -> float:
        return self.passed


@pytest.fixture
async def pool(pools: Pools) -> asyncpg.Pool:
    return await pools.get("asm_auth")


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def gate(pool: asyncpg.Pool, seconds: Seconds) -> Gate:
    return Gate(pool, 30, seconds)


def facility(code: str = "HY-KS-0001", *, sandbox: bool = False) -> NewFacility:
    return NewFacility(
        code=code,
        name=f"Khách sạn Mẫu {code}",
        kind=FacilityKind.HOTEL_2_3_STAR,
        province="109",
        commune="11953",
        address="Số 1, đường Mẫu",
        authority="Công an Phường Phố Hiến",
        capacity=50,
        sandbox=sandbox,
    )


async def holder(pool: asyncpg.Pool, kind: PrincipalKind = PrincipalKind.OWNER, *codes: str) -> UUID:
    """A new principal with default grants at `codes`."""
    department = Department.HEALTH if kind is PrincipalKind.DEPARTMENT else None
    principal_id = await directory.add_principal(pool, TESTER, kind, "Mẫu", "Đơn vị mẫu", NOW, department=department)
    for code in codes:
        await directory.grant(pool, TESTER, principal_id, code, NOW)
    return principal_id


def violations(refused: pytest.ExceptionInfo[Refused]) -> list[tuple[str, str]]:
    return [(each.code, each.pointer) for each in refused.value.violations]


async def audited(database: Database) -> list[dict[str, object]]:
    connection = await database.connect()
    rows = await connection.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    return [json.loads(row["body"]) for row in rows]


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "",
        "asm_",
        "asm_0123456789abcdef",
        "asm_0123456789abcdef_" + "0" * 63,
        "asm_0123456789abcdef_" + "0" * 65,
        "asm_0123456789ABCDEF_" + "0" * 64,
        "key_0123456789abcdef_" + "0" * 64,
        "asm_0123456789abcdef_" + "٠" * 64,
        "asm_0123456789abcdef_" + "0" * 64 + "\n",
        "x" * 1_000_000,
    ],
)
async def test_what_does_not_look_like_a_key_is_refused_without_asking_the_database(gate: Gate, token: str) -> None:
    await gate._pool.close()
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(token, NOW)


async def test_a_key_that_nobody_holds_is_refused(gate: Gate) -> None:
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate("asm_0123456789abcdef_" + "0" * 64, NOW)


async def test_a_known_id_with_another_secret_is_refused_before_and_after_the_right_one_came(
    pool: asyncpg.Pool, gate: Gate
) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(wrong, NOW)
    await gate.authenticate(token, NOW)
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(wrong, NOW)


async def test_an_expired_key_is_refused_in_the_instant_it_expires_even_if_it_is_remembered(
    pool: asyncpg.Pool, gate: Gate
) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW, valid_days=1)
    expires_at = NOW + timedelta(days=1)
    await gate.authenticate(token, expires_at - timedelta(microseconds=1))
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(token, expires_at)


async def test_a_revoked_key_stops_when_the_gate_has_forgotten_it(
    pool: asyncpg.Pool, gate: Gate, seconds: Seconds
) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await gate.authenticate(token, NOW)
    assert await directory.revoke_key(pool, TESTER, token.split("_")[1], NOW)
    seconds.passed += 29.9
    await gate.authenticate(token, NOW)
    seconds.passed += 0.1
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(token, NOW)


async def test_with_no_time_to_remember_a_revoked_key_stops_at_once(pool: asyncpg.Pool, seconds: Seconds) -> None:
    gate = Gate(pool, 0, seconds)
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await gate.authenticate(token, NOW)
    await directory.revoke_key(pool, TESTER, token.split("_")[1], NOW)
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(token, NOW)


async def test_a_principal_that_is_no_longer_active_is_refused(
    database: Database, pool: asyncpg.Pool, gate: Gate
) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await (await database.connect()).execute("UPDATE principals SET active = false")
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(token, NOW)


async def test_an_unreachable_database_is_unavailable_and_not_a_wrong_key(pool: asyncpg.Pool, gate: Gate) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await pool.close()
    with pytest.raises(Refused, match="unavailable") as refused:
        await gate.authenticate(token, NOW)
    assert refused.value.retry_after_seconds == 1


async def test_a_key_already_known_still_works_while_the_database_is_away(pool: asyncpg.Pool, gate: Gate) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await gate.authenticate(token, NOW)
    await pool.close()
    assert (await gate.authenticate(token, NOW)).kind is PrincipalKind.OWNER


async def test_guessing_unknown_keys_does_not_push_out_the_known_ones(
    pool: asyncpg.Pool, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_CACHED_LIMIT", 3)
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    await gate.authenticate(token, NOW)
    for guess in range(10):
        with pytest.raises(Refused, match="unauthenticated"):
            await gate.authenticate(f"asm_{guess:016x}_{'0' * 64}", NOW)
    await pool.close()
    await gate.authenticate(token, NOW)
    with pytest.raises(Refused, match="unauthenticated"):
        await gate.authenticate(f"asm_{9:016x}_{'0' * 64}", NOW)  # remembered as unknown
    with pytest.raises(Refused, match="unavailable"):
        await gate.authenticate(f"asm_{0:016x}_{'0' * 64}", NOW)  # forgotten to make room


async def test_many_requests_with_one_key_ask_the_database_once(pool: asyncpg.Pool, gate: Gate) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    lent = [await pool.acquire() for _ in range(4)]  # nobody can ask yet
    asking = [asyncio.create_task(gate.authenticate(token, NOW)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # its hanging up is no reason to leave the others without an answer
    await pool.release(lent.pop())
    found = await asyncio.gather(*asking, return_exceptions=True)
    for connection in lent:
        await pool.release(connection)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len({id(principal) for principal in found[1:]}) == 1


async def test_the_database_keeps_nothing_from_which_a_key_could_be_made(
    database: Database, pool: asyncpg.Pool
) -> None:
    token = await directory.create_key(pool, TESTER, await holder(pool), NOW)
    _, key_id, secret = token.split("_")
    kept = await (await database.connect()).fetchrow("SELECT * FROM api_keys")
    assert kept is not None
    assert kept["id"] == key_id
    assert secret not in repr(kept)
    assert bytes.fromhex(secret) not in kept.values()
    assert secret not in json.dumps(await audited(database))


async def test_no_two_keys_are_alike_and_each_has_256_random_bits(pool: asyncpg.Pool) -> None:
    principal_id = await holder(pool)
    tokens = {await directory.create_key(pool, TESTER, principal_id, NOW) for _ in range(5)}
    assert len({token.split("_")[2] for token in tokens}) == 5
    assert all(len(bytes.fromhex(token.split("_")[2])) == 32 for token in tokens)


@pytest.mark.parametrize("valid_days", [0, -1, 367])
async def test_a_key_is_valid_for_one_day_to_a_year(pool: asyncpg.Pool, valid_days: int) -> None:
    with pytest.raises(Refused, match="request_invalid") as refused:
        await directory.create_key(pool, TESTER, await holder(pool), NOW, valid_days=valid_days)
    assert violations(refused) == [("out_of_range", "/valid_days")]


async def test_nobody_gets_a_key_who_is_not_in_the_directory(pool: asyncpg.Pool) -> None:
    with pytest.raises(Refused, match="request_invalid") as refused:
        await directory.create_key(pool, TESTER, uuid7(), NOW)
    assert violations(refused) == [("unknown_principal", "/principal")]


async def test_revoking_tells_whether_there_was_something_to_revoke(pool: asyncpg.Pool) -> None:
    principal_id = await holder(pool)
    first = await directory.create_key(pool, TESTER, principal_id, NOW)
    await directory.create_key(pool, TESTER, principal_id, NOW)
    assert not await directory.revoke_key(pool, TESTER, "0123456789abcdef", NOW)
    assert await directory.revoke_key(pool, TESTER, first.split("_")[1], NOW)
    assert not await directory.revoke_key(pool, TESTER, first.split("_")[1], NOW)
    assert await directory.revoke_keys_of(pool, TESTER, principal_id, NOW) == 1
    assert [key.revoked_at for key in await directory.list_keys(pool)] == [NOW, NOW]


# -- grants ------------------------------------------------------------------------------------------------------------


async def principal_of(pool: asyncpg.Pool, principal_id: UUID) -> Principal:
    token = await directory.create_key(pool, TESTER, principal_id, NOW)
    return await Gate(pool, 0).authenticate(token, NOW)


async def test_an_unknown_facility_and_one_that_is_not_granted_cannot_be_told_apart(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility("HY-KS-0001"), NOW)
    await directory.add_facility(pool, TESTER, facility("HY-KS-0002"), NOW)
    principal = await principal_of(pool, await holder(pool, PrincipalKind.OWNER, "HY-KS-0001"))
    for code in ("HY-KS-0002", "HY-KS-9999", "", "\x00"):
        with pytest.raises(Refused, match="facility_not_granted"):
            authorise(principal, code, Scope.STATUS)


async def test_an_owner_of_one_facility_need_not_name_it_and_may_do_everything_there(pool: asyncpg.Pool) -> None:
    added = await directory.add_facility(pool, TESTER, facility(), NOW)
    principal = await principal_of(pool, await holder(pool, PrincipalKind.OWNER, added.code))
    for scope in Scope:
        assert authorise(principal, None, scope) == added


async def test_an_owner_of_two_facilities_must_name_one(pool: asyncpg.Pool) -> None:
    for code in ("HY-KS-0001", "HY-KS-0002"):
        await directory.add_facility(pool, TESTER, facility(code), NOW)
    principal = await principal_of(pool, await holder(pool, PrincipalKind.OWNER, "HY-KS-0001", "HY-KS-0002"))
    with pytest.raises(Refused, match="facility_required"):
        authorise(principal, None, Scope.DECLARE)
    assert authorise(principal, "HY-KS-0002", Scope.DECLARE).code == "HY-KS-0002"


async def test_a_vendor_always_names_the_facility_and_reads_no_personal_data_back(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    principal = await principal_of(pool, await holder(pool, PrincipalKind.VENDOR, "HY-KS-0001"))
    with pytest.raises(Refused, match="facility_required"):
        authorise(principal, None, Scope.DECLARE)
    authorise(principal, "HY-KS-0001", Scope.DECLARE)
    authorise(principal, "HY-KS-0001", Scope.STATUS)
    with pytest.raises(Refused, match="scope_missing"):
        authorise(principal, "HY-KS-0001", Scope.READ)


async def test_an_owner_without_a_grant_reaches_nothing(pool: asyncpg.Pool) -> None:
    principal = await principal_of(pool, await holder(pool))
    with pytest.raises(Refused, match="facility_not_granted"):
        authorise(principal, None, Scope.STATUS)


@pytest.mark.parametrize("kind", [PrincipalKind.OFFICER, PrincipalKind.DEPARTMENT, PrincipalKind.OPERATOR])
async def test_only_owners_and_vendors_are_granted_anything_at_a_facility(
    pool: asyncpg.Pool, kind: PrincipalKind
) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    with pytest.raises(Refused, match="request_invalid") as refused:
        await holder(pool, kind, "HY-KS-0001")
    assert violations(refused) == [("holds_no_grants", "/principal")]


@pytest.mark.parametrize("first", ["HY-KS-0001", "HY-TN-0001"])
async def test_nobody_holds_grants_for_sandbox_and_real_facilities_at_once(pool: asyncpg.Pool, first: str) -> None:
    await directory.add_facility(pool, TESTER, facility("HY-KS-0001"), NOW)
    await directory.add_facility(pool, TESTER, facility("HY-TN-0001", sandbox=True), NOW)
    second = "HY-TN-0001" if first == "HY-KS-0001" else "HY-KS-0001"
    principal_id = await holder(pool, PrincipalKind.VENDOR, first)
    with pytest.raises(Refused, match="request_invalid") as refused:
        await directory.grant(pool, TESTER, principal_id, second, NOW)
    assert violations(refused) == [("sandbox_and_real", "/facility")]
    await directory.revoke_grant(pool, TESTER, principal_id, first, NOW)
    await directory.grant(pool, TESTER, principal_id, second, NOW)
    assert list((await principal_of(pool, principal_id)).grants) == [second]


async def test_two_grants_at_the_same_time_do_not_pass_the_wall_between_sandbox_and_real(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility("HY-KS-0001"), NOW)
    await directory.add_facility(pool, TESTER, facility("HY-TN-0001", sandbox=True), NOW)
    for _ in range(5):
        principal_id = await holder(pool, PrincipalKind.VENDOR)
        both = [directory.grant(pool, TESTER, principal_id, code, NOW) for code in ("HY-KS-0001", "HY-TN-0001")]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [Refused]


async def test_a_grant_replaces_the_one_before_and_a_revoked_one_grants_nothing(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    principal_id = await holder(pool, PrincipalKind.VENDOR, "HY-KS-0001")
    await directory.grant(pool, TESTER, principal_id, "HY-KS-0001", NOW, scopes={Scope.STATUS})
    principal = await principal_of(pool, principal_id)
    with pytest.raises(Refused, match="scope_missing"):
        authorise(principal, "HY-KS-0001", Scope.DECLARE)
    assert await directory.revoke_grant(pool, TESTER, principal_id, "HY-KS-0001", NOW)
    assert not await directory.revoke_grant(pool, TESTER, principal_id, "HY-KS-0001", NOW)
    assert (await principal_of(pool, principal_id)).grants == {}


async def test_a_grant_names_a_known_facility_a_known_principal_and_some_scope(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    principal_id = await holder(pool)
    with pytest.raises(Refused) as refused:
        await directory.grant(pool, TESTER, uuid7(), "HY-KS-0001", NOW)
    assert violations(refused) == [("unknown_principal", "/principal")]
    with pytest.raises(Refused) as refused:
        await directory.grant(pool, TESTER, principal_id, "HY-KS-9999", NOW)
    assert violations(refused) == [("unknown_facility", "/facility")]
    with pytest.raises(Refused) as refused:
        await directory.grant(pool, TESTER, principal_id, "HY-KS-0001", NOW, scopes=[])
    assert violations(refused) == [("required", "/scopes")]


async def test_a_closed_facility_takes_no_declaration_but_its_receipts_stay_readable(
    database: Database, pool: asyncpg.Pool
) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    principal_id = await holder(pool, PrincipalKind.OWNER, "HY-KS-0001")
    await (await database.connect()).execute("UPDATE facilities SET active = false")
    principal = await principal_of(pool, principal_id)
    with pytest.raises(Refused, match="scope_missing"):
        authorise(principal, None, Scope.DECLARE)
    assert authorise(principal, None, Scope.STATUS).code == "HY-KS-0001"


async def test_one_call_names_every_facility_at_which_a_scope_is_held(pool: asyncpg.Pool) -> None:
    for code in ("HY-KS-0003", "HY-KS-0001", "HY-KS-0002"):
        await directory.add_facility(pool, TESTER, facility(code), NOW)
    principal_id = await holder(pool, PrincipalKind.VENDOR, "HY-KS-0003", "HY-KS-0001")
    await directory.grant(pool, TESTER, principal_id, "HY-KS-0002", NOW, scopes={Scope.DECLARE})
    principal = await principal_of(pool, principal_id)
    assert [each.code for each in facilities_within(principal, Scope.STATUS)] == ["HY-KS-0001", "HY-KS-0003"]


async def test_a_principal_is_a_department_exactly_when_one_is_named(pool: asyncpg.Pool) -> None:
    for kind, department in ((PrincipalKind.DEPARTMENT, None), (PrincipalKind.OWNER, Department.HEALTH)):
        with pytest.raises(Refused) as refused:
            await directory.add_principal(pool, TESTER, kind, "Mẫu", "Mẫu", NOW, department=department)
        assert violations(refused) == [("department_only", "/department")]
    principal = await principal_of(pool, await holder(pool, PrincipalKind.DEPARTMENT))
    assert principal.department is Department.HEALTH


# -- facilities and senders --------------------------------------------------------------------------------------------


async def test_a_facility_code_is_given_once(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    with pytest.raises(Refused, match="request_invalid") as refused:
        await directory.add_facility(pool, TESTER, facility(), NOW)
    assert violations(refused) == [("code_taken", "/code")]
    assert [each.code for each in await directory.list_facilities(pool)] == ["HY-KS-0001"]


async def test_a_new_facility_can_take_turns_at_once(database: Database, pool: asyncpg.Pool) -> None:
    added = await directory.add_facility(pool, TESTER, facility(), NOW)
    assert await directory.facility_by_code(pool, "HY-KS-0001") == added
    intake = await database.connect("asm_intake")
    assert await intake.fetchval("SELECT facility_id FROM facility_turns") == added.id


async def test_facilities_are_listed_by_code_a_page_at_a_time(pool: asyncpg.Pool) -> None:
    for code in ("HY-KS-0003", "HY-KS-0001", "HY-KS-0002"):
        await directory.add_facility(pool, TESTER, facility(code), NOW)
    first = await directory.list_facilities(pool, limit=2)
    assert [each.code for each in first] == ["HY-KS-0001", "HY-KS-0002"]
    assert [each.code for each in await directory.list_facilities(pool, first[-1].code)] == ["HY-KS-0003"]


def test_everything_wrong_with_a_new_facility_is_said_at_once() -> None:
    with pytest.raises(ValidationError) as error:
        NewFacility.model_validate_json(
            '{"code": "ks 1", "name": " ", "kind": "tent", "province": "999", "commune": "00004", "address": "x",'
            ' "authority": "x", "capacity": 0, "stars": 3}'
        )
    found = {each.pointer: each.code for each in from_validation(error.value)}
    assert found == {
        "/code": "wrong_format",
        "/name": "required",
        "/kind": "unknown_code",
        "/province": "unknown_code",
        "/capacity": "out_of_range",
        "/stars": "unknown_field",
    }


def test_a_commune_lies_in_its_province_and_housing_in_a_zone_names_it() -> None:
    with pytest.raises(ValidationError) as error:
        NewFacility.model_validate({**facility().model_dump(), "commune": "00004"})
    assert [(each.code, each.pointer) for each in from_validation(error.value)] == [("unknown_code", "/commune")]
    with pytest.raises(ValidationError) as error:
        NewFacility.model_validate({**facility().model_dump(), "kind": FacilityKind.INDUSTRIAL_ZONE_HOUSING})
    assert [(each.code, each.pointer) for each in from_validation(error.value)] == [("required", "/zone")]


async def test_an_unknown_sender_speaks_for_nobody_until_it_is_assigned(
    pool: asyncpg.Pool, gate: Gate, seconds: Seconds
) -> None:
    assert await gate.find_sender("HIS", "BV") is None
    assert await gate.find_sender("H" * 1000, "BV") is None
    assert await gate.find_sender("HIS\x00", "BV") is None
    added = await directory.add_facility(pool, TESTER, facility(), NOW)
    await directory.assign_sender(pool, TESTER, "HIS", "BV", added.code, NOW)
    seconds.passed += 2
    sender = await gate.find_sender("HIS", "BV")
    assert sender == Sender(added, HospitalProfile(), None)
    await pool.close()
    assert await gate.find_sender("HIS", "BV") == sender
    with pytest.raises(Refused, match="unavailable"):
        await gate.find_sender("HIS", "ANOTHER")


async def test_a_sender_speaks_for_one_facility_the_one_assigned_last(
    pool: asyncpg.Pool, gate: Gate, seconds: Seconds
) -> None:
    for code in ("HY-YT-0001", "HY-YT-0002"):
        await directory.add_facility(pool, TESTER, facility(code), NOW)
        await directory.assign_sender(pool, TESTER, "HIS", "BV", code, NOW)
    found = await gate.find_sender("HIS", "BV")
    assert found is not None
    assert found.facility.code == "HY-YT-0002"


async def test_how_a_senders_messages_are_read_is_kept_and_replaced_with_it(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    profile = HospitalProfile(("I", "NT"), "WINDOWS-1258", "LUUTRU")
    names = ("HIS", "BV", "HY-KS-0001", NOW)
    await directory.assign_sender(pool, TESTER, *names, profile=profile, certificate_sha256=b"c" * 32)
    [(application, name, sender)] = await directory.list_senders(pool)
    assert (application, name) == ("HIS", "BV")
    assert (sender.profile, sender.certificate_sha256) == (profile, b"c" * 32)
    await directory.assign_sender(pool, TESTER, *names)
    [(_, _, sender)] = await directory.list_senders(pool)
    assert (sender.profile, sender.certificate_sha256) == (HospitalProfile(), None)
    assert await directory.list_senders(pool, ("HIS", "BV")) == []


async def test_a_sender_without_a_name_is_refused(pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    for names in (("", "BV"), ("HIS", ""), ("HIS", "B" * 228), ("HIS\x00", "BV")):
        with pytest.raises(Refused) as refused:
            await directory.assign_sender(pool, TESTER, *names, "HY-KS-0001", NOW)
        assert violations(refused) == [("out_of_range", "/sender")]


# -- the audit ---------------------------------------------------------------------------------------------------------


async def test_every_change_is_audited_with_its_actor_and_no_secret(database: Database, pool: asyncpg.Pool) -> None:
    await directory.add_facility(pool, TESTER, facility(), NOW)
    principal_id = await holder(pool, PrincipalKind.OWNER, "HY-KS-0001")
    token = await directory.create_key(pool, TESTER, principal_id, NOW)
    await directory.assign_sender(pool, TESTER, "HIS", "BV", "HY-KS-0001", NOW)
    await directory.revoke_grant(pool, TESTER, principal_id, "HY-KS-0001", NOW)
    await directory.revoke_key(pool, TESTER, token.split("_")[1], NOW)
    entries = await audited(database)
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        (TESTER.name, "facility.add"),
        (TESTER.name, "principal.add"),
        (TESTER.name, "grant.give"),
        (TESTER.name, "key.create"),
        (TESTER.name, "sender.assign"),
        (TESTER.name, "grant.revoke"),
        (TESTER.name, "key.revoke"),
    ]


async def test_a_change_that_cannot_be_audited_is_not_made(database: Database, pool: asyncpg.Pool) -> None:
    superuser = await database.connect()
    await superuser.execute("REVOKE INSERT ON audit_pending FROM asm_auth")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await directory.add_facility(pool, TESTER, facility(), NOW)
    assert await superuser.fetchval("SELECT count(*) FROM facilities") == 0


async def test_a_refused_change_leaves_nothing_in_the_audit(database: Database, pool: asyncpg.Pool) -> None:
    with pytest.raises(Refused):
        await directory.create_key(pool, TESTER, uuid7(), NOW)
    assert not await directory.revoke_key(pool, TESTER, "0123456789abcdef", NOW)
    assert await audited(database) == []


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_refusal_that_cannot_be_recorded_is_recorded_with_the_next(
    database: Database, pool: asyncpg.Pool, gate: Gate
) -> None:
    root = await database.connect()
    who = Principal(uuid7(), PrincipalKind.OWNER, "Mẫu", "Khách sạn Mẫu", None, {})
    await root.execute("ALTER TABLE audit_pending RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await gate.record_refusal(who, "GET /metrics", NOW)
    await root.execute("ALTER TABLE away RENAME TO audit_pending")
    await gate.record_refusal(who, "GET /metrics", NOW)
    assert [entry["details"] for entry in await audited(database)] == [{"route": "GET /metrics", "times": 2}]


async def test_who_tries_a_route_in_a_loop_fills_the_audit_with_one_entry_a_minute(
    database: Database, pool: asyncpg.Pool, gate: Gate, seconds: Seconds
) -> None:
    first, second = [Principal(uuid7(), PrincipalKind.OWNER, "Mẫu", "Khách sạn Mẫu", None, {}) for _ in range(2)]
    for _ in range(50):
        await gate.record_refusal(first, "GET /metrics", NOW)
    await gate.record_refusal(first, "GET /v1/admin/sync", NOW)
    await gate.record_refusal(second, "GET /metrics", NOW)
    seconds.passed += directory.REFUSALS_EVERY_SECONDS
    await gate.record_refusal(first, "GET /metrics", NOW)
    assert [(entry["actor"], entry["action"], entry["details"]) for entry in await audited(database)] == [
        (str(first.id), "access.refuse", {"route": "GET /metrics", "times": 1}),
        (str(first.id), "access.refuse", {"route": "GET /v1/admin/sync", "times": 1}),
        (str(second.id), "access.refuse", {"route": "GET /metrics", "times": 1}),
        (str(first.id), "access.refuse", {"route": "GET /metrics", "times": 50}),
    ]
