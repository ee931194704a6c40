"""The simulator as its senders meet it, on its own database: what takes effect, once, and in order."""

from __future__ import annotations

import asyncio
import io
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
import pytest

from connectors.population.client import PopulationClient
from connectors.population.simulator import migrate, seed, serve
from connectors.population.simulator_store import is_revoked
from schemas.codes import FacilityKind
from schemas.population import (
    IdRange,
    ItemStatus,
    Outcome,
    PopulationFacility,
    PopulationGuest,
    PopulationItem,
    PopulationResult,
    Unreachable,
    Verification,
    canonical,
    digest,
    range_digest,
)
from schemas.synthetic import person
from tests.conftest import Database
from tests.population.conftest import CREDENTIALS, PERSONS, Simulator, running, serving_from, speaking_to
from tests.population.items import guest, item, stay_id

NO_VIOLATION = {"repeated": 0, "out_of_order": 0, "revived": 0, "moved": 0, "unerased": 0, "unrecorded": 0}


async def send_one(client: PopulationClient, one: PopulationItem) -> PopulationResult:
    """The result of a batch of one."""
    return (await client.send([one])).results[one.stay_id]


async def access_token(simulator: Simulator) -> str:
    basic = aiohttp.encode_basic_auth(CREDENTIALS.client_id, "client%20secret%3A%20~%25")
    async with simulator.session.post(
        f"{simulator.url}/oauth2/token", data={"grant_type": "client_credentials"}, headers={"Authorization": basic}
    ) as response:
        token: str = (await response.json())["access_token"]
        return token


async def post(simulator: Simulator, path: str, body: bytes, media_type: str = "application/json") -> tuple[int, Any]:
    """Status and JSON of a raw request with a valid token."""
    headers = {"Authorization": f"Bearer {await access_token(simulator)}", "Content-Type": media_type}
    # As a stream, since aiohttp warns of large bytes.
    async with simulator.session.post(f"{simulator.url}/v1/{path}", data=io.BytesIO(body), headers=headers) as response:
        return response.status, await response.json(content_type=None)


def batch_of(items: Sequence[Any]) -> bytes:
    return orjson.dumps({"items": items})


def as_json(one: PopulationItem, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(canonical(one))
    return content | changes


# -- requests that are refused as a whole ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed"),
        (b'{"items":[', 400, "malformed"),
        (b"[" * 1_000_000, 400, "malformed"),
        (b"[]", 422, "invalid_request"),
        (b'{"items":[]}', 422, "invalid_request"),
        (b'{"items":[],"dry_run":true}', 422, "invalid_request"),
        (batch_of([{}] * 501), 422, "too_many_items"),
        (batch_of([None]), 422, "unidentifiable_item"),
        (batch_of([{"stay_id": "x", "version": 1}]), 422, "unidentifiable_item"),
        (batch_of([{"stay_id": str(stay_id(1)), "version": True}]), 422, "unidentifiable_item"),
        (batch_of([as_json(item()), as_json(item(version=2))]), 422, "repeated_stay"),
        (b" " * (2 * 1024 * 1024 + 1), 413, "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_broken_request_is_refused_as_a_whole_and_counted(
    simulator: Simulator, body: bytes, status: int, code: str
) -> None:
    answered, problem = await post(simulator, "stays:batch", body)
    assert (answered, problem["code"]) == (status, code)
    assert (await simulator.violations())["sender"] == {code: 1}
    assert await simulator.effects() == []


async def test_only_json_is_read(simulator: Simulator) -> None:
    status, problem = await post(simulator, "stays:batch", batch_of([as_json(item())]), "text/plain")
    assert (status, problem["code"]) == (415, "json_wanted")


async def test_an_operation_that_the_contract_does_not_know_is_refused(simulator: Simulator) -> None:
    status, problem = await post(simulator, "persons:search", b"{}")
    assert (status, problem["code"]) == (404, "no_such_operation")


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Basic YXNtOng=", "Bearer " + "é"])
@pytest.mark.parametrize(("method", "path"), [("POST", "v1/stays:batch"), ("POST", "v1/stays:status")])
async def test_without_a_live_token_nothing_is_answered(
    simulator: Simulator, method: str, path: str, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    async with simulator.session.request(method, f"{simulator.url}/{path}", headers=headers) as response:
        assert response.status == 401


@pytest.mark.parametrize("path", ["faults", "violations", f"stays/{stay_id(1)}", "mode"])
async def test_an_access_token_does_not_open_the_admin_operations(simulator: Simulator, path: str) -> None:
    headers = {"Authorization": f"Bearer {await access_token(simulator)}"}
    async with simulator.session.get(f"{simulator.url}/admin/{path}", headers=headers) as response:
        assert response.status == 401


@pytest.mark.parametrize(
    ("authorization", "form", "status", "error"),
    [
        ("", {"grant_type": "client_credentials"}, 401, "invalid_client"),
        ("Basic !", {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (aiohttp.encode_basic_auth("asm", "wrong"), {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (
            aiohttp.encode_basic_auth("other", "client%20secret%3A%20~%25"),
            {"grant_type": "client_credentials"},
            401,
            "invalid_client",
        ),
        (
            aiohttp.encode_basic_auth("asm", "client%20secret%3A%20~%25"),
            {"grant_type": "password"},
            400,
            "unsupported_grant_type",
        ),
    ],
)
async def test_a_token_is_only_for_the_client_that_proves_itself(
    simulator: Simulator, authorization: str, form: dict[str, str], status: int, error: str
) -> None:
    headers = {"Authorization": authorization}
    async with simulator.session.post(f"{simulator.url}/oauth2/token", data=form, headers=headers) as response:
        assert (response.status, (await response.json())["error"]) == (status, error)


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "admin_token"])
def test_the_simulator_does_not_start_with_an_empty_secret(missing: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        replace(CREDENTIALS, **{missing: ""})  # type: ignore[arg-type]  # the names are those of text fields


# -- items that are refused alone --------------------------------------------------------------------------------------


async def test_an_item_that_breaks_the_contract_holds_up_no_other(simulator: Simulator) -> None:
    with_phone = as_json(item(2))
    with_phone["guest"]["phone"] = "0000000001"
    items = [
        as_json(item(1)),
        with_phone,
        as_json(item(3), arrived_at="yesterday"),
        as_json(item(4), facility="TOO BIG"),
        as_json(item(5)),
    ]
    body = batch_of(items).replace(b'"TOO BIG"', b"9" * 30)  # a number that is read, and cannot be written again
    status, answer = await post(simulator, "stays:batch", body)
    assert status == 200
    assert [(row["outcome"], row["code"], row["verification"]) for row in answer["results"]] == [
        ("accepted", None, "matched"),
        ("refused", "unknown_field", "not_checked"),
        ("refused", "invalid_item", "not_checked"),
        ("refused", "invalid_item", "not_checked"),
        ("accepted", None, "matched"),
    ]
    assert [row["stay_id"] for row in answer["results"]] == [str(stay_id(number)) for number in range(1, 6)]
    assert (await simulator.violations())["sender"] == {"invalid_item": 2, "unknown_field": 1}


async def test_the_same_version_with_other_content_is_a_conflict_and_changes_nothing(
    simulator: Simulator, client: PopulationClient
) -> None:
    await send_one(client, item())
    conflict = await send_one(client, item(guest=guest(21)))
    assert (conflict.outcome, conflict.code) == (Outcome.REFUSED, "version_conflict")
    assert conflict.verification is Verification.NOT_CHECKED
    assert (await client.status([stay_id(1)]))[stay_id(1)].digest == digest(item())
    assert (await simulator.violations())["sender"] == {"version_conflict": 1}


async def test_a_stay_does_not_move_to_another_facility(simulator: Simulator, client: PopulationClient) -> None:
    await send_one(client, item())
    elsewhere = PopulationFacility(code="HY-NT-0002", kind=FacilityKind.BOARDING_HOUSE, commune="12103")
    moved = await send_one(client, item(version=2, facility=elsewhere))
    assert (moved.outcome, moved.code) == (Outcome.REFUSED, "facility_changed")
    assert await simulator.effects() == [(str(stay_id(1)), 1)]


async def test_a_cancelled_stay_never_comes_back(simulator: Simulator, client: PopulationClient) -> None:
    await send_one(client, item())
    assert (await send_one(client, item(version=2, status=ItemStatus.CANCELLED))).outcome is Outcome.ACCEPTED
    back = await send_one(client, item(version=3))
    assert (back.outcome, back.code) == (Outcome.REFUSED, "stay_cancelled")
    assert (await send_one(client, item(version=4, status=ItemStatus.CANCELLED))).outcome is Outcome.ACCEPTED
    assert await simulator.admin("GET", f"stays/{stay_id(1)}") == {"version": 4, "status": "cancelled"}


# -- what takes effect -------------------------------------------------------------------------------------------------


async def test_a_version_takes_effect_once_however_often_it_is_sent(
    simulator: Simulator, client: PopulationClient
) -> None:
    first = await send_one(client, item())
    again = await send_one(client, item())
    assert (first.outcome, again.outcome) == (Outcome.ACCEPTED, Outcome.DUPLICATE)
    assert first.verification is again.verification is Verification.MATCHED
    assert await simulator.effects() == [(str(stay_id(1)), 1)]


async def test_an_older_version_is_stale_and_changes_nothing(simulator: Simulator, client: PopulationClient) -> None:
    assert (await send_one(client, item(version=3))).outcome is Outcome.ACCEPTED
    stale = await send_one(client, item(version=2, guest=guest(21)))
    assert (stale.outcome, stale.code, stale.verification) == (Outcome.STALE, None, Verification.NOT_CHECKED)
    assert await simulator.effects() == [(str(stay_id(1)), 3)]
    assert (await simulator.violations())["sender"] == {}


async def test_a_stay_may_leave_and_return_by_newer_versions(client: PopulationClient) -> None:
    for version, status in enumerate((ItemStatus.DECLARED, ItemStatus.DEPARTED, ItemStatus.DECLARED), start=1):
        assert (await send_one(client, item(version=version, status=status))).outcome is Outcome.ACCEPTED


async def test_a_tombstone_keeps_nothing_of_the_guest(simulator: Simulator, client: PopulationClient) -> None:
    await send_one(client, item())
    cancelled = await send_one(client, item(version=2, status=ItemStatus.CANCELLED))
    assert cancelled.verification is Verification.NOT_CHECKED
    kept = await simulator.pool.fetchval("SELECT item FROM stays WHERE stay_id = $1", stay_id(1))
    assert orjson.loads(kept)["guest"] is None


async def test_the_status_tells_version_digest_and_verification_in_one_request(client: PopulationClient) -> None:
    await client.send([item(1), item(2, version=7, guest=guest(0))])
    states = await client.status([stay_id(1), stay_id(2), stay_id(3)])
    assert (states[stay_id(1)].version, states[stay_id(1)].verification) == (1, Verification.MATCHED)
    assert states[stay_id(2)].digest == digest(item(2, version=7, guest=guest(0)))
    assert states[stay_id(2)].verification is Verification.DOCUMENT_REVOKED
    assert (states[stay_id(3)].version, states[stay_id(3)].digest, states[stay_id(3)].verification) == (None,) * 3


async def test_what_took_effect_survives_a_restart(population_pool: asyncpg.Pool) -> None:
    async with serving_from(population_pool) as simulator, speaking_to(simulator.url) as client:
        await client.send([item(1), item(2)])
        await client.send([item(2, guest=guest(21))])
    async with serving_from(population_pool) as simulator, speaking_to(simulator.url) as client:
        assert (await send_one(client, item(1))).outcome is Outcome.DUPLICATE
        assert (await simulator.violations())["sender"] == {"version_conflict": 1}


# -- verification ------------------------------------------------------------------------------------------------------

BORN = person(20).birth_date


@pytest.mark.parametrize(
    ("checked", "verification"),
    [
        (guest(20), Verification.MATCHED),
        (guest(20, full_name="Hung  tran minh"), Verification.MATCHED),
        (guest(20, birth_date=BORN[:7]), Verification.MATCHED),
        (guest(20, birth_date=BORN[:4]), Verification.MATCHED),
        (guest(20, document_type=8), Verification.MATCHED),
        (guest(9), Verification.MATCHED),
        (guest(20, birth_date="1990-10-25"), Verification.MISMATCH),
        (guest(20, birth_date="1991"), Verification.MISMATCH),
        (guest(20, full_name="TRẦN MINH"), Verification.MISMATCH),
        (guest(21, document_number=person(20).document_number), Verification.MISMATCH),
        (guest(20, document_number="000090999999"), Verification.UNKNOWN),
        (guest(20, document_number="---"), Verification.UNKNOWN),
        (guest(PERSONS), Verification.UNKNOWN),
        (guest(0), Verification.DOCUMENT_REVOKED),
        (guest(997), Verification.DOCUMENT_REVOKED),
        (guest(0, full_name="NGƯỜI KHÁC"), Verification.DOCUMENT_REVOKED),
        (guest(20, document_type=3), Verification.NOT_CHECKED),
        (guest(20, document_type=5), Verification.NOT_CHECKED),
        (guest(20, document=None), Verification.NOT_CHECKED),
        (guest(0, document=None), Verification.NOT_CHECKED),
    ],
)
async def test_a_guest_is_checked_by_document_then_name_and_birth_date(
    client: PopulationClient, checked: PopulationGuest, verification: Verification
) -> None:
    assert (await send_one(client, item(guest=checked))).verification is verification


async def test_names_are_compared_without_marks_and_with_every_d_alike(
    simulator: Simulator, client: PopulationClient
) -> None:
    dao = next(index for index in range(1, 900) if person(index).full_name.startswith("Đ"))
    plain = person(dao).full_name.replace("Đ", "Ð")  # Icelandic eth, as some keyboards give it
    assert (await send_one(client, item(guest=guest(dao, full_name=plain)))).verification is Verification.MATCHED


# -- several at once ---------------------------------------------------------------------------------------------------


async def test_of_equal_batches_at_once_each_version_takes_effect_once(
    simulator: Simulator, client: PopulationClient
) -> None:
    items = [item(number) for number in range(1, 51)]
    answers = await asyncio.gather(*(client.send(random.sample(items, len(items))) for _ in range(8)))
    outcomes = Counter(result.outcome for answer in answers for result in answer.results.values())
    assert outcomes == {Outcome.ACCEPTED: 50, Outcome.DUPLICATE: 350}
    assert len(await simulator.effects()) == 50


async def test_batches_at_once_with_the_same_stays_never_take_effect_out_of_order(
    simulator: Simulator, client: PopulationClient
) -> None:
    dice = random.Random(7)  # noqa: S311 - repeatable
    batches = [[item(number, version) for number in dice.sample(range(1, 41), 40)] for version in range(1, 13)]
    dice.shuffle(batches)
    answers = await asyncio.gather(*map(client.send, batches))
    assert all(not answer.unanswered for answer in answers)
    assert {result.outcome for answer in answers for result in answer.results.values()} <= {
        Outcome.ACCEPTED,
        Outcome.STALE,
    }
    states = await client.status([stay_id(number) for number in range(1, 41)])
    assert {state.version for state in states.values()} == {12}
    effects = Counter(await simulator.effects())
    accepted = sum(result.outcome is Outcome.ACCEPTED for answer in answers for result in answer.results.values())
    assert max(effects.values()) == 1
    assert len(effects) == accepted
    found = await simulator.violations()
    assert found == {"sender": {}, "effects": {"recorded": accepted} | NO_VIOLATION}


async def test_a_batch_waits_for_another_that_holds_one_of_its_stays(
    simulator: Simulator, client: PopulationClient
) -> None:
    await client.send([item(1)])
    async with simulator.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE stays SET version = 5 WHERE stay_id = $1", stay_id(1))
        sending = asyncio.create_task(client.send([item(1, version=3)]))
        async with asyncio.timeout(5):
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.005)
        await transaction.commit()
    assert (await sending).results[stay_id(1)].outcome is Outcome.STALE


# -- comparing ---------------------------------------------------------------------------------------------------------


FIRST, LAST = str(UUID(int=0)), str(UUID(int=2**128 - 1))


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("stays:digests", [], 422, "invalid_request"),
        ("stays:digests", {"ranges": []}, 422, "invalid_request"),
        ("stays:digests", {"ranges": [{"start": FIRST, "end": LAST}] * 2}, 422, "invalid_request"),
        ("stays:digests", {"ranges": [{"start": LAST, "end": FIRST}]}, 422, "invalid_request"),
        ("stays:digests", {"ranges": [{"start": FIRST, "end": FIRST}]}, 422, "invalid_request"),
        ("stays:digests", {"ranges": [{"start": FIRST, "end": LAST, "facility": "X"}]}, 422, "invalid_request"),
        ("stays:digests", {"ranges": [{"start": FIRST, "end": LAST}] * 501}, 422, "too_many_items"),
        ("stays:held", {"start": FIRST}, 422, "invalid_request"),
        ("stays:held", {"start": FIRST, "end": LAST, "guest": "x"}, 422, "invalid_request"),
        ("stays:held?start=x", {"start": FIRST, "end": LAST}, 400, "query_in_url"),
        ("stays:status?stay=x", {"stay_ids": [FIRST]}, 400, "query_in_url"),
        ("stays:batch?name=x", {"items": [1]}, 400, "query_in_url"),
    ],
)
async def test_a_question_that_is_not_in_the_contract_is_refused_and_counted(
    simulator: Simulator, path: str, content: Any, status: int, code: str
) -> None:
    answered, problem = await post(simulator, path, orjson.dumps(content))
    assert (answered, problem["code"]) == (status, code)
    assert (await simulator.violations())["sender"] == {code: 1}


async def test_ranges_are_half_open_and_answered_in_the_order_asked(
    simulator: Simulator, client: PopulationClient
) -> None:
    items = [item(number) for number in range(1, 6)]
    await client.send(items)
    bounds = [stay_id(0), stay_id(1), stay_id(3), stay_id(5), stay_id(100)]
    ranges = [IdRange(start=start, end=end) for start, end in pairwise(bounds)]
    told = await client.digests(ranges)
    assert [told[one].stays for one in ranges] == [0, 2, 2, 1]
    wanted = [[], items[0:2], items[2:4], items[4:]]
    assert [told[one].digest for one in ranges] == [range_digest(map(digest, part)) for part in wanted]
    page = await client.held(ranges[1])
    assert page.complete
    assert [(row.stay_id, row.version, row.digest) for row in page.results] == [
        (one.stay_id, one.version, digest(one)) for one in items[0:2]
    ]


async def test_a_range_digest_tells_two_orders_and_a_doubled_stay_apart() -> None:
    one, two = digest(item(1)), digest(item(2))
    told = {range_digest(part) for part in ([], [one], [one, one], [one, two], [two, one], [one, one, two])}
    assert len(told) == 6


async def test_of_a_range_that_is_too_large_no_digest_is_told_and_it_is_listed_in_pages(
    simulator: Simulator, client: PopulationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in (1, 401, 801):
        await client.send([item(number) for number in range(first, first + 400)])
    everything = IdRange(start=UUID(FIRST), end=UUID(LAST))
    monkeypatch.setattr("connectors.population.simulator_store.DIGEST_LIMIT", 1_200)
    assert (await client.digests([everything]))[everything].stays == 1_200
    monkeypatch.setattr("connectors.population.simulator_store.DIGEST_LIMIT", 1_199)
    told = (await client.digests([everything]))[everything]
    assert (told.stays, told.digest) == (None, None)
    listed: list[UUID] = []
    start, complete = everything.start, False
    while not complete:
        page = await client.held(IdRange(start=start, end=everything.end))
        listed += [row.stay_id for row in page.results]
        start, complete = UUID(int=listed[-1].int + 1), page.complete
    assert listed == [stay_id(number) for number in range(1, 1_201)]


async def test_in_discard_mode_nothing_can_be_compared(simulator: Simulator, client: PopulationClient) -> None:
    await simulator.admin("PUT", "mode", {"discard": True})
    everything = IdRange(start=UUID(FIRST), end=UUID(LAST))
    for question in (client.digests([everything]), client.held(everything)):
        with pytest.raises(Unreachable, match="request_refused_discarding"):
            await question
    assert (await simulator.violations())["sender"] == {}


# -- reports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("INSERT INTO effects (stay_id, version, status, digest) SELECT stay_id, version, status, digest FROM effects",
         {"repeated": 1}),
        ("INSERT INTO effects (stay_id, version, status, digest) SELECT stay_id, 1, status, digest FROM effects",
         {"out_of_order": 1, "unrecorded": 1}),
        ("UPDATE stays SET version = 3", {"unrecorded": 1}),
        ("DELETE FROM stays", {"unrecorded": 1}),
        ("UPDATE stays SET item = item || ' '", {"unrecorded": 1}),
        ("UPDATE effects SET status = 'cancelled'; INSERT INTO effects (stay_id, version, status, digest)"
         " SELECT stay_id, version, status, digest FROM stays", {"repeated": 1, "revived": 1}),
        ("UPDATE effects SET facility_code = 'X'; INSERT INTO effects (stay_id, version, status, digest, facility_code)"
         " SELECT stay_id, version, status, digest, facility_code FROM stays", {"repeated": 1, "moved": 1}),
        ("UPDATE stays SET status = 'cancelled'", {"unerased": 1}),
    ],
)  # fmt: skip
async def test_an_effect_that_went_wrong_would_be_reported(
    simulator: Simulator, client: PopulationClient, tampering: str, found: dict[str, int]
) -> None:
    await client.send([item(version=2)])
    await simulator.pool.execute(tampering)
    effects = (await simulator.violations())["effects"]
    effects.pop("recorded")
    assert effects == NO_VIOLATION | found


async def test_an_operator_sees_of_a_stay_its_version_and_status_only(
    simulator: Simulator, client: PopulationClient
) -> None:
    await client.send([item(version=2, status=ItemStatus.DEPARTED)])
    assert await simulator.admin("GET", f"stays/{stay_id(1)}") == {"version": 2, "status": "departed"}
    for unknown in (stay_id(2), "x"):
        with pytest.raises(AssertionError, match="no_such_stay"):
            await simulator.admin("GET", f"stays/{unknown}")


async def test_in_discard_mode_everything_is_accepted_and_nothing_kept(
    simulator: Simulator, client: PopulationClient
) -> None:
    await simulator.admin("PUT", "mode", {"discard": True})
    answer = await client.send([item(number) for number in range(1, 501)])
    assert {(result.outcome, result.verification) for result in answer.results.values()} == {
        (Outcome.ACCEPTED, Verification.NOT_CHECKED)
    }
    assert not answer.unanswered
    assert await simulator.pool.fetchval("SELECT count(*) FROM stays") == 0
    await simulator.admin("PUT", "mode", {"discard": False})
    assert (await send_one(client, item())).verification is Verification.MATCHED


async def test_a_failure_inside_is_answered_and_logged_without_a_word_about_the_guest(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    await migrate(url)
    async with running(url) as simulator:
        await simulator.pool.execute("ALTER TABLE stays ADD CHECK (facility_code <> 'HY-KS-0001')")
        with caplog.at_level(logging.DEBUG):
            status, problem = await post(simulator, "stays:batch", batch_of([as_json(item())]))
    assert (status, problem["code"]) == (500, "internal_error")
    assert "CheckViolationError" in caplog.text
    assert "HÙNG" not in caplog.text
    assert person(20).document_number not in caplog.text


# -- life of the service -----------------------------------------------------------------------------------------------


async def test_it_serves_from_an_empty_database_until_it_is_cancelled(empty_database: Database) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(
            url,
            "127.0.0.1",
            0,
            client_id=CREDENTIALS.client_id,
            client_secret=CREDENTIALS.client_secret,
            admin_token=CREDENTIALS.admin_token,
            ready=port.set_result,
        )
    )
    try:
        async with asyncio.timeout(10):
            base = f"http://127.0.0.1:{await port}"
        async with aiohttp.ClientSession() as session, session.get(f"{base}/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        async with speaking_to(base) as client:
            assert (await send_one(client, item())).verification is Verification.UNKNOWN
    finally:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


async def test_without_its_database_the_simulator_says_that_it_is_not_well(seeded_database: str) -> None:
    async with running(seeded_database) as simulator:
        await simulator.pool.close()
        async with simulator.session.get(f"{simulator.url}/healthz") as response:
            assert response.status == 503


async def test_several_processes_may_create_the_tables_at_once(empty_database: Database) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    await asyncio.gather(*(migrate(url) for _ in range(6)))
    await migrate(url)


async def test_seeding_goes_on_where_it_was_stopped(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.population.simulator_store.SEED_CHUNK", 400)
    url = empty_database.url.replace("{role}", "postgres")
    progress: list[int] = []
    first = await seed(url, 1_000, progress.append)
    assert (first.added, first.total, progress) == (1_000, 1_000, [400, 800, 1_000])
    assert first.persons_per_second > 0
    both = await asyncio.gather(seed(url, 1_500), seed(url, 1_500))
    assert sorted(seeding.added for seeding in both) == [0, 500]
    less = await seed(url, 10)
    assert (less.added, less.total, less.persons_per_second) == (0, 1_500, 0.0)
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM persons") == 1_500
        revoked = [person(index).document_number for index in range(1_500) if is_revoked(index)]
        assert [row[0] for row in await connection.fetch("SELECT * FROM revoked_documents ORDER BY 1")] == sorted(
            revoked
        )
        assert len(revoked) == 2
    finally:
        await connection.close()


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
async def test_a_population_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="number of persons"):
        await seed("postgresql://nowhere", count)
