"""What is measured, every part a process of its own: PostgreSQL (fsync on), the simulator, daemons, and the load."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
from rich.console import Console

from asm_daemon import demo, embedded, samples_directory
from asm_daemon.crypto import epoch_at
from asm_daemon.daemon import prepare_months_once, utc_now
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.keystores import create_store
from asm_daemon.samples_directory import HOTEL
from asm_daemon.store.pool import open_pool

READY_SECONDS = 60.0
CLIENT, SECRET, ADMIN = "asm-bench", "bench-secret", "bench-admin"

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Premises:
    """What the processes of one run share: the server, the folder of the keys, and the simulator's address."""

    folder: Path
    server: EmbeddedPostgres
    population_port: int
    owner_key: str

    @property
    def database_url(self) -> str:
        """Of the daemon's database, with a place for the login."""
        return self.server.dsn("{role}", "asm")


@dataclass(frozen=True, slots=True)
class Site:
    """A running daemon: where it listens for owners and for hospitals, an owner's key, and its database."""

    pid: int
    port: int
    key: str
    database_url: str
    mllp_port: int


@asynccontextmanager
async def open_premises(folder: Path, server_settings: Mapping[str, str] | None = None) -> AsyncIterator[Premises]:
    """PostgreSQL with the databases and the sample directory, and the keys; no daemon and no simulator runs yet."""
    async with AsyncExitStack() as stack:
        server = await embedded.start(folder / "postgres")
        if server_settings:
            await _configure(server, server_settings)
            await server.stop()
            server = await embedded.start(folder / "postgres")
        stack.push_async_callback(server.stop)
        await demo.prepare_databases(server)
        key_store = create_store(folder / "keys", [epoch_at(utc_now())], utc_now())
        async with await open_pool(server.dsn("{role}", "asm"), "asm_retention", min_size=0) as pool:
            await prepare_months_once(key_store, pool, utc_now())
        (folder / "secret").write_text(SECRET)
        (folder / "admin").write_text(ADMIN)
        async with await open_pool(server.dsn("{role}", "asm"), "asm_auth", min_size=0) as pool:
            keys = await samples_directory.load(pool, key_store.keyring(), utc_now())
        yield Premises(folder, server, demo.free_port(), keys.owners[HOTEL])


async def _configure(server: EmbeddedPostgres, settings: Mapping[str, str]) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        for name, value in settings.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    finally:
        await connection.close()


@asynccontextmanager
async def run_simulator(premises: Premises) -> AsyncIterator[int]:
    """The population simulator; the number of its process."""
    folder = premises.folder
    arguments = [
        *("population", "serve", "--database-url", premises.server.dsn(database="population")),
        *("--client-id", CLIENT, "--client-secret-file", str(folder / "secret")),
        *("--admin-token-file", str(folder / "admin"), "--port", str(premises.population_port)),
    ]
    ready = f"http://127.0.0.1:{premises.population_port}/healthz"
    async with run_process("asm_daemon", arguments, {}, ready) as pid:
        yield pid


async def discard(premises: Premises, *, wanted: bool = True) -> None:
    """Let the simulator confirm without storing, so that what is measured is ours; or let it store again."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    url = f"http://127.0.0.1:{premises.population_port}/admin/mode"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.put(url, json={"discard": wanted}) as answer,
    ):
        answer.raise_for_status()


@asynccontextmanager
async def run_daemon(premises: Premises) -> AsyncIterator[Site]:
    """A daemon as operators run it. Several may run at once."""
    port, mllp_port = demo.free_port(), demo.free_port()
    settings = {
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": "asm.bench.example",
        "ASM_DATABASE_URL": premises.database_url,
        "ASM_KEY_STORE": str(premises.folder / "keys"),
        "ASM_LISTEN": f"127.0.0.1:{port}",
        "ASM_MLLP_LISTEN": f"127.0.0.1:{mllp_port}",
        "ASM_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "ASM_POPULATION_URL": f"http://127.0.0.1:{premises.population_port}",
        "ASM_POPULATION_CLIENT_ID": CLIENT,
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(premises.folder / "secret"),
        "ASM_LOG_LEVEL": os.environ.get("ASM_LOG_LEVEL", "error"),
    }
    async with run_process("asm_daemon", ["run"], settings, f"http://127.0.0.1:{port}/readyz") as pid:
        yield Site(pid, port, premises.owner_key, premises.database_url, mllp_port)


@asynccontextmanager
async def run_process(
    module: str, arguments: Sequence[str], settings: Mapping[str, str], ready_url: str
) -> AsyncIterator[int]:
    """A module with these arguments as a process, from when it answers until it is not needed any more; its number."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, env=os.environ | settings)
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
            while not await _answers(session, ready_url):
                await asyncio.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def carry_out(module: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run a module that reads its plan as one line of JSON and writes what happened as another."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(orjson.dumps(plan) + b"\n")
    result: dict[str, Any] = orjson.loads(output)
    return result


async def load_http(port: int, key: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out one plan of `tests.bench.http_load`."""
    return await carry_out("tests.bench.http_load", {**plan, **guest_times(), "port": port, "key": key})


def guest_times() -> dict[str, str]:
    """When the guests of a load came and mean to leave: declared in time."""
    now = utc_now().replace(microsecond=0)
    return {
        "arrived_at": (now - timedelta(minutes=10)).isoformat(),
        "planned_departure_at": (now + timedelta(days=1)).isoformat(),
    }


# -- who used the processors -------------------------------------------------------------------------------------------

_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pids: Iterable[int]) -> float:
    """Processor time of these processes and their children so far, living and ended."""
    return sum(_of_process(pid, ended=True) + sum(_of_process(child) for child in _children(pid)) for pid in pids)


def _of_process(pid: int, *, ended: bool = False) -> float:
    """User and system time (proc(5), fields 14 and 15), with `ended` also of children that it waited for (16, 17)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11 : 15 if ended else 13])) / _TICKS


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
