"""The composition root: what is built is what runs, it ends without losing anything, and it does not limp on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from asm_daemon import compare, directory, sync
from asm_daemon.crypto import epoch_at, epoch_bounds
from asm_daemon.daemon import (
    OPERATOR_CONNECTIONS,
    Daemon,
    NoSuchConnector,
    Ports,
    TaskEnded,
    due_days,
    job_table,
    load_population,
    open_daemon,
    run,
)
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.settings import Settings, load_settings
from asm_daemon.store import pool as pool_module
from asm_daemon.store import stays as stays_store
from connectors.population import simulator
from tests.certificates import Authority
from tests.population.ledger import LEDGERS
from tests.silence import silent
from tests.stack import TESTER, Clock, FacilityMaker, declaration
from tests.webhook_receiver import receiving

CLIENT, SECRET, ADMIN = "asm-test", "test-secret", "test-admin"
Running = Callable[[], Any]


@dataclass(frozen=True)
class Site:
    """A running daemon, its base URL, an owner's key for one facility, and the event that stops it."""

    daemon: Daemon
    url: str
    key: str
    facility: Facility
    stop: asyncio.Event
    task: asyncio.Task[None]
    database: Any
    mllp: int

    async def declare(self, session: aiohttp.ClientSession, index: int) -> int:
        """The status of a declaration."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with session.post(f"{self.url}/v1/stays", json=declaration(index), headers=headers) as answer:
            await answer.read()
            return answer.status


@pytest.fixture
async def population(empty_database: Any) -> AsyncIterator[str]:
    """The URL of a running population simulator."""
    url = empty_database.url.replace("{role}", "postgres")
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        simulator.serve(
            url, "127.0.0.1", 0, client_id=CLIENT, client_secret=SECRET, admin_token=ADMIN, ready=ready.set_result
        )
    )
    yield f"http://127.0.0.1:{await ready}"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def settings(database: Any, population: str, tmp_path: Path) -> Settings:
    now = datetime.now(UTC)
    create_store(tmp_path / "keys", [epoch_at(now)], now)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    return load_settings(
        {
            "ASM_ENVIRONMENT": "trial",
            "ASM_DEPLOYMENT": "asm.test.example",
            "ASM_DATABASE_URL": database.url,
            "ASM_KEY_STORE": str(tmp_path / "keys"),
            "ASM_LISTEN": "127.0.0.1:0",
            "ASM_PUBLIC_URL": "http://127.0.0.1",
            "ASM_MLLP_LISTEN": "127.0.0.1:0",
            "ASM_POPULATION_URL": population,
            "ASM_POPULATION_CLIENT_ID": CLIENT,
            "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret),
            "ASM_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "ASM_SHUTDOWN_SECONDS": "20",
        }
    )


@pytest.fixture
async def start(settings: Settings, make_facility: FacilityMaker, database: Any) -> AsyncIterator[Running]:
    """`await start()` runs a daemon; it is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start_one() -> Site:
            return await stack.enter_async_context(_site(settings, make_facility, database))

        yield start_one


@asynccontextmanager
async def _site(settings: Settings, make_facility: FacilityMaker, database: Any) -> AsyncIterator[Site]:
    async with open_daemon(settings) as daemon:
        facility = await make_facility()
        pool, now = daemon.pools["asm_auth"], daemon.now()
        owner = await directory.add_principal(pool, TESTER, PrincipalKind.OWNER, "Chủ Mẫu", "Khách sạn Mẫu", now)
        await directory.grant(pool, TESTER, owner, facility.code, now)
        key = await directory.create_key(pool, TESTER, owner, now, valid_days=1)
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run(daemon, stop, ready.set_result))
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        ports: Ports = ready.result()
        yield Site(daemon, f"http://127.0.0.1:{ports.http}", key, facility, stop, task, database, ports.mllp or 0)
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def _until(condition: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_task_that_ends_takes_the_daemon_down(start: Running) -> None:
    site = await start()
    await site.daemon.intake.close()  # its task returns, as no task of a running daemon may
    with pytest.raises(ExceptionGroup) as ended:
        await site.task
    assert ended.group_contains(TaskEnded, match="intake")


async def test_a_running_daemon_tells_an_owner_of_a_late_declaration(
    start: Running,
) -> None:
    site = await start()
    async with (
        receiving() as receiver,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {site.key}"}) as session,
    ):
        async with session.post(f"{site.url}/v1/webhooks", json={"url": receiver.url}) as answer:
            made = await answer.json()
        late = declaration(1, arrived_at=(datetime.now(UTC) - timedelta(days=3)).isoformat())
        async with session.post(f"{site.url}/v1/stays", json=late) as answer:
            stay_id = (await answer.json())["stay_id"]

        async def told() -> bool:
            return any(each.json["type"] == "stay.declared_late" for each in receiver.messages)

        await _until(told)
        async with session.get(f"{site.url}/v1/events") as answer:
            pulled = next(each for each in (await answer.json())["events"] if each["type"] == "stay.declared_late")
    message = next(each for each in receiver.messages if each.json["id"] == pulled["id"])
    assert message.signed_by(made["secret"])
    assert message.json == pulled
    assert pulled["data"]["stay_id"] == stay_id


async def test_what_is_declared_is_carried_to_the_population_database(start: Running) -> None:
    site = await start()
    async with aiohttp.ClientSession() as session:
        assert await site.declare(session, 1) == 201

    async def confirmed() -> bool:
        state = await sync.conservation(site.daemon.pools["asm_sync"])
        return state.confirmed == state.stays == 1

    await _until(confirmed)


async def test_both_sides_are_compared_by_the_clock_unless_that_is_turned_off(
    settings: Settings, make_facility: FacilityMaker
) -> None:
    for hours, expected in ((0, {}), (24, {"ranges": 1}), (24, {})):
        async with open_daemon(settings.model_copy(update={"compare_hours": hours})) as daemon:
            [job] = [job for job in job_table(daemon) if job.name == "compare"]
            assert not job.everywhere
            assert {name: count for name, count in (await job.once()).items() if count} == expected


async def test_a_night_is_verified_once_and_tried_again_until_it_is(
    settings: Settings, make_facility: FacilityMaker, database: Any, clock: Clock
) -> None:
    await make_facility()
    superuser = await database.connect()
    async with open_daemon(settings, now=clock) as daemon:
        [verify] = [job for job in job_table(daemon) if job.name == "verify"]
        assert not verify.everywhere
        await superuser.execute("ALTER TABLE audit_log RENAME TO audit_gone")
        with pytest.raises(asyncpg.UndefinedTableError):
            await verify.once()
        await superuser.execute("ALTER TABLE audit_gone RENAME TO audit_log")
        assert (await verify.once())["rows"] >= 1
        assert await verify.once() == {}
        clock.instant += timedelta(days=1)
        assert (await verify.once())["rows"] >= 1


async def test_operators_whose_answers_hang_hold_up_no_sign_of_life(
    start: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ACQUIRE_SECONDS", 1.0)
    site = await start()
    pool, now = site.daemon.pools["asm_auth"], site.daemon.now()
    principal = await directory.add_principal(pool, TESTER, PrincipalKind.OPERATOR, "Trực Mẫu", "Công an Mẫu", now)
    headers = {"Authorization": f"Bearer {await directory.create_key(pool, TESTER, principal, now, valid_days=1)}"}
    blocker = await site.database.connect()

    async def look(session: aiohttp.ClientSession) -> int:
        async with session.get(f"{site.url}/v1/admin/sync", headers=headers) as answer:
            return answer.status

    async with aiohttp.ClientSession() as session:
        async with blocker.transaction():
            await blocker.execute("LOCK sync_refused")
            asked = [asyncio.create_task(look(session)) for _ in range(OPERATOR_CONNECTIONS + 3)]

            async def only_those_with_a_connection_wait() -> bool:
                return sum(not one.done() for one in asked) <= OPERATOR_CONNECTIONS

            await _until(only_those_with_a_connection_wait)
            async with asyncio.timeout(5):
                await site.daemon.worker.beat()
        answers = await asyncio.gather(*asked)
    assert answers.count(200) == OPERATOR_CONNECTIONS


def test_a_connector_that_nobody_installed_is_named() -> None:
    with pytest.raises(NoSuchConnector, match="telegraph"):
        load_population("telegraph")


async def test_another_population_database_takes_one_connector_and_settings(
    settings: Settings,
    make_facility: FacilityMaker,
    database: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A package with an entry point, as pip would leave it; nothing else of the daemon knows of it."""
    package = tmp_path / "packages" / "ledger-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[asm_daemon.population]\nledger = tests.population.ledger:open_client\n")
    monkeypatch.syspath_prepend(package.parent)
    chosen = settings.model_copy(update={"population_connector": "ledger", "population_url": "https://ledger.example"})
    async with _site(chosen, make_facility, database) as site, aiohttp.ClientSession() as session:
        for index in (1, 2):
            assert await site.declare(session, index) == 201
        pool = site.daemon.pools["asm_sync"]

        async def confirmed() -> bool:
            return (await sync.conservation(pool)).confirmed == 2

        await _until(confirmed)
        held = LEDGERS["https://ledger.example"].items
        assert len(held) == 2
        held.popitem()
        counts = await compare.compare_all(pool, site.daemon.population, site.daemon.now())
        assert (counts["missing"], counts["repaired"]) == (1, 1)

        async def repaired() -> bool:
            return len(held) == 2 and await confirmed()

        await _until(repaired)


async def test_it_says_when_it_is_ready_and_when_this_month_has_no_place(start: Running) -> None:
    site = await start()
    superuser = await site.database.connect()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{site.url}/readyz") as answer:
            assert answer.status == 200, await answer.text()
        await superuser.execute(f"ALTER TABLE stays_{epoch_at(site.daemon.now())} RENAME TO stays_elsewhere")
        async with session.get(f"{site.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["checks"]) == (503, {"intake": "failed"})


async def test_stopping_under_load_loses_nothing_that_was_accepted(start: Running) -> None:
    site = await start()
    accepted: list[int] = []

    async def keep_declaring(session: aiohttp.ClientSession, first: int) -> None:
        for index in range(first, first + 200):
            try:
                if await site.declare(session, index) == 201:
                    accepted.append(index)
            except aiohttp.ClientError:
                return  # the door is closed

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for client in range(8):
            tasks.create_task(keep_declaring(session, 1000 * client))

        async def some() -> bool:
            return len(accepted) >= 50

        await _until(some)
        site.stop.set()
    await site.task
    assert len(accepted) >= 50
    async with site.daemon.pools["asm_intake"].acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM stays") >= len(accepted)
    async with site.daemon.pools["asm_sync"].acquire() as connection:
        lanes = await connection.fetchval("SELECT count(*) FROM leases WHERE owner IS NOT NULL")
    assert lanes == 0


async def test_a_silent_database_does_not_hold_up_the_end(
    settings: Settings, make_facility: FacilityMaker, database: Any, server: EmbeddedPostgres
) -> None:
    quick = settings.model_copy(update={"shutdown_seconds": 4})
    async with _site(quick, make_facility, database) as site, aiohttp.ClientSession() as session:
        assert await site.declare(session, 1) == 201
        with silent(server):
            unanswered = asyncio.create_task(site.declare(session, 2))
            await asyncio.sleep(0.05)  # so that it is taken in, and gets no further
            site.stop.set()
            done, _ = await asyncio.wait({site.task}, timeout=4 + 10)  # a statement alone would last 20 s
            assert done
        assert site.task.exception() is None
        with suppress(aiohttp.ClientError):
            assert await unanswered == 503
    assert await (await database.connect()).fetchval("SELECT count(*) FROM stays") in (1, 2)  # nobody was told either


async def test_with_a_certificate_the_hl7_listener_speaks_tls(
    settings: Settings, make_facility: FacilityMaker, database: Any, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    server, hospital = authority.issue("localhost"), authority.issue("hospital")
    files = {"certificate": server.certificate, "key": server.key, "client_ca": authority.certificate}
    tls = settings.model_copy(update={f"mllp_tls_{name}_file": path for name, path in files.items()})
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(hospital.certificate, hospital.key)
    answer = b""
    async with asyncio.timeout(60), _site(tls, make_facility, database) as site:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", site.mllp, ssl=context, server_hostname="localhost"
            )
            writer.write(b"\x0bMSH|^~\\&|NOBODY|BV|||||ADT^A01|T1\x1c\r")
            answer = await reader.readuntil(b"\x1c\r")
            writer.close()
    assert b"MSA|AR|T1" in answer


async def test_keys_are_renewed_under_a_daemon_that_goes_on_declaring(start: Running, settings: Settings) -> None:
    site = await start()
    answers: list[int] = []
    renewed = asyncio.Event()

    async def declare_until_renewed() -> None:
        async with aiohttp.ClientSession() as session:
            while not renewed.is_set() and len(answers) < 2_000:
                answers.append(await site.declare(session, len(answers) + 1))

    async def is_sealed_anew() -> bool:
        connection = await site.database.connect()
        left: int = await connection.fetchval("SELECT count(*) FROM stays WHERE get_byte(sealed, 5) <> 2")
        await connection.close()
        return left == 0

    async with aiohttp.ClientSession() as session:
        assert await site.declare(session, 9_001) == 201
    owner = asyncio.create_task(declare_until_renewed())
    store = KeyStore(settings.key_store)  # of another process: the command line
    for _ in range(3):
        await asyncio.to_thread(store.rotate_root, site.daemon.now())
    name, _ = await asyncio.to_thread(store.renew_epoch, epoch_at(site.daemon.now()), site.daemon.now())
    await _until(is_sealed_anew, 60)
    renewed.set()
    await owner
    assert name.version == site.daemon.keyring.sealing_version(name.epoch or 0) == 2
    assert answers
    assert set(answers) == {201}


def test_a_day_is_due_after_the_last_deadline_of_its_arrivals() -> None:
    before, after = datetime(2026, 11, 23, 0, 59, tzinfo=UTC), datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    assert due_days(before)[-1] == date(2026, 11, 21)
    assert due_days(after)[-1] == date(2026, 11, 22)
    assert len(due_days(after)) == 7


async def test_daemons_that_start_at_once_make_a_month_once(database: Any) -> None:
    connections = [await database.connect("asm_retention") for _ in range(4)]
    epoch = 203001
    made = await asyncio.gather(
        *(stays_store.create_partitions(each, epoch, *epoch_bounds(epoch)) for each in connections)
    )
    assert sorted(made) == [False, False, False, True]
