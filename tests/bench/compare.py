"""What it costs to compare a million stays with the population database: `python -m tests.bench.compare [STAYS]`.

Both databases are filled by SQL with stays of three months that agree; they are random bytes, but for ten that were
declared as by an owner: six are missing there, four stale. PostgreSQL (fsync on) and the simulator are a process each,
a proxy counts the bytes between it and this process. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from asm_daemon import demo, embedded
from asm_daemon.compare import compare_all
from asm_daemon.crypto import Keyring, epoch_at, epoch_bounds, next_epoch
from asm_daemon.daemon import utc_now
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Contents
from asm_daemon.sealing import new_salt, seal_contents
from asm_daemon.store import stays as stays_store
from asm_daemon.store import sync as sync_store
from asm_daemon.store.pool import open_pool
from asm_daemon.sync import population_item, push_once
from connectors.population.client import PopulationClient
from schemas.population import digest
from tests.stack import declaration

STAYS = 1_000_000
FACILITIES = 200
MONTHS = 3
MISSING, STALE = 6, 4
CLIENT, SECRET, ADMIN = "asm-bench", "bench-secret", "bench-admin"
READY_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Wire:
    """A proxy before the simulator, and the bytes that passed it in both directions."""

    port: int
    sent: int = 0
    received: int = 0
    requests: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
        with suppress(ConnectionError):
            await asyncio.gather(self._pump(reader, there_writer, True), self._pump(there_reader, writer, False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outward: bool) -> None:
        while data := await reader.read(1 << 16):
            if outward:
                self.sent += len(data)
                self.requests += data.count(b"POST /v1/")
            else:
                self.received += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@dataclass(frozen=True, slots=True)
class Site:
    """Both sides, filled."""

    pool: asyncpg.Pool
    keyring: Keyring
    client: PopulationClient
    wire: Wire
    ours: asyncpg.Connection
    theirs: asyncpg.Connection
    server_pid: int
    simulator_pid: int


async def main(stays: int) -> None:
    with tempfile.TemporaryDirectory(prefix="asm-bench-compare-") as folder:
        async with _site(Path(folder)) as site:
            now = utc_now()
            filled = await _timed(_fill(site, stays, now))
            equal = await _measured(site, compare_all(site.pool, site.client, now))
            await _drift(site, stays)
            found = await _measured(site, compare_all(site.pool, site.client, now))
            started = time.perf_counter()
            carried = await push_once(site.pool, site.keyring, site.client, now=utc_now)
            carrying = time.perf_counter() - started
            after = await _measured(site, compare_all(site.pool, site.client, now))
            law = await sync_store.conservation(site.ours)
    result = {
        "stays": stays,
        "filled_seconds": filled,
        "equal": equal,
        "ten_differences": {
            **found,
            "carried": carried.confirmed,
            "found_and_repaired_seconds": round(found["seconds"] + carrying, 2),
        },
        "afterwards": after,
        "misplaced": law.misplaced,
    }
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")


async def _timed(work: Any) -> float:
    started = time.perf_counter()
    await work
    return round(time.perf_counter() - started, 1)


async def _measured(site: Site, work: Any) -> dict[str, Any]:
    """What a comparison found, its seconds, its bytes on the wire, and the CPU of everybody who took part."""
    wire = site.wire
    wire.sent = wire.received = wire.requests = 0
    before, started = _cpu(site), time.perf_counter()
    counts = await work
    seconds = time.perf_counter() - started
    cpu = {name: round(after - before[name], 2) for name, after in _cpu(site).items()}
    total = sum(cpu.values())
    return {
        **{name: count for name, count in counts.items() if count},
        "seconds": round(seconds, 2),
        "requests": wire.requests,
        "bytes_sent": wire.sent,
        "bytes_received": wire.received,
        "cpu_seconds": cpu,
        "cpu_share_of_a_day_percent": round(100 * total / 86_400, 4),
    }


def _cpu(site: Site) -> dict[str, float]:
    """CPU seconds so far: of this process, of the simulator, and of PostgreSQL with its children, living and gone."""
    children = [pid for pid in _processes() if _stat(pid)[1] == str(site.server_pid)]
    server = sum(_seconds(pid) for pid in (*children, site.server_pid))
    return {
        "comparing": time.process_time(),
        "simulator": _seconds(site.simulator_pid),
        "postgresql": server + _seconds(site.server_pid, of_children=True),
    }


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> Sequence[str]:
    """The fields of /proc/PID/stat behind the name: state, parent … (proc(5)); of a process that is gone, none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["", ""] + ["0"] * 50


def _seconds(pid: int, *, of_children: bool = False) -> float:
    first = 13 if of_children else 11
    return sum(int(ticks) for ticks in _stat(pid)[first : first + 2]) / _TICKS


# -- both sides --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        server = await embedded.start(folder / "postgres")
        stack.push_async_callback(server.stop)
        await demo.prepare_databases(server)
        epoch = epoch_at(utc_now() - timedelta(days=31 * (MONTHS - 1)))
        epochs = [epoch]
        while len(epochs) < MONTHS:
            epochs.append(next_epoch(epochs[-1]))
        create_store(folder / "keys", epochs, utc_now())
        process, port = await _simulator(folder, server.dsn(database="population"))
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        wire = Wire(port)
        proxy = await asyncio.start_server(wire.handle, "127.0.0.1", 0)
        stack.callback(proxy.close)
        client = PopulationClient(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", CLIENT, SECRET)
        await client.open()
        stack.push_async_callback(client.close)
        pool = await open_pool(server.dsn("{role}", "asm"), "asm_sync")
        stack.push_async_callback(pool.close)
        ours = await asyncpg.connect(server.dsn(database="asm"))
        stack.push_async_callback(ours.close)
        theirs = await asyncpg.connect(server.dsn(database="population"))
        stack.push_async_callback(theirs.close)
        for each in epochs:
            await stays_store.create_partitions(ours, each, *epoch_bounds(each))
        keyring = open_keyring(folder / "keys")
        yield Site(pool, keyring, client, wire, ours, theirs, server.process.pid, process.pid)


async def _simulator(folder: Path, url: str) -> tuple[asyncio.subprocess.Process, int]:
    secret, admin, port = folder / "secret", folder / "admin", demo.free_port()
    secret.write_text(SECRET)
    admin.write_text(ADMIN)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asm_daemon", "population", "serve", "--database-url", url, "--port", str(port)),
        *("--client-id", CLIENT, "--client-secret-file", str(secret), "--admin-token-file", str(admin)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    if answer.status == 200:
                        return process, port
            await asyncio.sleep(0.05)


# An id as a UUIDv7 of the time at which stay n of $1 was declared, evenly spread over the months.
_ID = "(lpad(to_hex($2::bigint + n * ($3::bigint - $2) / $1), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid"
_ITEM = "convert_to(n || repeat('x', 400), 'UTF8')"  # as long as an item


async def _fill(site: Site, stays: int, now: datetime) -> None:
    """Stays that agree: the same on both sides, down to the digest."""
    first = epoch_bounds(epoch_at(now - timedelta(days=31 * (MONTHS - 1))))[0].int >> 80
    bounds = (stays, first, int(now.timestamp() * 1000))
    await site.ours.execute(
        """
        INSERT INTO facilities (code, name, kind, province, commune, address, authority, capacity, created_at)
        SELECT 'HY-KS-' || lpad(n::text, 4, '0'), 'Cơ sở mẫu', 'hotel_4_star', '109', '11953', '1 Đường Mẫu',
               'Công an phường Mẫu', 50, now()
        FROM generate_series(1, $1::int) AS n
        """,
        FACILITIES,
    )
    await site.ours.execute(
        f"""
        INSERT INTO stays
        SELECT {_ID}, 1 + n % {FACILITIES}, 1, 'declared', 'declare', now(), now(), now(), now() + interval '1 day',
               NULL, now(), 0, n, n, n, decode(repeat('00', 16), 'hex'), gen_random_uuid(), 0,
               decode(repeat(md5(n::text), 30), 'hex')
        FROM generate_series(1, $1::bigint) AS n
        """,
        *bounds,
    )
    await site.ours.execute(
        f"""
        INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification, digest)
        SELECT 1 + n % {FACILITIES}, {_ID}, 1, now(), 'matched', sha256({_ITEM})
        FROM generate_series(1, $1::bigint) AS n
        """,
        *bounds,
    )
    await site.theirs.execute(
        f"""
        INSERT INTO stays (stay_id, version, status, facility_code, item, verification)
        SELECT {_ID}, 1, 'declared', 'HY-KS-' || lpad((1 + n % {FACILITIES})::text, 4, '0'), {_ITEM}, 'matched'
        FROM generate_series(1, $1::bigint) AS n
        """,
        *bounds,
    )
    await site.ours.execute("VACUUM ANALYZE")
    await site.theirs.execute("VACUUM ANALYZE")


async def _drift(site: Site, stays: int) -> None:
    """Ten stays, far apart, that can be opened and carried: six are gone there, of four they hold an older version."""
    step = stays // (MISSING + STALE)
    for place in range(MISSING + STALE):
        row = await site.ours.fetchrow(
            "SELECT id, facility_id FROM stays ORDER BY id OFFSET $1 LIMIT 1", place * step + step // 2
        )
        assert row is not None
        await _make_real(site, row["id"], row["facility_id"], 1 if place < MISSING else 2, place)
        if place < MISSING:
            await site.theirs.execute("DELETE FROM stays WHERE stay_id = $1", row["id"])


async def _make_real(site: Site, stay_id: UUID, facility_id: int, version: int, person: int) -> None:
    contents = Contents(declaration(person), new_salt(), None, "bench")
    sealed = seal_contents(site.keyring, facility_id, stay_id, version, contents)
    await site.ours.execute("UPDATE stays SET version = $2, sealed = $3 WHERE id = $1", stay_id, version, sealed)
    stay = (await sync_store.read_current(site.ours, [(facility_id, stay_id)]))[stay_id]
    sent = bytes.fromhex(digest(population_item(stay, contents)))
    await site.ours.execute("DELETE FROM sync_log WHERE facility_id = $1 AND stay_id = $2", facility_id, stay_id)
    await site.ours.execute(
        "INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification, digest)"
        " VALUES ($1, $2, $3, now(), 'matched', $4)",
        *(facility_id, stay_id, version, sent),
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else STAYS))
