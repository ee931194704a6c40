"""Sessions of software that cannot show a key: how long they last, and what the gate remembers of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from asm_daemon import directory
from asm_daemon.directory import Gate, Tokens
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.problems import Refused
from tests.conftest import Database
from tests.stack import TESTER, FacilityMaker, Pools
from tests.test_directory import Seconds, holder

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


@pytest.fixture
async def pool(pools: Pools) -> asyncpg.Pool:
    return await pools.get("asm_auth")


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def gate(pool: asyncpg.Pool, seconds: Seconds) -> Gate:
    return Gate(pool, 30, seconds)


async def new_session(pool: asyncpg.Pool, facility: Facility, *, valid_days: int = 30) -> tuple[str, Tokens]:
    """The id of a new key, and the tokens of a session opened with it."""
    principal = await holder(pool, PrincipalKind.OWNER, facility.code)
    key = await directory.create_key(pool, TESTER, principal, NOW, valid_days=valid_days)
    key_id = key.split("_")[1]
    return key_id, await directory.open_session(pool, key_id, facility, NOW)


async def refusal(gate: Gate, token: str, now: datetime = NOW) -> str | None:
    try:
        await gate.authenticate_session(token, now)
    except Refused as refused:
        return refused.code
    return None


@pytest.mark.parametrize("token", ["", "x", "0" * 63, "0" * 65, "G" * 64, "Ａ" * 64, "0" * 64])
async def test_a_token_that_was_not_given_out_opens_nothing(gate: Gate, token: str) -> None:
    assert await refusal(gate, token) == "unauthenticated"


async def test_a_session_does_not_outlast_its_key(pool: asyncpg.Pool, gate: Gate, facility: Facility) -> None:
    _, tokens = await new_session(pool, facility, valid_days=1)
    almost = NOW + timedelta(days=1, minutes=-30)
    tokens = await directory.renew_session(pool, tokens.refresh, almost)
    assert await refusal(gate, tokens.access, almost) is None
    assert await refusal(gate, tokens.access, NOW + timedelta(days=1)) == "unauthenticated"


async def test_a_closed_session_stops_when_the_gate_has_forgotten_it(
    pool: asyncpg.Pool, gate: Gate, seconds: Seconds, facility: Facility
) -> None:
    _, tokens = await new_session(pool, facility)
    assert await refusal(gate, tokens.access) is None
    await directory.close_session(pool, tokens.access)
    assert await refusal(gate, tokens.access) is None
    seconds.passed += 31
    assert await refusal(gate, tokens.access) == "unauthenticated"


async def test_a_renewal_that_is_asked_for_twice_at_once_is_given_once(
    pool: asyncpg.Pool, facility: Facility, database: Database
) -> None:
    _, tokens = await new_session(pool, facility)
    await directory.renew_session(pool, tokens.refresh, NOW)
    with pytest.raises(Refused) as refused:
        await directory.renew_session(pool, tokens.refresh, NOW)
    assert refused.value.code == "unauthenticated"
    connection = await database.connect()
    assert await connection.fetchval("SELECT count(*) FROM portal_sessions") == 1


async def test_an_unreachable_database_is_unavailable_and_not_a_wrong_token(
    pool: asyncpg.Pool, gate: Gate, facility: Facility, database: Database
) -> None:
    _, tokens = await new_session(pool, facility)
    connection = await database.connect()
    await connection.execute("ALTER TABLE portal_sessions RENAME TO elsewhere")
    assert await refusal(gate, tokens.access) == "unavailable"


async def test_a_session_names_its_principal_and_one_facility(
    pool: asyncpg.Pool, gate: Gate, make_facility: FacilityMaker
) -> None:
    here = await make_facility("HY-KS-0001")
    await make_facility("HY-KS-0002")
    key_id, tokens = await new_session(pool, here)
    principal, code = await gate.authenticate_session(tokens.access, NOW)
    assert (principal.kind, code) == (PrincipalKind.OWNER, "HY-KS-0001")
    assert tokens.expires_at == NOW + timedelta(hours=1)
    assert key_id not in tokens.access
    assert tokens.access not in repr(tokens)
