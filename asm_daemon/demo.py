"""The demo: the whole main job on this machine, from an embedded PostgreSQL to the departments' extracts.

`demo --check` does it once in a temporary folder and says in JSON whether every step held; `demo` keeps its data,
prints where to look, and runs until Ctrl-C. Samples enter by the doors that real clients use: HTTP, a file, MLLP.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
from rich.console import Console

from asm_daemon import audit, embedded, feeds, rules, samples, samples_directory, sync
from asm_daemon import daemon as composition
from asm_daemon.crypto import KeyPurpose, epoch_at, generate_auditor_keys
from asm_daemon.daemon import Daemon, Ports, open_daemon, utc_now
from asm_daemon.intake import Command
from asm_daemon.keystores import create_store
from asm_daemon.ledger import canonical_json
from asm_daemon.log import configure_logging
from asm_daemon.mllp import END, START
from asm_daemon.model import Facility
from asm_daemon.receipts import verify_receipt
from asm_daemon.samples_directory import DORM, GUESTHOUSE, HOTEL, OWNED, RENTAL, SampleKeys
from asm_daemon.settings import Settings, load_settings
from asm_daemon.store import facilities as facilities_store
from asm_daemon.store.migrate import load_migrations, migrate
from connectors.population import simulator
from schemas.act import Act, ActKind
from schemas.codes import Department, FacilityKind, Reason

DEPLOYMENT = "asm.demo.example"
CLIENT_ID = "asm-demo"
ENVIRONMENT_FILE = "asm-daemon.env"
BLOCKS_A_DAY, DAYS = 10, 7
"""Each day of the week declares other people, so that a demo kept for some days does not meet its own guests."""
BACKGROUND_GUESTS = 8
WAIT_SECONDS = 60.0
HOTEL_ROWS, DORM_ROWS = 12, 15
PURPOSE, CASE_REF = "residence_check", "15/2026/HS-PC02"

console = Console(stderr=True)


class StepFailed(Exception):
    """A step of the main job did not hold."""


@dataclass(slots=True)
class Summary:
    """What `demo --check` prints."""

    steps: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    async def step(self, name: str, work: Awaitable[Any]) -> Any:
        """Do one step, show it, and keep its counts and its time."""
        started = time.perf_counter()
        with console.status(name):
            result = await work
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.steps[name] = result
        console.print(f"[green]✓[/green] {name} [dim]{self.seconds[name]:.1f} s[/dim]", highlight=False)
        return result


async def demo(directory: Path | None, *, port: int = 8080, mllp_port: int = 2575) -> int:
    """Run the demo in `directory` until SIGINT or SIGTERM; with None, the check in a temporary folder. Exit code."""
    summary = Summary()
    started = time.perf_counter()
    try:
        if directory is not None:
            await _stay_up(directory, port, mllp_port, summary)
            return 0
        with tempfile.TemporaryDirectory(prefix="asm-check-") as folder:
            async with _running(Path(folder), free_port(), free_port(), summary, durable=False) as site:
                await _main_job(site, summary)
    except PermissionError as failure:
        console.print(f"[red]✗[/red] no right to write to {failure.filename}: choose another --directory")
        return 1
    except (StepFailed, embedded.EmbeddedPostgresError, OSError) as failure:
        console.print(f"[red]✗[/red] {failure}", highlight=False)
        if directory is None:
            _print_json({"ok": False, "failed": str(failure), "steps": summary.steps})
        return 1
    total = round(time.perf_counter() - started, 2)
    _print_json({"ok": True, "seconds": total, "steps": summary.steps, "seconds_by_step": summary.seconds})
    return 0


def _print_json(document: Mapping[str, Any]) -> None:
    os.write(1, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


# -- the installation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """A running installation and what the demo needs to use it."""

    server: embedded.EmbeddedPostgres
    daemon: Daemon
    ports: Ports
    keys: SampleKeys
    http: aiohttp.ClientSession
    day: date
    block: int

    async def call(self, key: str, method: str, path: str, **options: Any) -> Any:
        """The JSON answer of our own API. Raises StepFailed for a refusal."""
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        async with self.http.request(method, path, headers=headers, **options) as response:
            content = await response.json(content_type=None)
            if response.status >= 300:
                raise StepFailed(f"{method} {path} → {response.status} {content.get('code')}")
            return content


@asynccontextmanager
async def _running(
    directory: Path, port: int, mllp_port: int, summary: Summary, *, durable: bool = True
) -> AsyncIterator[Site]:
    """Start everything in `directory`, in the order in which it depends on each other; stop it in reverse.

    Without `durable` the database is a throw-away one without fsync.
    """
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    _refuse_busy(port, mllp_port)
    day = rules.local_day(utc_now())
    configure_logging("warning", DEPLOYMENT)
    async with AsyncExitStack() as stack:
        server = await summary.step("start PostgreSQL", embedded.start(directory / "postgres" if durable else None))
        stack.push_async_callback(server.stop)
        summary.steps["start PostgreSQL"] = {"version": server.major}
        await summary.step("migrate", prepare_databases(server))
        secret, admin_token = secrets.token_hex(16), secrets.token_hex(16)
        _write_private(directory / "population.admin", admin_token.encode())  # for who wants to see failures
        population_port = await stack.enter_async_context(
            _background(
                lambda ready: simulator.serve(
                    server.dsn(database="population"),
                    "127.0.0.1",
                    0,
                    client_id=CLIENT_ID,
                    client_secret=secret,
                    admin_token=admin_token,
                    ready=ready,
                )
            )
        )
        await summary.step("seed the population", _seed(server))
        settings = await asyncio.to_thread(_settings, directory, server, port, mllp_port, population_port, secret)
        built = await stack.enter_async_context(open_daemon(settings))
        keys = await summary.step("enter the sample directory", _enter_directory(built))
        summary.steps["enter the sample directory"] = {"facilities": len(samples_directory.SAMPLE_FACILITIES)}
        stop = asyncio.Event()
        ports = await stack.enter_async_context(_background(lambda ready: composition.run(built, stop, ready), stop))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{ports.http}", timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS))
        )
        yield Site(server, built, ports, keys, http, day, BLOCKS_A_DAY * (day.toordinal() % DAYS))


@asynccontextmanager
async def _background(
    start: Callable[[Callable[[Any], None]], Awaitable[None]], stop: asyncio.Event | None = None
) -> AsyncIterator[Any]:
    """Run a server beside us; what it says when it is ready is yielded. Its death is ours."""
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(start(ready.set_result))
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    try:
        yield ready.result()
    finally:
        if stop is not None:
            stop.set()
            await task
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def prepare_databases(server: embedded.EmbeddedPostgres) -> Mapping[str, int]:
    """Make and migrate the daemon's database, and make the simulator's."""
    connection = await asyncpg.connect(server.dsn())
    try:
        for name in ("asm", "population"):
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    connection = await asyncpg.connect(server.dsn(database="asm"))
    try:
        applied = await migrate(connection, load_migrations())
    finally:
        await connection.close()
    return {"applied": len(applied)}


async def _seed(server: embedded.EmbeddedPostgres) -> Mapping[str, int]:
    wanted = samples.PEOPLE_OF_SEED * BLOCKS_A_DAY * DAYS
    seeding = await simulator.seed(server.dsn(database="population"), wanted, None)
    return {"added": seeding.added, "persons": seeding.total}


def _settings(
    directory: Path, server: embedded.EmbeddedPostgres, port: int, mllp_port: int, population_port: int, secret: str
) -> Settings:
    """The demo's settings, read as the daemon reads its environment; a file of them is for the other commands."""
    key_store, auditor, secret_file = directory / "keys", directory / "auditor.pub", directory / "population.secret"
    _make_keys(directory, key_store, auditor)
    _write_private(secret_file, secret.encode())
    environment = {
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": DEPLOYMENT,
        "ASM_DATABASE_URL": server.dsn("{role}", "asm"),
        "ASM_KEY_STORE": str(key_store.absolute()),
        "ASM_LISTEN": f"127.0.0.1:{port}",
        "ASM_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "ASM_MLLP_LISTEN": f"127.0.0.1:{mllp_port}",
        "ASM_POPULATION_URL": f"http://127.0.0.1:{population_port}",
        "ASM_POPULATION_CLIENT_ID": CLIENT_ID,
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret_file.absolute()),
        "ASM_AUDITOR_PUBLIC_KEY_FILE": str(auditor.absolute()),
        "ASM_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "ASM_LOG_LEVEL": "warning",
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items())
    _write_private(directory / ENVIRONMENT_FILE, lines.encode())
    return load_settings(environment)


def _make_keys(directory: Path, key_store: Path, auditor: Path) -> None:
    if not key_store.exists():
        now = utc_now()
        create_store(key_store, [epoch_at(now)], now)
    if not auditor.exists():
        pair = generate_auditor_keys()
        _write_private(directory / "auditor.key", pair.private_key)  # in production it never comes near the daemon
        _write_private(auditor, pair.public_key)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


async def _enter_directory(running: Daemon) -> SampleKeys:
    return await samples_directory.load(running.pools["asm_auth"], running.keyring, utc_now())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_busy(*ports: int) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise StepFailed(f"port {port} is in use: choose others with --port and --mllp-port") from None


# -- the main job ------------------------------------------------------------------------------------------------------


async def _main_job(site: Site, summary: Summary) -> None:
    """Declare, keep, prove, carry, count, find: every step raises StepFailed if it does not hold."""
    receipt = await _declare_samples(site, summary)
    await summary.step("declare the other facilities' guests", _declare_background(site))
    await summary.step("confirmed by the population database", _until_confirmed(site))
    await summary.step("publish", _publish(site))
    await summary.step("read the extracts", _read_extracts(site))
    await summary.step("police search", _search(site))
    await summary.step("verify the audit", _verify_audit(site))
    await summary.step("verify a receipt", _verify_receipt(site, receipt))


async def _declare_samples(site: Site, summary: Summary) -> Mapping[str, Any]:
    """One real sample through each of the five kinds of facility; the guesthouse's receipt."""
    owners, block, day = site.keys.owners, site.block, site.day
    workbook = samples.official_xlsx(day, HOTEL_ROWS, block)
    await summary.step("hotel: official XLSX", _import(site, HOTEL, "khach.xlsx", workbook, HOTEL_ROWS))
    guest = samples.declaration(day, block + 1)
    filed = await summary.step("guesthouse: JSON", site.call(owners[GUESTHOUSE], "POST", "/v1/stays", json=guest))
    summary.steps["guesthouse: JSON"] = _shown(filed)
    tenant = samples.declaration(day, block + 2)
    rented = await summary.step("rental housing: JSON", site.call(owners[RENTAL], "POST", "/v1/stays", json=tenant))
    summary.steps["rental housing: JSON"] = _shown(rented)
    roster = samples.dorm_roster_csv(day, DORM_ROWS, block + 3)
    await summary.step("industrial-zone dorm: CSV roster", _apply_roster(site, roster))
    await summary.step("hospital ward: HL7 over MLLP", _admit_and_discharge(site))
    receipt: Mapping[str, Any] = filed["receipt"]
    return receipt


def _shown(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: result[name] for name in ("outcome", "version", "late_minutes")}


async def _import(site: Site, facility: str, name: str, document: bytes, rows: int) -> Mapping[str, int]:
    form = aiohttp.FormData({"connector": "spreadsheet"})
    form.add_field("file", document, filename=name)
    result = await site.call(site.keys.owners[facility], "POST", "/v1/imports", data=form)
    if result["refused"] or result["received"] != rows:
        raise StepFailed(f"{name}: {result['received']} rows read, {result['refused']} refused, {rows} sent")
    return {count: result[count] for count in ("received", "accepted", "duplicate", "refused")}


async def _apply_roster(site: Site, document: bytes) -> Mapping[str, int]:
    """The dorm's full list: a plan, looked at, then done. Another day of a kept demo lists other workers."""
    form = aiohttp.FormData({"scope": "all"})
    form.add_field("file", document, filename="roster.csv")
    key = site.keys.owners[DORM]
    plan = await site.call(key, "POST", "/v1/rosters", data=form)
    actions = plan["counts"]["actions"]
    confirmed = {"confirm_check_outs": actions["check_out"]}
    result = await site.call(key, "POST", f"/v1/rosters/{plan['plan_id']}:apply", json=confirmed)
    if actions["refused"] or result["counts"]["refused"] or plan["counts"]["rows"] != DORM_ROWS:
        raise StepFailed(f"roster.csv: {plan['counts']['rows']} rows read, {result['counts']['refused']} refused")
    return {action: count for action, count in actions.items() if count}


async def _admit_and_discharge(site: Site) -> Mapping[str, str]:
    admitted = await _send_hl7(site, samples.adt_a01(site.day, 1, seed=site.block + 4))
    # Who leaves came yesterday, and leaves as the day begins: a demo runs at any time of the day, also just after that.
    yesterday, seed = site.day - timedelta(days=1), site.block + 4
    await _send_hl7(site, samples.adt_a01(yesterday, 2, seed=seed))
    discharged = await _send_hl7(site, samples.adt_a03(site.day, 2, seed=seed, at=clock(0), admitted_on=yesterday))
    return {"A01": admitted, "A03": discharged}


async def _send_hl7(site: Site, message: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.ports.mllp)
    try:
        writer.write(START + message + END + b"\r")
        async with asyncio.timeout(WAIT_SECONDS):
            answer = (await reader.readuntil(END)).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    code = answer.split("MSA|", 1)[1][:2]
    if code != "AA":
        raise StepFailed(f"HL7 acknowledged with {code}: {answer.split('MSA|', 1)[1].split('|', 2)[2][:200]}")
    return code


async def _declare_background(site: Site) -> Mapping[str, int]:
    """Guests of every other facility, so that the departments have something to count."""
    others = [new.code for new in samples_directory.SAMPLE_FACILITIES if not new.sandbox and new.code not in OWNED]
    async with site.daemon.pools["asm_auth"].acquire() as connection:
        found = [await facilities_store.facility_by_code(connection, code) for code in others]
    commands = [
        Command(facility, _guest_of(site, facility, place * BACKGROUND_GUESTS + guest), utc_now(), actor="demo")
        for place, facility in enumerate(facility for facility in found if facility is not None)
        for guest in range(BACKGROUND_GUESTS)
    ]
    outcomes = await site.daemon.intake.submit(commands)
    counts = {
        name: sum(outcome.outcome == name for outcome in outcomes) for name in ("accepted", "duplicate", "refused")
    }
    if counts["refused"]:
        raise StepFailed(f"{counts['refused']} background declarations were refused")
    return counts


_REASONS = {
    FacilityKind.MEDICAL_FACILITY: Reason.MEDICAL_TREATMENT,
    FacilityKind.INDUSTRIAL_ZONE_HOUSING: Reason.LABOUR,
    FacilityKind.RENTAL_HOUSING: Reason.LABOUR,
}


def _guest_of(site: Site, facility: Facility, index: int) -> Act:
    fields = samples.declaration(site.day, site.block + 5, index=index)
    if facility.kind in _REASONS:
        fields["reason"] = int(_REASONS[facility.kind])
    return Act(ActKind.DECLARE, fields, row=index + 1, source_ref=fields["source_ref"])


async def _until_confirmed(site: Site) -> Mapping[str, int]:
    """Wait until the population database has every version of every stay."""
    deadline = time.perf_counter() + WAIT_SECONDS
    while True:
        state = await sync.conservation(site.daemon.pools["asm_sync"])
        if state.queued == state.waiting == 0:
            break
        if time.perf_counter() > deadline:
            raise StepFailed(f"not confirmed after {WAIT_SECONDS:.0f} s: {state}")
        await asyncio.sleep(0.05)
    if state.refused:
        raise StepFailed(f"the population database refused {state.refused} stays")
    return {"stays": state.stays, "confirmed": state.confirmed}


async def _publish(site: Site) -> Mapping[str, Any]:
    built = site.daemon
    return await feeds.publish_once(built.pools["asm_publish"], built.keyring, site.day, utc_now())


async def _read_extracts(site: Site) -> Mapping[str, Any]:
    """Each department reads its own extract: it must hold published and suppressed cells."""
    shown = {}
    for department in Department:
        release = await site.call(site.keys.departments[department], "GET", f"/v1/feeds/daily/{site.day}")
        cells = release["cells"]
        published = sum(not cell["suppressed"] for cell in cells)
        if not published or published == len(cells):
            raise StepFailed(f"{department}: {published} of {len(cells)} cells are published")
        shown[department.value] = {"published": published, "suppressed": len(cells) - published}
    return shown


async def _search(site: Site) -> Mapping[str, Any]:
    """An officer finds the guesthouse's guest by document number, and leaves a trace."""
    guest = samples.declaration(site.day, site.block + 1)["guest"]
    question = {"document_number": guest["document"]["number"], "purpose": PURPOSE, "case_ref": CASE_REF}
    found = await site.call(site.keys.officer, "POST", "/v1/police/searches", json=question)
    if [stay["facility"]["code"] for stay in found["stays"]][:1] != [GUESTHOUSE]:
        raise StepFailed("the police search did not find the guest")
    return {"found": len(found["stays"])}


async def _verify_audit(site: Site) -> Mapping[str, Any]:
    running = site.daemon
    key = running.keyring.signing_key(KeyPurpose.CHECKPOINT)
    async with running.pools["asm_audit"].acquire() as connection:
        await audit.seal_once(connection, key, running.settings.deployment, utc_now())
        note_key = audit.note_key(running.settings.deployment, key.public_key_bytes)
        verified = await audit.verify(connection, note_key)
    if verified.faults:
        raise StepFailed(f"the audit has {len(verified.faults)} faults")
    return {"entries": verified.entries, "checkpoints": verified.checkpoints, "faults": 0}


async def _verify_receipt(site: Site, receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The receipt verifies with the public key alone, and proves what was declared."""
    key = site.daemon.keyring.signing_key(KeyPurpose.RECEIPT_TRIAL)
    verified = verify_receipt(receipt["signed"], key.public_key_bytes)
    stay = await site.call(site.keys.owners[GUESTHOUSE], "GET", f"/v1/stays/{verified.leaf.stay_id}?view=full")
    if not verified.proves(stay["declaration"]):
        raise StepFailed("the receipt does not prove what was declared")
    async with site.http.get(f"/check/{receipt['code']}") as page:
        if page.status != 200:
            raise StepFailed(f"the check page does not know the code: {page.status}")
    return {"code": receipt["code"], "proof_hashes": len(receipt["signed"]["proof"])}


# -- staying up --------------------------------------------------------------------------------------------------------


async def _stay_up(directory: Path, port: int, mllp_port: int, summary: Summary) -> None:
    async with _running(directory, port, mllp_port, summary) as site:
        await _main_job(site, summary)
        console.print(_where_to_look(site, directory / ENVIRONMENT_FILE), highlight=False, soft_wrap=True)
        await _until_told_or_broken(site)
        console.print("stopping …")


async def _until_told_or_broken(site: Site) -> None:
    """Wait for a signal; raises StepFailed when PostgreSQL ends first, for a demo without its data shows nothing."""
    told = asyncio.ensure_future(composition.until_signalled())
    broken = asyncio.ensure_future(site.server.process.wait())
    await asyncio.wait([told, broken], return_when=asyncio.FIRST_COMPLETED)
    for waiting in (told, broken):
        waiting.cancel()
    if broken.done() and not told.done():
        raise StepFailed("PostgreSQL has ended. What was declared is kept: start the demo again.")


def _where_to_look(site: Site, environment: Path) -> str:
    base, keys = f"http://127.0.0.1:{site.ports.http}", site.keys
    program = Path(sys.executable).with_name("asm-daemon")
    holders = {
        **{f"owner {code}": key for code, key in keys.owners.items()},
        "vendor": keys.vendor,
        "officer": keys.officer,
        **{f"department {department.value}": key for department, key in keys.departments.items()},
        "operator": keys.operator,
        "sandbox": keys.sandbox,
    }
    body = canonical_json(samples.declaration(site.day, site.block + 6)).decode()
    search = {
        "document_number": samples.declaration(site.day, site.block + 1)["guest"]["document"]["number"],
        "purpose": PURPOSE,
        "case_ref": CASE_REF,
    }
    lines = [
        "",
        f"[bold]{base}/[/bold]           start page",
        f"[bold]{base}/docs[/bold]       API documentation (offline)",
        f"[bold]{base}/check[/bold]      check a receipt",
        f"MLLP (HL7 v2)  127.0.0.1:{site.ports.mllp}",
        "",
        "API keys (new at each start):",
        *(f"  {holder:<28} {key}" for holder, key in holders.items()),
        "",
        "Declare a guest, find them as the police, read an extract:",
        f"  curl -s {base}/v1/stays -H 'Authorization: Bearer {keys.owners[GUESTHOUSE]}' \\",
        f"    -H 'Content-Type: application/json' -d '{body}'",
        f"  curl -s {base}/v1/police/searches -H 'Authorization: Bearer {keys.officer}' \\",
        f"    -H 'Content-Type: application/json' -d '{canonical_json(search).decode()}'",
        f"  curl -s {base}/v1/feeds/daily/{site.day} -H 'Authorization: Bearer {keys.departments[Department.TOURISM]}'",
        "",
        "Every command of the daemon works on this demo, for example:",
        f"  set -a; . {os.path.relpath(environment)}; set +a; {os.path.relpath(program)} audit verify",
        "",
        "Ctrl-C stops it; the data stay.",
    ]
    return "\n".join(lines).replace("[/v1", "\\[/v1")
