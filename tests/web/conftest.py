"""The whole HTTP side on a real socket, over real intake, directory and police, on a database of the test's own."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any
from uuid import UUID

import orjson
import pytest
import structlog
from aiohttp import ClientSession, web

from asm_daemon import directory, operating
from asm_daemon.crypto import KeyPurpose, Keyring
from asm_daemon.daemon import HOTEL_EVENTS
from asm_daemon.directory import Actor, Gate
from asm_daemon.import_jobs import Importer
from asm_daemon.intake import Intake
from asm_daemon.issuing import Issuer
from asm_daemon.log import configure_logging
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.police import Desk
from asm_daemon.rosters import Rosters
from asm_daemon.web.admin_api import admin_routes
from asm_daemon.web.api import owner_routes
from asm_daemon.web.app import Runner, make_app
from asm_daemon.web.audit_api import audit_routes
from asm_daemon.web.documents_api import document_routes
from asm_daemon.web.events_api import event_routes
from asm_daemon.web.expected_api import expected_routes
from asm_daemon.web.feeds_api import feed_routes
from asm_daemon.web.hotels_api import hotel_routes
from asm_daemon.web.imports_api import import_routes
from asm_daemon.web.kbtt import Readers, kbtt_routes
from asm_daemon.web.pages import page_routes
from asm_daemon.web.police_api import police_routes
from asm_daemon.web.public_api import Check, public_routes
from asm_daemon.web.rosters_api import roster_routes
from asm_daemon.web.route import Table
from asm_daemon.webhooks import Endpoints
from asm_daemon.witnessing import Watch, Witness, watch
from connectors import identity, kbtt_api, pms_ota
from schemas.act import Connector
from schemas.codes import Department
from schemas.population import PopulationState, Unreachable
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools

MAX_BODY_BYTES = 1 << 20
MAX_BATCH_ROWS = 50
PORTAL_ROWS = Readers(kbtt_api.citizen, kbtt_api.foreigner, kbtt_api.departure)
KeyMaker = Callable[..., Awaitable[str]]


@cache
def installed_connectors() -> dict[str, Connector]:
    return {entry.name: entry.load() for entry in entry_points(group="asm_daemon.connectors")}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code of a problem; fails for anything else."""
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return self.status, self.json["code"]


@dataclass(frozen=True)
class Web:
    """A client of the running daemon. `failing` names readiness checks that shall fail."""

    session: ClientSession
    port: int
    table: Table
    failing: set[str] = field(default_factory=set)

    async def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> Answer:
        """One request; redirects are not followed."""
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        async with self.session.request(method, path, headers=headers, allow_redirects=False, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@pytest.fixture
def logged() -> Iterator[io.BytesIO]:
    """Everything that is logged during the test, as it would be written."""
    stream = io.BytesIO()
    configure_logging("debug", DEPLOYMENT, stream)
    yield stream
    configure_logging("warning", DEPLOYMENT)  # or libraries would talk into what the next test reads
    structlog.reset_defaults()


@pytest.fixture
async def gate(pools: Pools) -> Gate:
    """Who may do what, asked anew at each request."""
    return Gate(await pools.get("asm_auth"), 0)


@pytest.fixture
def believed_witness() -> Witness | None:
    """Whose cosignatures count; a module that is about the witness has its own."""
    return None


@pytest.fixture
async def watched(pools: Pools, keyring: Keyring, believed_witness: Witness | None) -> Watch:
    """The watch over the audit."""
    log_key = keyring.signing_key(KeyPurpose.CHECKPOINT).public_key_bytes
    return watch(await pools.get("asm_audit"), DEPLOYMENT, log_key, believed_witness)


@pytest.fixture
async def table(
    intake: Intake,
    importer: Importer,
    gate: Gate,
    pools: Pools,
    keyring: Keyring,
    issuer: Issuer,
    failing: set[str],
    rings: list[None],
    clock: Clock,
    watched: Watch,
) -> Table:
    """The route table, as the daemon composes it."""

    async def measure() -> None:
        await operating.measure_once(await pools.get("asm_sync"), await pools.get("asm_audit"), clock())

    pool = await pools.get("asm_intake")
    connectors = installed_connectors()
    desk = Desk(
        await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, None, watched.require_reads
    )
    return (
        *public_routes(MAX_BODY_BYTES, MAX_BATCH_ROWS, list(connectors), {"database": _check(failing)}, True),
        *owner_routes(intake, pool, keyring, issuer, MAX_BODY_BYTES, MAX_BATCH_ROWS),
        *import_routes(intake, importer, pool, keyring, connectors, MAX_BODY_BYTES),
        *expected_routes(intake, pool, keyring, MAX_BODY_BYTES, MAX_BATCH_ROWS),
        *roster_routes(
            Rosters(intake, pool, keyring, absence_nights=3, plan_hours=24),
            pool,
            keyring,
            connectors,
            MAX_BODY_BYTES,
            MAX_BATCH_ROWS,
            True,
        ),
        *hotel_routes(intake, pool, keyring, HOTEL_EVENTS, pms_ota.envelope, MAX_BODY_BYTES),
        *event_routes(pool, keyring, "http://asm.test", Endpoints(pool, keyring, plain_http=False)),
        *document_routes(identity.read),
        *kbtt_routes(intake, gate, await pools.get("asm_auth"), PORTAL_ROWS, MAX_BODY_BYTES, MAX_BATCH_ROWS),
        *police_routes(desk),
        *feed_routes(await pools.get("asm_feeds"), watched.require_releases),
        *audit_routes(watched),
        *admin_routes(await pools.get("asm_sync"), lambda: rings.append(None), _nobody_answers, measure),
        *page_routes(pool, True),
    )


async def _nobody_answers(_stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
    raise Unreachable("no_connection")


@pytest.fixture
def failing() -> set[str]:
    """Names of readiness checks that shall fail."""
    return set()


def _check(failing: set[str]) -> Check:
    async def check() -> None:
        if "database" in failing:
            raise ConnectionError

    return check


@pytest.fixture
async def asm(table: Table, gate: Gate, clock: Clock, failing: set[str], logged: io.BytesIO) -> AsyncIterator[Web]:
    """The running HTTP side."""
    async with AsyncExitStack() as stack:
        app = make_app(table, gate, public_url="http://asm.test", trial=True, clock=clock)
        runner = Runner(app, shutdown_seconds=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        session = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        yield Web(session, port, table, failing)


@pytest.fixture
async def make_key(pools: Pools, clock: Clock, keyring: Keyring) -> KeyMaker:
    """`await make_key(kind, facility, …, scopes=None)` adds a principal with grants and returns its key."""

    async def make(
        kind: PrincipalKind = PrincipalKind.OWNER,
        *facilities: Facility,
        scopes: set[Scope] | None = None,
        department: Department | None = None,
    ) -> str:
        pool = await pools.get("asm_auth")
        principal = await directory.add_principal(
            pool, Actor("test", keyring), kind, "Người thử", "Đơn vị thử", clock(), department=department
        )
        for facility in facilities:
            await directory.grant(pool, Actor("test", keyring), principal, facility.code, clock(), scopes=scopes)
        return await directory.create_key(pool, Actor("test", keyring), principal, clock())

    return make


@pytest.fixture
async def owner_key(make_key: KeyMaker, facility: Facility) -> str:
    """The key of the owner of `facility`."""
    return await make_key(PrincipalKind.OWNER, facility)


@pytest.fixture
async def other_facility(make_facility: FacilityMaker) -> Facility:
    """A facility that the owner of `facility` has nothing to do with."""
    made: Facility = await make_facility("HY-KS-0002")
    return made
