"""The system under faults: real processes on a real PostgreSQL, with a proxy on every link between them.

A `Lane` is what is kept between runs, so that a run takes seconds: two PostgreSQL clusters, the simulator, the fork
server, the proxies. A `Site` is one run: a fresh database, one or two daemons, and everything that can be done to them.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from asm_daemon import embedded, samples_directory
from asm_daemon.crypto import epoch_at
from asm_daemon.daemon import prepare_months_once
from asm_daemon.embedded import PORT, EmbeddedPostgres
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from connectors.population import simulator
from tests.faults.auditor import Databases
from tests.faults.processes import Forker, Process, SharedClock
from tests.faults.proxy import Proxy

CREDENTIALS = {"client_id": "asm-faults", "client_secret": "faults-secret", "admin_token": "faults-admin"}
DEPLOYMENT = "asm.faults.example"
PERSONS = 2_000
SMALL_MEGABYTES = 64
LINKS = ("database", "http", "mllp", "population")

START_SECONDS = 30.0
END_SECONDS = 15.0
"""How long a daemon may take to end after SIGTERM: twice what its settings say, as the machine is busy."""
RESTART_SECONDS = 0.05
"""After which a supervisor starts a daemon again that has ended."""
POLL_SECONDS = 0.02

LIMITS: Mapping[str, float] = {
    "batch_rows": 20,
    "requests": 3,
    "answer_seconds": 1.0,
    "lease_seconds": 1.0,
    "poll_seconds": 0.05,
    "sweep_seconds": 0.2,
    "backoff_first_seconds": 0.05,
    "backoff_longest_seconds": 0.5,
    "breaker_failures": 5,
    "breaker_seconds": 0.2,
    "shutdown_seconds": 4.0,
}
"""The sync's limits: those of an installation, made so short that a run shows in seconds what takes minutes there."""


@dataclass
class Place:
    """Where a daemon lives. Its links stay, whatever process is behind them."""

    index: int
    links: Mapping[str, Proxy]
    process: Process | None = None
    asked_to_end: bool = False


class Lane:
    """Everything that is kept between runs; one run at a time."""

    def __init__(self, folder: Path, *, may_mount: bool | None = None) -> None:
        self.folder = folder
        self.small = (os.geteuid() == 0) if may_mount is None else may_mount
        self.forker = Forker(folder)
        self.clock = SharedClock(folder / "clock")
        self.places: list[Place] = []
        self.keys: samples_directory.SampleKeys
        self.postgres: EmbeddedPostgres
        self.population_postgres: EmbeddedPostgres
        self.simulator: Process | None = None
        self.session: aiohttp.ClientSession
        self._runs = 0
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start what is kept. Call it from the main thread (`embedded.start`)."""
        async with AsyncExitStack() as stack:
            await self.forker.start()
            stack.push_async_callback(self.forker.stop)
            if self.small:
                self.small = self._mount(stack)
            self.postgres = await embedded.start(self.folder / "postgres")
            stack.push_async_callback(lambda: _abandon(self.postgres))
            self.population_postgres = await embedded.start()
            stack.push_async_callback(lambda: _abandon(self.population_postgres))
            self.session = await stack.enter_async_context(aiohttp.ClientSession())
            await self._prepare_databases()
            for index in range(2):
                links = {name: Proxy(f"{name}-{index}") for name in LINKS}
                for link in links.values():
                    await link.open()
                    stack.push_async_callback(link.close)
                self.places.append(Place(index, links))
            self._lead_to_postgres()
            await self.start_simulator()
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """End everything, in reverse."""
        await self._stack.aclose()

    # -- PostgreSQL

    @property
    def database(self) -> str:
        return f"run_{self._runs}"

    @property
    def population_url(self) -> str:
        return self.population_postgres.dsn(database="population")

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection, past the proxies, that may write whatever the database's defaults are."""
        connection = await asyncpg.connect(
            self.postgres.dsn(database=database), server_settings={"default_transaction_read_only": "off"}, timeout=10
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def restart_postgres(self, down_seconds: float, *, kill: bool) -> None:
        """Stop it without a checkpoint (`kill`: every process by SIGKILL), wait, and start it on its data."""
        if kill:
            for pid in self.postgres_processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            self.postgres.process.send_signal(signal.SIGQUIT)
        await self.postgres.process.wait()
        await self.postgres.stop()
        await asyncio.sleep(down_seconds)
        self.postgres = await embedded.start(self.folder / "postgres")
        self._lead_to_postgres()

    def postgres_processes(self) -> list[int]:
        """The postmaster and its children."""
        postmaster = self.postgres.process.pid
        found = [postmaster]
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == postmaster:
                    found.append(int(entry.name))
        return found

    def _lead_to_postgres(self) -> None:
        for place in self.places:
            place.links["database"].upstream = str(self.postgres.run_dir / f".s.PGSQL.{PORT}")

    async def _prepare_databases(self) -> None:
        """The template that every run gets a clone of, with a directory and this month; and the population."""
        now = datetime.now(UTC)
        keyring = create_store(self.folder / "keys", [epoch_at(now)], now).keyring()
        (self.folder / "secret").write_text(CREDENTIALS["client_secret"])
        async with self.superuser() as connection:
            await connection.execute("CREATE DATABASE template_asm")
            if self.small:
                location = str(self.folder / "small").replace("'", "''")
                await connection.execute(f"CREATE TABLESPACE small LOCATION '{location}'")
        async with self.superuser("template_asm") as connection:
            await migrate(connection, load_migrations())
        url = self.postgres.dsn("{role}", "template_asm")
        pool = await open_pool(url, "asm_auth", min_size=0)
        self.keys = await samples_directory.load(pool, keyring, now)
        await pool.close()
        pool = await open_pool(url, "asm_retention", min_size=0)
        await prepare_months_once(KeyStore(self.folder / "keys"), pool, now)
        await pool.close()
        connection = await asyncpg.connect(self.population_postgres.dsn())
        await connection.execute("CREATE DATABASE population")
        await connection.close()
        await simulator.seed(self.population_url, PERSONS)

    async def clone(self, *, small: bool) -> None:
        """The database of the next run. The last one's is dropped: recovery from a crash reads every file there is."""
        async with self.superuser() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
            self._runs += 1
            where = " TABLESPACE small" if small else ""
            await connection.execute(f"CREATE DATABASE {self.database} TEMPLATE template_asm STRATEGY wal_log{where}")
            await connection.execute(
                "UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE datname = 'template_asm') "
                "WHERE datname = $1",
                self.database,
            )

    def _mount(self, stack: AsyncExitStack) -> bool:
        """A tiny file system for a tablespace that can be filled; False where mounting is not allowed."""
        small = self.folder / "small"
        small.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MEGABYTES}m,mode=0777", "tmpfs", str(small)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        stack.callback(subprocess.run, ["umount", "--lazy", str(small)], check=False)
        account = pwd.getpwnam("nobody")  # as whom PostgreSQL runs where we are root
        os.chown(small, account.pw_uid, account.pw_gid)
        self.folder.chmod(0o711)  # that account has to walk to it
        return True

    @contextmanager
    def filled(self) -> Iterator[None]:
        """No byte is free on the small file system until the block ends."""
        filler = self.folder / "small" / "filler"
        try:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            filler.unlink(missing_ok=True)

    # -- the population simulator

    async def start_simulator(self) -> None:
        """Start it, and lead the links to it."""
        self.simulator = await self.forker.fork(
            "simulator",
            self.folder / "simulator.log",
            database_url=self.population_url,
            port=0,
            credentials=CREDENTIALS,
        )
        async with asyncio.timeout(START_SECONDS):
            ports = await self.simulator.ready()
        if ports is None:
            raise RuntimeError(f"the simulator did not start: {self.folder}/simulator.log")
        for place in self.places:
            place.links["population"].upstream = ("127.0.0.1", ports["http"])
        self.simulator_url = f"http://127.0.0.1:{ports['http']}"

    async def admin(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON of an admin call to the simulator."""
        headers = {"Authorization": f"Bearer {CREDENTIALS['admin_token']}"}
        timeout = aiohttp.ClientTimeout(total=10)
        async with self.session.request(
            method, f"{self.simulator_url}/admin/{path}", json=content, headers=headers, timeout=timeout
        ) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def forget_stays(self) -> None:
        """A simulator that knows its people and nothing else."""
        await self.admin("DELETE", "faults")
        connection = await asyncpg.connect(self.population_url)
        try:
            tables = await connection.fetchval(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
                "WHERE schemaname = 'public' AND tablename NOT IN ('persons', 'revoked_documents')"
            )
            await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        finally:
            await connection.close()

    # -- one run

    @asynccontextmanager
    async def site(self, folder: Path, daemons: int, *, small: bool = False) -> AsyncIterator[Site]:
        """A fresh system with so many daemons, ready, until the block ends. Its logs are in `folder`."""
        if self.simulator is None or not self.simulator.alive:
            await self.start_simulator()
        self.clock.set(0.0)
        await self.forget_stays()
        await self.clone(small=small)
        site = Site(self, folder, self.places[:daemons])
        keepers = [asyncio.create_task(site.keep(place)) for place in site.places]
        try:
            await site.until_ready()
            yield site
        finally:
            site.closing = True
            for place in site.places:
                if place.process is not None:
                    place.process.signal(signal.SIGKILL)
            await asyncio.gather(*keepers)


@dataclass
class Site:
    """One run's system. `injected` counts what was really done to it, by kind."""

    lane: Lane
    folder: Path
    places: Sequence[Place]
    injected: Counter[str] = field(default_factory=Counter)
    unasked_ends: int = 0
    closing: bool = False
    postgres_lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one thing at a time is done to it
    answers_lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one failure at a time is armed
    healed_at: float = 0.0

    async def keep(self, place: Place) -> None:
        """Run a daemon at `place`, and start it again whenever it ends, as a supervisor does."""
        http, mllp = place.links["http"], place.links["mllp"]
        while not self.closing:
            place.asked_to_end = False
            process = await self.lane.forker.fork(
                "daemon",
                self.folder / f"daemon-{place.index}.log",
                environment=self._environment(place),
                limits=LIMITS,
                clock=str(self.lane.folder / "clock"),
            )
            place.process = process
            ports = await process.ready()
            if ports is not None:
                http.upstream, mllp.upstream = ("127.0.0.1", ports["http"]), ("127.0.0.1", ports["mllp"])
                await process.wait()
            http.upstream = mllp.upstream = place.process = None
            if not self.closing:
                self.unasked_ends += not place.asked_to_end
                await asyncio.sleep(RESTART_SECONDS)

    def _environment(self, place: Place) -> Mapping[str, str]:
        port = {name: link.port for name, link in place.links.items()}
        folder = self.lane.folder
        return {
            "ASM_ENVIRONMENT": "trial",
            "ASM_DEPLOYMENT": DEPLOYMENT,
            "ASM_DATABASE_URL": f"postgresql://{{role}}@127.0.0.1:{port['database']}/{self.lane.database}?sslmode=disable",
            "ASM_KEY_STORE": str(folder / "keys"),
            "ASM_LISTEN": "127.0.0.1:0",
            "ASM_MLLP_LISTEN": "127.0.0.1:0",
            "ASM_PUBLIC_URL": "http://asm.faults.example",
            "ASM_POPULATION_URL": f"http://127.0.0.1:{port['population']}",
            "ASM_POPULATION_CLIENT_ID": CREDENTIALS["client_id"],
            "ASM_POPULATION_CLIENT_SECRET_FILE": str(folder / "secret"),
            "ASM_LEASE_SECONDS": "3",
            "ASM_SHUTDOWN_SECONDS": "7",
            "ASM_LOG_LEVEL": "info",
        }

    async def until_ready(self) -> None:
        """Return when every daemon listens."""
        async with asyncio.timeout(START_SECONDS):
            while any(place.links["mllp"].upstream is None for place in self.places):
                await asyncio.sleep(POLL_SECONDS)

    @property
    def base_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{place.links['http'].port}" for place in self.places]

    @property
    def mllp(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", place.links["mllp"].port) for place in self.places]

    @property
    def databases(self) -> Databases:
        """Both databases, past the proxies."""
        lane = self.lane
        return Databases(lane.postgres.dsn("{role}", lane.database), lane.population_url)

    async def end_daemons(self) -> list[str]:
        """End every daemon by SIGTERM; what is wrong with how they ended."""
        self.closing = True
        faults = []
        for place in self.places:
            if place.process is not None:
                place.process.signal(signal.SIGTERM)
        for place in self.places:
            process = place.process
            if process is None:
                continue
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.signal(signal.SIGKILL)
                faults.append(f"daemon {place.index} did not end within {END_SECONDS:g} s of SIGTERM")
        return faults


async def _abandon(server: EmbeddedPostgres) -> None:
    """End it at once: nobody needs its data any more, and writing them down takes seconds."""
    with suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGQUIT)
    await server.stop()


def new_folder(parent: Path, name: str) -> Path:
    """An empty folder of this name."""
    folder = parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
