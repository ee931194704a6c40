"""The command line: wrong arguments and a missing world first, then what an operator does with each command."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import orjson
import pytest
from typer.testing import CliRunner, Result
from uuid_utils.compat import uuid7

from asm_daemon import __version__, audit, samples
from asm_daemon.__main__ import app
from asm_daemon.commands.console import print_table
from asm_daemon.crypto import KeyPurpose, Keyring, epoch_at, next_epoch
from asm_daemon.directory import Gate
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.intake import Intake
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Facility, Scope
from asm_daemon.rules import local_day
from asm_daemon.sealing import seal_message_header
from asm_daemon.settings import Settings
from asm_daemon.store import alerts, hospital
from asm_daemon.store.alerts import AlertKind
from asm_daemon.witness import NAME_FILE as WITNESS_NAME
from asm_daemon.witness import create_store as create_witness
from connectors.population import simulator
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.synthetic import person
from tests.backlog import put_off, refuse
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker, Pools, declaration
from tests.stack import command as act

DONE, NO, WRONG, UNREADY = 0, 1, 2, 3
ME = f"operator:{pwd.getpwuid(os.getuid()).pw_name}"
DAY = local_day(datetime.now(UTC))
SECRET = "test-secret"
FACILITY = {
    "--code": "HY-KS-0001",
    "--name": "Khách sạn Mẫu",
    "--kind": "hotel_4_star",
    "--province": "109",
    "--commune": "11953",
    "--address": "1 Đường Mẫu",
    "--authority": "Công an phường Mẫu",
    "--capacity": "50",
}
Command = Callable[..., Awaitable[Result]]


@pytest.fixture(scope="module")
def key_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of this month and the next; no command changes them."""
    folder, now = tmp_path_factory.mktemp("keys") / "store", datetime.now(UTC)
    create_store(folder, [epoch_at(now), next_epoch(epoch_at(now))], now)
    return folder


@pytest.fixture
def keyring(key_store: Path) -> Keyring:
    """What the tests declare is sealed as the commands would."""
    return open_keyring(key_store)


@pytest.fixture
def environment(key_store: Path, tmp_path: Path) -> dict[str, str]:
    """What the commands read: keys, and nobody at any address."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    return {
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": "asm.test.example",
        "ASM_DATABASE_URL": "postgresql://{role}@127.0.0.1:1/asm",
        "ASM_KEY_STORE": str(key_store),
        "ASM_LISTEN": "127.0.0.1:0",
        "ASM_MLLP_LISTEN": "127.0.0.1:0",
        "ASM_PUBLIC_URL": "http://127.0.0.1",
        "ASM_POPULATION_URL": "http://127.0.0.1:1",
        "ASM_POPULATION_CLIENT_ID": "asm-test",
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret),
    }


@pytest.fixture
def alone(environment: dict[str, str]) -> Command:
    """`await alone("keys", "list")` runs a command in this process, without a database.

    It ended as a program ends; a crash fails the test.
    """

    async def run(*arguments: str, typed: str | None = None, **changes: str) -> Result:
        settings = {**environment, **changes}
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=typed, env=settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def asm(alone: Command, database: Database) -> Command:
    """`await asm("facility", "list")` runs a command on the migrated database of this test."""
    return partial(alone, ASM_DATABASE_URL=database.url)


def options(given: dict[str, str]) -> list[str]:
    return [part for option in given.items() for part in option]


# -- wrong arguments, wrong settings, a world that is not ready --------------------------------------------------------


async def test_everything_wrong_with_a_facility_is_said_at_once_in_both_languages(alone: Command) -> None:
    wrong = {"--code": "hy ks", "--kind": "castle", "--province": "999", "--capacity": "many"}
    result = await alone("facility", "add", *options(wrong))
    assert result.exit_code == WRONG
    assert result.stdout == ""
    for option in (*wrong, "--name", "--commune", "--address", "--authority"):
        assert f"  {option}: " in result.stderr
    assert "Thiếu thông tin bắt buộc. · This is required." in result.stderr
    assert "castle" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["principal", "add", "--kind", "king", "--department", "war"], ["kind", "name", "organisation", "department"]),
        (["key", "create", "--principal", "me", "--valid-days", "367"], ["principal", "valid-days"]),
        (["grant", "add", "--principal", "me", "--scopes", "declare,all"], ["principal", "facility", "scopes"]),
        (["grant", "revoke"], ["principal", "facility"]),
        (["sender", "add", "--sending-application", ""], ["sending-application", "sending-facility", "facility"]),
        (["hotel-system", "add", "--system", "opera", "--base-url", "http://hotel.example", "--token-url", "x"],
         ["facility", "system", "base-url", "token-url", "credentials-file"]),
        (["hotel-system", "remove", "--system", "opera"], ["facility", "system"]),
        (["webhook", "add", "--principal", "me", "--url", "x", "--events", "all"], ["url", "events", "principal"]),
        (["webhook", "disable", "--webhook", "mine"], ["webhook"]),
    ],
)  # fmt: skip
async def test_every_wrong_argument_is_named_by_its_option(
    alone: Command, arguments: list[str], named: list[str]
) -> None:
    result = await alone(*arguments)
    assert (result.exit_code, told(result)) == (WRONG, [f"--{name}" for name in named])


def told(result: Result) -> list[str]:
    """The options that an error names."""
    return [line.split(":")[0].strip() for line in result.stderr.splitlines() if line.startswith("  --")]


async def test_what_only_the_database_knows_to_be_wrong_is_named_too(asm: Command, workbook: Path) -> None:
    owner = ["--kind", "owner", "--name", "Chủ Mẫu", "--organisation", "Khách sạn Mẫu"]
    principal = (await asm("principal", "add", *owner)).stdout.strip()
    unknown = ["--facility", "HY-KS-0001"]
    for arguments, option in (
        (["principal", "add", *owner, "--department", "health"], "--department"),
        (["key", "create", "--principal", str(UUID(int=0))], "--principal"),
        (["grant", "add", "--principal", principal, *unknown], "--facility"),
        (["sender", "add", "--sending-application", "HIS", "--sending-facility", "BV", *unknown], "--facility"),
        (["import", str(workbook), *unknown], "--facility"),
    ):
        result = await asm(*arguments)
        assert (result.exit_code, told(result)) == (WRONG, [option])


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "no-such-file", "--facility", "HY-KS-0001"],
        ["once", "seal-audit", "--period", "2026-11-23"],
        ["once", "publish", "--period", "23/11/2026"],
        ["extract", "show", "war", "2026-11-23"],
        ["keys", "public", "data"],
        ["population", "seed", "--database-url", "postgresql://x@/y", "--persons", "0"],
        ["demo", "--port", "70000"],
    ],
)
async def test_what_cannot_be_asked_for_is_refused(alone: Command, arguments: list[str]) -> None:
    result = await alone(*arguments)
    assert result.exit_code == WRONG
    assert "Error: Invalid value for" in result.stderr


async def test_nothing_starts_on_wrong_settings(alone: Command) -> None:
    for command in (["run"], ["facility", "list"], ["keys", "init"]):
        result = await alone(*command, ASM_KEY_STORE="", ASM_ENVIRONMENT="test")
        assert result.exit_code == WRONG
        assert "ASM_ENVIRONMENT: must be 'trial' or 'production'\n  ASM_KEY_STORE is missing" in result.stderr


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://{role}@127.0.0.1:1/asm", "no connection to the database: "),
        ("postgresql://{role}:geheim@127.0.0.1:port/asm", "the URL cannot be used"),
        ("no_such_database", '"no_such_database" does not exist; create it, then run: asm-daemon migrate'),
        ("postgres", "migrations; run: asm-daemon migrate"),
    ],
)
async def test_a_database_that_is_away_missing_or_not_migrated_is_said_in_one_line(
    alone: Command, server: EmbeddedPostgres, template: str, url: str, reason: str
) -> None:
    given = url if "://" in url else server.dsn("{role}", url)
    for command in (["run"], ["facility", "list"], ["once", "sync"], ["audit", "checkpoint"]):
        result = await alone(*command, ASM_DATABASE_URL=given)
        assert result.exit_code == UNREADY
        assert result.stderr.count("\n") == 1
        assert reason in result.stderr
        assert "geheim" not in result.output


async def test_production_does_not_start_on_a_database_that_logs_values(asm: Command, database: Database) -> None:
    superuser = await database.connect()
    await superuser.execute(f"ALTER ROLE asm_police IN DATABASE {database.name} SET log_parameter_max_length = -1")
    https = "https://asm.example"
    result = await asm("run", ASM_ENVIRONMENT="production", ASM_PUBLIC_URL=https, ASM_POPULATION_URL=https)
    assert (result.exit_code, result.stderr.count("\n")) == (UNREADY, 1)
    assert "ALTER SYSTEM SET log_parameter_max_length = '0';" in result.stderr


async def test_a_login_that_is_not_let_in_is_said_in_one_line(alone: Command, server: EmbeddedPostgres) -> None:
    result = await alone("migrate", "--check", "--url", server.dsn("asm_stranger"))
    assert (result.exit_code, result.stderr.count("\n")) == (UNREADY, 1)
    assert 'role "asm_stranger" does not exist' in result.stderr
    assert "pg_hba.conf" in result.stderr


async def test_without_a_key_store_the_command_that_makes_one_is_named(asm: Command) -> None:
    for command in (["run"], ["keys", "list"], ["keys", "public"], ["audit", "verify"]):
        result = await asm(*command, ASM_KEY_STORE="/nowhere/keys")
        assert result.exit_code == UNREADY
        assert result.stderr.endswith("make one with: asm-daemon keys init\n")


async def test_a_crash_is_told_by_type_and_place_and_never_by_its_message(tmp_path: Path) -> None:
    program = """
from asm_daemon import __main__ as command_line
@command_line.app.command()
def crash() -> None:
    raise RuntimeError("000190000001")
command_line.main()
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "crash", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    logged = orjson.loads(errors)
    assert (logged["event"], logged["exception"][0]["type"]) == ("crashed", "builtins.RuntimeError")
    assert b"000190000001" not in errors


# -- the installation --------------------------------------------------------------------------------------------------


async def test_the_program_says_its_version_and_helps(alone: Command) -> None:
    assert (await alone("--version")).stdout == f"{__version__}\n"
    assert "khai báo từ tệp" in (await alone("--help")).stdout
    for command in app.registered_groups:
        assert "Commands:" in (await alone(str(command.name), "--help")).stdout


async def test_the_code_tables_are_listed_with_count_date_and_source_without_any_setting(alone: Command) -> None:
    listed = {row["name"]: row for row in orjson.loads((await alone("codes", "--json")).stdout)}
    assert (listed["communes"]["rows_in_force"], listed["communes"]["dated_on"]) == (3_321, "2025-07-01")
    assert listed["provinces"]["rows_in_force"] == 34
    assert "3321" in (await alone("codes")).stdout


async def test_migrate_says_what_it_applies_and_a_second_time_nothing(alone: Command, empty_database: Database) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    before = await alone("migrate", "--url", url, "--check")
    assert before.exit_code == NO
    applied = await alone("migrate", "--url", url)
    assert applied.exit_code == DONE
    assert applied.stdout == before.stdout
    assert applied.stdout.startswith("0001_roles\n0002_directory\n")
    again = await alone("migrate", "--check", ASM_DATABASE_URL=empty_database.url)
    assert (again.exit_code, again.stdout) == (DONE, "")


async def test_a_key_store_is_made_once_and_listed_without_its_keys(alone: Command, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    made = await alone("keys", "init", ASM_KEY_STORE=str(folder))
    assert (made.exit_code, made.stdout) == (DONE, f"{folder}\n")
    assert "apart from the database" in made.stderr
    assert (await alone("keys", "init", ASM_KEY_STORE=str(folder))).exit_code == UNREADY
    listed = json.loads((await alone("keys", "list", "--json", ASM_KEY_STORE=str(folder))).stdout)
    this_month = epoch_at(datetime.now(UTC))
    names = [key["name"] for key in listed]
    assert {f"data/{this_month}/1", f"index/{next_epoch(this_month)}/1", "receipt/1", "checkpoint/1"} <= set(names)
    assert set(listed[0]) == {
        "name", "purpose", "epoch", "version", "algorithm", "state", "created_at", "rewrapped_at", "messages",
        "destroyed_at",
    }  # fmt: skip
    assert {key["state"] for key in listed} == {"active"}
    table = (await alone("keys", "list", ASM_KEY_STORE=str(folder))).stdout
    assert [name for name in names if name not in table] == []


async def test_the_public_keys_are_printed_together_or_one_by_one(alone: Command) -> None:
    everything = (await alone("keys", "public")).stdout
    assert everything.count("-----BEGIN PUBLIC KEY-----") == 3
    one = (await alone("keys", "public", "checkpoint")).stdout
    assert one.startswith("checkpoint/1\n-----BEGIN PUBLIC KEY-----\n")
    assert one in everything


async def test_the_demo_says_when_its_port_is_taken(alone: Command, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = await alone("demo", "--directory", str(tmp_path / "demo"), "--port", port)
    assert result.exit_code == NO


def test_the_systemd_unit_agrees_with_the_program() -> None:
    unit = (Path(__file__).parents[1] / "deploy" / "asm-daemon.service").read_text("utf-8")
    given = dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"[A-Z]\w+=", line))
    assert given["Type"] == "notify"
    assert given["ExecStart"].endswith("/asm-daemon run")
    assert given["RestartPreventExitStatus"] == str(WRONG)
    # Accepted work and then the jobs under way may each take the whole time.
    assert int(given["TimeoutStopSec"]) > 2 * Settings.model_fields["shutdown_seconds"].default


@pytest.mark.parametrize("unit", ["asm-daemon.service", "asm-witness.service"])
def test_no_systemd_unit_lets_its_program_leave_a_core_dump(unit: str) -> None:
    assert "LimitCORE=0" in (Path(__file__).parents[1] / "deploy" / unit).read_text("utf-8").splitlines()


# -- programs that stay ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def program(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real program, which is ended with SIGTERM when the block is left, if it has not ended by then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "asm_daemon",
        *arguments,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


def core_dump_limits(pid: int) -> list[str]:
    """How large a core dump of this process may be: the soft limit, and the hard one that nothing raises again."""
    limits = Path(f"/proc/{pid}/limits").read_text("ascii")
    [found] = re.findall(r"^Max core file size +(\w+) +(\w+)", limits, re.MULTILINE)
    return list(found)


async def test_the_daemon_leaves_no_core_dump_reports_ready_answers_and_ends_well_on_sigterm(
    environment: dict[str, str], database: Database, tmp_path: Path
) -> None:
    environment["ASM_DATABASE_URL"] = database.url
    supervisor = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(supervisor))
        async with program("run", NOTIFY_SOCKET=str(supervisor), **environment) as process:
            async with asyncio.timeout(60):
                assert await asyncio.get_running_loop().sock_recv(channel, 100) == b"READY=1"
            assert process.stderr is not None
            logged = [orjson.loads(await process.stderr.readline()) for _ in range(2)]
            ports = {line["listen"]: line["port"] for line in logged if line["event"] == "listening"}
            assert set(ports) == {"http", "mllp"}
            assert core_dump_limits(process.pid) == ["0", "0"]
            async with aiohttp.request("GET", f"http://127.0.0.1:{ports['http']}/readyz") as answer:
                assert (await answer.json())["ready"] is True
            process.send_signal(signal.SIGTERM)
            output, errors = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    logged = [orjson.loads(line) for line in errors.splitlines()]
    assert [line for line in logged if line["level"] != "info"] == []
    assert logged[-1]["event"] == "stopped"


async def test_the_simulator_serves_until_sigterm(empty_database: Database, tmp_path: Path) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    for name in ("secret", "admin"):
        (tmp_path / name).write_text(f"{name}\n")
    files = {"--client-secret-file": str(tmp_path / "secret"), "--admin-token-file": str(tmp_path / "admin")}
    given = {"--database-url": url, "--client-id": "asm", "--port": "0", **files}
    async with program("population", "serve", *options(given)) as process:
        assert process.stderr is not None
        address = (await process.stderr.readline()).decode().strip()
        login = {"Authorization": aiohttp.encode_basic_auth("asm", "secret")}
        grant = {"grant_type": "client_credentials"}
        async with aiohttp.request("POST", f"{address}/oauth2/token", headers=login, data=grant) as answer:
            assert answer.status == 200
        headers = {"Authorization": "Bearer admin"}
        async with aiohttp.request("GET", f"{address}/admin/violations", headers=headers) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_seeding_goes_on_where_it_was_stopped(alone: Command, empty_database: Database) -> None:
    url = empty_database.url.replace("{role}", "postgres")
    for persons, added in ((10, 10), (25, 15)):
        result = await alone("population", "seed", "--database-url", url, "--persons", str(persons))
        assert result.exit_code == DONE
        done = json.loads(result.stdout)
        assert (done["added"], done["persons"]) == (added, persons)


# -- the directory -----------------------------------------------------------------------------------------------------


async def test_an_operator_enters_a_facility_and_lets_its_owner_declare(
    asm: Command, pools: Pools, database: Database
) -> None:
    disguise = {"LOGNAME": "somebody", "USER": "somebody", "SUDO_USER": "somebody"}
    assert (await asm("facility", "add", *options(FACILITY), **disguise)).stdout == "HY-KS-0001\n"
    owner = {"--kind": "owner", "--name": "Chủ Mẫu", "--organisation": "Khách sạn Mẫu"}
    principal = (await asm("principal", "add", *options(owner))).stdout.strip()
    created = await asm("key", "create", "--principal", principal, "--valid-days", "30")
    key = created.stdout.strip()
    assert "cannot be shown again" in created.stderr
    granted = await asm("grant", "add", "--principal", principal, "--facility", "HY-KS-0001", "--scopes", "declare")
    assert granted.exit_code == DONE

    gate = Gate(await pools.get("asm_auth"), 0)
    known = await gate.authenticate(key, datetime.now(UTC))
    assert (str(known.id), known.name) == (principal, "Chủ Mẫu")
    assert known.grants["HY-KS-0001"][1] == {Scope.DECLARE}
    connection = await database.connect()
    actors = await connection.fetch("SELECT DISTINCT convert_from(body, 'UTF8')::json->>'actor' FROM audit_pending")
    assert [row[0] for row in actors] == [ME]


async def test_what_was_given_is_taken_back_once(asm: Command, make_facility: FacilityMaker) -> None:
    await make_facility()
    vendor = {"--kind": "vendor", "--name": "Phần mềm Mẫu", "--organisation": "Công ty Mẫu"}
    principal = (await asm("principal", "add", *options(vendor))).stdout.strip()
    key_id = (await asm("key", "create", "--principal", principal)).stdout.split("_")[1]
    at = ["--principal", principal, "--facility", "HY-KS-0001"]
    assert (await asm("grant", "add", *at)).exit_code == DONE
    assert [(await asm("grant", "revoke", *at)).exit_code for _ in range(2)] == [DONE, NO]
    assert [(await asm("key", "revoke", key_id)).exit_code for _ in range(2)] == [DONE, NO]
    (listed,) = json.loads((await asm("key", "list", "--json")).stdout)
    assert (listed["id"], listed["principal"], listed["kind"]) == (key_id, principal, "vendor")
    assert listed["revoked_at"] is not None
    assert key_id in (await asm("key", "list")).stdout


async def test_facilities_and_their_senders_are_listed_and_found(
    asm: Command, make_facility: FacilityMaker, pools: Pools
) -> None:
    for code in ("HY-YT-0002", "HY-YT-0001"):
        await make_facility(code, FacilityKind.MEDICAL_FACILITY)
    listed = json.loads((await asm("facility", "list", "--json")).stdout)
    assert [facility["code"] for facility in listed] == ["HY-YT-0001", "HY-YT-0002"]
    assert "medical_facility" in (await asm("facility", "list")).stdout
    sender = {"--sending-application": "HIS-MAU", "--sending-facility": "BV-MAU-01", "--facility": "HY-YT-0002"}
    assert (await asm("sender", "add", *options(sender))).exit_code == DONE
    found = await Gate(await pools.get("asm_auth"), 0).find_sender("HIS-MAU", "BV-MAU-01")
    assert found is not None
    assert found.facility.code == "HY-YT-0002"
    more = {"--overnight-classes": "I,NT,E:bed", "--charset": "windows-1258", "--relative-role": "LUUTRU"}
    bound = {"--certificate": "AB:" * 31 + "AB"}
    assert (await asm("sender", "add", *options(sender | more | bound))).exit_code == DONE
    assert json.loads((await asm("sender", "list", "--json")).stdout) == [
        {
            "application": "HIS-MAU", "sender": "BV-MAU-01", "facility": "HY-YT-0002", "overnight": "I,NT,E:bed",
            "charset": "WINDOWS-1258", "relative_role": "LUUTRU", "certificate": "ab" * 32,
        }
    ]  # fmt: skip
    wrong = {"--overnight-classes": "i;b", "--charset": "viscii", "--relative-role": "ở cùng"}
    wrong["--certificate"] = "abc"
    refused = await asm("sender", "add", *options(sender | wrong))
    assert refused.exit_code == WRONG
    assert all(name in refused.stderr for name in wrong)


async def test_refused_hl7_messages_are_listed_without_what_they_said(
    asm: Command, database: Database, key_store: Path
) -> None:
    empty = await asm("sender", "refused", "--json")
    assert (empty.exit_code, json.loads(empty.stdout)) == (DONE, [])
    connection = await database.connect("asm_intake")
    now = datetime.now(UTC)
    for tag, code, control in ((b"1", "AA", None), (b"2", "AE", "MSG2"), (b"2", "AE", "MSG2"), (b"3", "AR", "MSG3")):
        names = seal_message_header(open_keyring(key_store), tag * 16, now, ("HIS", "BV", control)) if control else None
        reasons = ["wrong_date PID-7"] if control else []
        await hospital.put_answer(connection, tag * 16, code, "…", names, reasons, now)
    listed = await asm("sender", "refused", "--json")
    assert listed.exit_code == NO
    assert [(row["control_id"], row["answer"], row["times"], row["reasons"]) for row in json.loads(listed.stdout)] == [
        ("MSG2", "AE", 2, "wrong_date PID-7"),
        ("MSG3", "AR", 1, "wrong_date PID-7"),
    ]
    assert "2 bản tin" in listed.stderr


async def test_a_webhook_is_registered_listed_switched_and_forgotten(asm: Command, facility: Facility) -> None:
    owner = ["--kind", "owner", "--name", "Chủ Mẫu", "--organisation", "Khách sạn Mẫu"]
    principal = (await asm("principal", "add", *owner)).stdout.strip()
    where = {"--principal": principal, "--url": "https://pms.example/hook/t0ken"}
    assert told(await asm("webhook", "add", *options(where | {"--url": "http://pms.example/"}))) == ["--url"]
    assert told(await asm("webhook", "add", *options(where | {"--principal": str(UUID(int=0))}))) == ["--principal"]
    added = await asm("webhook", "add", *options(where), "--events", "stay.refused, stay.check_document")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", added.stdout.strip())
    [listed] = json.loads((await asm("webhook", "list", "--json")).stdout)
    assert (listed["host"], listed["principal_id"], listed["waiting"]) == ("pms.example", principal, 0)
    assert "t0ken" not in (await asm("webhook", "list")).stdout
    one = {"--webhook": listed["id"]}
    for command, code in (
        ("enable", NO), ("test", DONE), ("disable", DONE), ("disable", NO), ("test", NO), ("enable", DONE),
        ("remove", DONE), ("remove", NO),
    ):  # fmt: skip
        assert (command, (await asm("webhook", command, *options(one))).exit_code) == (command, code)
    assert json.loads((await asm("webhook", "list", "--json")).stdout) == []


async def test_hotel_software_is_registered_asked_and_forgotten(
    asm: Command, facility: Facility, tmp_path: Path
) -> None:
    system = {"--facility": facility.code, "--system": "mews"}
    where = {"--base-url": "https://api.hotel.example/", "--credentials-file": str(tmp_path / "absent.json")}
    assert told(await asm("hotel-system", "add", *options(where | system | {"--facility": "HY-0"}))) == ["--facility"]
    added = await asm("hotel-system", "add", *options(where | system))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", added.stdout.strip())
    [listed] = json.loads((await asm("hotel-system", "list", "--json")).stdout)
    assert listed == {
        "facility": facility.code,
        "system": "mews",
        "base_url": "https://api.hotel.example",
        "property_id": None,
        "waiting": 0,
        "last_code": None,
    }
    counts = {"fetched": 0, "gone": 0, "postponed": 0, "given_up": 0}
    assert json.loads((await asm("once", "pull-hotels")).stdout) == counts
    assert (await asm("hotel-system", "remove", *options(system))).exit_code == DONE
    assert (await asm("hotel-system", "remove", *options(system))).exit_code == NO
    assert json.loads((await asm("hotel-system", "list", "--json")).stdout) == []


# -- documents ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """The Ministry's workbook with three guests."""
    file = tmp_path / "khach.xlsx"
    file.write_bytes(samples.official_xlsx(DAY, 3, seed=1))
    return file


async def stays(database: Database) -> int:
    connection = await database.connect()
    count: int = await connection.fetchval("SELECT count(*) FROM stays")
    return count


async def test_a_file_that_is_no_document_is_refused_as_a_whole(
    asm: Command, facility: Facility, tmp_path: Path
) -> None:
    (tmp_path / "khach.xlsx").write_bytes(b"PK\x03\x04 and nothing more")
    result = await asm("import", str(tmp_path / "khach.xlsx"), "--facility", facility.code)
    assert result.exit_code == NO
    assert "Không đọc được tệp. · The file cannot be read." in result.stderr
    (tmp_path / "khach.zip").write_bytes(b"PK")
    for chosen in ([], ["--connector", "fax"]):
        result = await asm("import", str(tmp_path / "khach.zip"), "--facility", facility.code, *chosen)
        assert result.exit_code == WRONG
        assert "(unknown_connector)" in result.stderr


async def test_a_refused_row_is_named_by_its_place_and_the_others_are_taken_in(
    asm: Command, make_facility: FacilityMaker, tmp_path: Path, database: Database
) -> None:
    dorm = await make_facility("HY-KCN-0001", FacilityKind.INDUSTRIAL_ZONE_HOUSING, zone="KCN Mẫu")
    first, *rest = samples.dorm_roster_csv(DAY, 3, seed=1).decode("utf-8-sig").splitlines()
    rest[1] = rest[1].replace(";Lao động", ";Chơi bời")
    file = tmp_path / "roster.csv"
    file.write_text("\r\n".join([first, *rest, ""]), "utf-8-sig")
    result = await asm("import", str(file), "--facility", dorm.code)
    assert result.exit_code == NO
    (refused,) = [line for line in result.stdout.splitlines() if " refused " in line]
    assert refused.split()[:3] == ["3", "refused", "unknown_code"]
    assert "cột Lý do" in refused
    assert (
        "2 đã nhận · accepted, 0 trùng · duplicate, 0 dự kiến, chưa khai báo · expected, not filed, 1 bị từ chối"
        in result.stdout
    )
    assert await stays(database) == 2


async def test_a_roster_is_only_shown_until_it_shall_be_applied_and_wrong_words_are_named(
    asm: Command, make_facility: FacilityMaker, tmp_path: Path, database: Database
) -> None:
    dorm = await make_facility("HY-KCN-0001", FacilityKind.INDUSTRIAL_ZONE_HOUSING, zone="KCN Mẫu")
    file = tmp_path / "roster.csv"
    file.write_bytes(samples.dorm_roster_csv(DAY, 9, seed=1))
    asked = ["roster", str(file), "--facility", dorm.code, "--scope"]
    for wrong in (["tầng 1"], ["all", "--decide", "7=perhaps"], ["all", "--connector", "fax"]):
        assert (await asm(*asked, *wrong)).exit_code == WRONG
    other = await asm(*asked, "building:A", "--apply")
    assert other.exit_code == NO  # half of the lines are of building B
    assert "outside_scope" not in other.stdout
    assert "Dòng này không thuộc phạm vi của danh sách (building)." in other.stdout
    shown = await asm(*asked, "all", "--absence-nights", "0")
    assert shown.exit_code == DONE
    assert "Đang ở: 4 người; sau khi áp dụng: 9 người." in shown.stdout
    assert "Nothing was changed" in shown.stderr
    assert await stays(database) == 4
    done = await asm(*asked, "all", "--apply")
    assert (done.exit_code, await stays(database)) == (DONE, 9)
    assert "5 accepted" in done.stdout
    again = json.loads((await asm(*asked, "all", "--apply", "--json")).stdout)
    assert (again["state"], again["results"]) == ("applied", [])


async def test_a_file_is_checked_without_settings_a_facility_or_a_database(tmp_path: Path) -> None:
    rows = ["Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi dự kiến;Phòng;Lý do"]
    day = f"{local_day(datetime.now(UTC)):%d/%m/%Y}"
    for number in (1, 2):
        who = person(number)
        year, month, date = who.birth_date.split("-")
        rows.append(f"{who.full_name};{date}/{month}/{year};{who.gender};VNM;1;{who.document_number};{day};{day};1;1")
    rows.append(rows[1].replace(";1;1", ";2;1"))
    (tmp_path / "list.csv").write_text("\n".join([*rows, "X;31/02/1990;M;VNM;1;12;;;;"]))
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "asm_daemon", "import", str(tmp_path / "list.csv")]
    refused = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
    assert await refused.wait() == WRONG  # to store it, one has to say where
    child = await asyncio.create_subprocess_exec(
        *command,
        "--dry-run",
        "--json",
        "--connector",
        "spreadsheet",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    printed, said = await child.communicate()
    assert child.returncode == NO
    result = json.loads(printed)
    assert (result["received"], result["accepted"], result["refused"]) == (4, 2, 2)
    codes = [{fault["code"] for fault in row["problem"]["errors"]} for row in result["results"] if row["problem"]]
    assert codes[0] == {"duplicate_row"}
    assert {"wrong_date", "wrong_document_number", "required"} <= codes[1]
    assert "without what the facility has on file" in said.decode()


async def test_a_file_is_rehearsed_without_a_trace_and_sent_twice_declared_once(
    asm: Command, facility: Facility, workbook: Path, database: Database
) -> None:
    document = [str(workbook), "--facility", facility.code]
    rehearsed = await asm("import", *document, "--dry-run")
    assert rehearsed.exit_code == DONE
    assert "3 đã nhận · accepted" in rehearsed.stdout
    assert "nothing was stored" in rehearsed.stderr
    assert await stays(database) == 0
    first = await asm("import", *document)
    assert first.exit_code == DONE
    assert "3 đã nhận · accepted" in first.stdout
    second = json.loads((await asm("import", *document, "--json")).stdout)
    assert (second["received"], second["duplicate"]) == (3, 3)
    for row in second["results"]:
        assert row["receipt"]["code"] in first.stdout
    assert await stays(database) == 3


# -- evidence ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def receipt(asm: Command, facility: Facility, workbook: Path) -> dict[str, Any]:
    """The receipt of a declared stay, as the API gives it."""
    result = await asm("import", str(workbook), "--facility", facility.code, "--json")
    found: dict[str, Any] = json.loads(result.stdout)["results"][0]["receipt"]
    return found


async def test_a_receipt_proves_what_was_signed_and_nothing_once_it_is_changed(
    asm: Command, receipt: dict[str, Any], tmp_path: Path
) -> None:
    key, file = tmp_path / "keys.pem", tmp_path / "receipt.json"
    key.write_text((await asm("keys", "public")).stdout)

    async def verify(content: Any) -> Result:
        file.write_text(json.dumps(content))
        return await asm("receipt", "verify", str(file), "--public-key", str(key))

    forgeries: tuple[Any, ...] = (receipt["signed"] | {"late_minutes": 1}, {**receipt, "signed": 7}, [], {"signed": {}})
    for forged in forgeries:
        result = await verify(forged)
        assert result.exit_code == NO
        assert result.stdout.startswith("Biên nhận này không chứng minh điều gì.\nThis receipt proves nothing: ")
    for sound in (receipt, receipt["signed"]):
        result = await verify(sound)
        assert result.exit_code == DONE
        assert result.stdout.startswith("THỬ NGHIỆM – KHÔNG CÓ GIÁ TRỊ PHÁP LÝ\n")
        assert "Hợp lệ: asm.test.example đã nhận từ cơ sở HY-KS-0001" in result.stdout
        assert f"stay {receipt['signed']['stay_id']}, version 1" in result.stdout
    file.write_text("nothing")
    assert (await asm("receipt", "verify", str(file), "--public-key", str(key))).exit_code == NO
    key.write_text((await asm("keys", "public", "receipt")).stdout)
    assert "no key named receipt_trial" in (await verify(receipt)).stdout
    assert (await asm("receipt", "verify", str(file), "--public-key", str(file))).exit_code == UNREADY


async def test_an_audit_is_whole_until_somebody_changes_it(
    asm: Command, facility: Facility, database: Database, tmp_path: Path
) -> None:
    assert (await asm("audit", "checkpoint")).exit_code == UNREADY
    sealed = json.loads((await asm("once", "seal-audit")).stdout)["entries"]
    assert sealed > 0
    kept = tmp_path / "checkpoint"
    kept.write_text((await asm("audit", "checkpoint")).stdout)
    whole = await asm("audit", "verify", "--checkpoint", str(kept))
    verified = json.loads(whole.stdout)
    assert whole.exit_code == DONE
    assert (verified["entries"], verified["checkpoints"], verified["faults"]) == (sealed, 1, [])

    connection = await database.connect()
    await connection.execute("UPDATE audit_log SET body = convert_to('{}', 'UTF8') WHERE position = 0")
    broken = await asm("audit", "verify")
    assert broken.exit_code == NO
    assert {fault["kind"] for fault in json.loads(broken.stdout)["faults"]} == {"edited", "label"}
    await connection.execute("TRUNCATE audit_log, audit_checkpoints, audit_nodes")
    cut_off = await asm("audit", "verify", "--checkpoint", str(kept))
    assert "cut_off" in {fault["kind"] for fault in json.loads(cut_off.stdout)["faults"]}
    kept.write_text("tờ giấy")
    assert (await asm("audit", "verify", "--checkpoint", str(kept))).exit_code == UNREADY


# -- jobs --------------------------------------------------------------------------------------------------------------


async def test_a_job_runs_once_and_says_what_it_did(asm: Command, facility: Facility) -> None:
    unknown = await asm("once", "dance")
    assert unknown.exit_code == WRONG
    jobs = (
        "pull-hotels, seal-audit, refresh-keys, reencrypt, watch-keys, end-months, certify-retention, expire, "
        "verify, watch-settings, read-inbox, erase-imports, prepare-months, erase-expected, erase-hl7-messages, "
        "publish, erase-roster-plans, compare, number-events, tell-deadlines, watch-witness, erase-events, "
        "tend-webhooks, sync"
    )
    assert jobs in unknown.stderr
    assert json.loads((await asm("once", "prepare-months")).stdout) == {"keys": 0, "partitions": 0}
    assert json.loads((await asm("once", "erase-expected")).stdout) == {"ended": 0, "no_shows": 0}
    yesterday = (DAY - timedelta(days=1)).isoformat()
    assert (await asm("extract", "show", "tourism", yesterday)).exit_code == NO
    published = json.loads((await asm("once", "publish", "--period", yesterday)).stdout)["published"]
    assert published == 3
    release = json.loads((await asm("extract", "show", "tourism", yesterday)).stdout)
    assert (release["department"], release["period"], release["release_no"]) == ("tourism", yesterday, 1)
    days = json.loads((await asm("once", "publish")).stdout)
    assert days["published"] > published  # the other days that are due


async def test_stays_are_carried_when_the_population_database_answers_and_wait_when_not(
    asm: Command, receipt: dict[str, Any], empty_database: Database, database: Database
) -> None:
    waiting = json.loads((await asm("once", "sync")).stdout)
    assert waiting["confirmed"] == 0
    connection = await database.connect()
    await connection.execute("UPDATE sync_wait SET due_at = now()")
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    url = empty_database.url.replace("{role}", "postgres")
    login = {"client_id": "asm-test", "client_secret": SECRET, "admin_token": "test-admin"}
    serving = asyncio.create_task(simulator.serve(url, "127.0.0.1", 0, **login, ready=ready.set_result))
    try:
        address = f"http://127.0.0.1:{await ready}"
        carried = json.loads((await asm("once", "sync", ASM_POPULATION_URL=address)).stdout)
        compared = json.loads((await asm("once", "compare", ASM_POPULATION_URL=address)).stdout)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert carried["confirmed"] == 3
    assert {name: count for name, count in compared.items() if count} == {"ranges": 1, "stays": 3}
    unanswered = (await asm("once", "compare")).stdout  # behind a line of the log
    assert json.loads(unanswered[unanswered.index("{") :])["failed_requests"] == 1


async def test_a_connector_that_is_not_installed_is_a_wrong_setting(asm: Command) -> None:
    wrong = await asm("once", "sync", ASM_POPULATION_CONNECTOR="telegraph")
    assert wrong.exit_code == WRONG
    assert "ASM_POPULATION_CONNECTOR: chưa cài · no installed package has a connector telegraph" in wrong.stderr


# -- stays on their way ------------------------------------------------------------------------------------------------


async def test_an_action_that_names_no_stays_says_what_could_name_them(asm: Command) -> None:
    for action in (["replay"], ["release", "--dry-run"], ["settle", "--reason", "not_required"]):
        result = await asm("sync", *action)
        assert (result.exit_code, result.stdout) == (WRONG, "")
        assert "request_invalid" in result.stderr
    wrong = await asm("sync", "settle", "--reason", "no_idea", "--code", "x")
    assert wrong.exit_code == WRONG
    assert "--reason" in wrong.stderr
    assert (await asm("sync", "stay", "00000000-0000-7000-8000-000000000000")).exit_code == NO
    assert (await asm("alerts", "close", "extra_stay", "nothing")).exit_code == NO


async def test_an_operator_sees_and_moves_what_is_not_carried(
    asm: Command, database: Database, intake: Intake, facility: Facility, clock: Clock
) -> None:
    acts = [act(facility, ActKind.DECLARE, declaration(index), clock) for index in (1, 2, 3)]
    stays = [str(each.stay.id) for each in await intake.submit(acts) if each.stay is not None]
    root = await database.connect()
    await refuse(root, UUID(stays[0]), hours=5)
    await refuse(root, UUID(stays[1]))
    await put_off(root, UUID(stays[2]))

    state = json.loads((await asm("sync", "status", "--json")).stdout)
    assert {(each["place"], each["stays"]) for each in state["backlog"]} == {("refused", 2), ("waiting", 1)}
    assert "free lanes: 256" in (await asm("sync", "status")).stderr
    first = await asm("sync", "refused", "--limit", "1", "--json")
    assert f"--after {min(stays[:2])}" in first.stderr
    assert json.loads(first.stdout)[0]["code"] == "unknown_facility"
    assert stays[2] in (await asm("sync", "waiting", "--reason", "unreachable")).stdout
    shown = json.loads((await asm("sync", "stay", stays[0])).stdout)
    assert (shown["place"], shown["facility"], shown["population"]) == ("refused", facility.code, None)

    counted = json.loads((await asm("sync", "replay", "--older-than", "3", "--dry-run")).stdout)
    assert (counted["stays"], counted["stay_ids"]) == (1, [stays[0]])
    assert json.loads((await asm("sync", "replay", stays[0])).stdout)["stays"] == 1
    assert (await asm("sync", "replay", stays[0])).exit_code == NO
    settled = await asm("sync", "settle", "--reason", "owner_informed", "--facility", facility.code)
    assert json.loads(settled.stdout)["stay_ids"] == [stays[1]]
    assert json.loads((await asm("sync", "refused", "--settled", "--json")).stdout)[0]["settled_by"] == ME
    assert json.loads((await asm("sync", "release", "--code", "no_connection")).stdout)["stays"] == 1

    rows = await root.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    mine = [body["action"] for row in rows if (body := json.loads(row[0]))["actor"] == ME]
    assert mine == ["sync.inspect", "sync.replay", "sync.settle", "sync.release"]


async def test_an_operator_asks_the_population_database_about_one_stay(
    asm: Command, intake: Intake, facility: Facility, clock: Clock
) -> None:
    [outcome] = await intake.submit([act(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay is not None
    shown = json.loads((await asm("sync", "stay", str(outcome.stay.id), "--ask")).stdout)
    assert shown["population"] == {"version": None, "as_confirmed": None, "code": "no_connection"}


async def test_an_operator_closes_an_alert(asm: Command, pools: Pools, clock: Clock) -> None:
    async with (await pools.get("asm_sync")).acquire() as connection:
        await alerts.raise_alert(connection, AlertKind.EXTRA_STAY, "range", {"stays": 1}, clock())
    assert "range" in (await asm("alerts", "list")).stdout
    assert (await asm("alerts", "close", "extra_stay", "range")).exit_code == DONE
    assert json.loads((await asm("alerts", "list", "--json")).stdout) == []
    assert json.loads((await asm("alerts", "list", "--closed", "--json")).stdout)[0]["closed_by"] == ME


# -- the audit for others ----------------------------------------------------------------------------------------------


async def test_a_witness_is_made_once_says_when_nobody_answers_and_needs_no_settings(tmp_path: Path) -> None:
    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env={})

    folder, log_key = tmp_path / "witness", tmp_path / "log.vkey"
    log_key.write_text("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8\n")
    made = await run("witness", "init", "--folder", str(folder), "--name", "witness.test/w1")
    assert made.stdout == (folder / "witness.vkey").read_text()
    again = await run("witness", "init", "--folder", str(folder), "--name", "witness.test/w1")
    assert (again.exit_code, "forgets" in again.stderr) == (UNREADY, True)
    asked = ("--folder", str(folder), "--log-key", str(log_key), "--url", "http://127.0.0.1:1")
    assert (await run("witness", "once", *asked)).exit_code == UNREADY
    (folder / "evidence-20261128T200000.000000Z-forked.json").write_text("{}")
    halted = await run("witness", "once", *asked)
    assert (halted.exit_code, "ALARM: the witness has stopped" in halted.stderr) == (NO, True)
    assert (await run("witness", "run", *asked)).exit_code == NO
    assert "seen-evidence" in (await run("witness", "resume", "--folder", str(folder))).stdout
    log_key.write_text("no key")
    assert (await run("witness", "once", *asked)).exit_code == WRONG


async def test_the_audit_is_exported_with_its_key_for_a_witness(asm: Command, tmp_path: Path) -> None:
    empty = await asm("audit", "export", str(tmp_path / "audit"))
    assert (empty.exit_code, "nothing has been sealed" in empty.stderr) == (UNREADY, True)
    await asm("facility", "add", *options(FACILITY))
    await asm("once", "seal-audit")
    exported = await asm("audit", "export", str(tmp_path / "audit"))
    again = await asm("audit", "export", str(tmp_path / "audit"))
    assert (again.exit_code, "name a new folder" in again.stderr) == (UNREADY, True)
    assert orjson.loads(exported.stdout)["entries"] > 0
    assert (tmp_path / "audit" / "checkpoint").read_text().startswith("asm.test.example/audit\n")
    key = (await asm("audit", "key")).stdout
    assert key.startswith("asm.test.example/audit+")


# -- legal holds, what leaves, and tables ------------------------------------------------------------------------------


async def test_a_hold_by_document_takes_the_number_from_a_file_or_standard_input_and_never_shows_it(
    asm: Command, intake: Intake, facility: Facility, clock: Clock, tmp_path: Path, pools: Pools
) -> None:
    [outcome] = await intake.submit([act(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay is not None
    number, file = person(1).document_number, tmp_path / "number"
    about = ("hold", "add", "--warrant", "15/2026/HS-PC02", "--reason", "điều tra")
    assert (await asm(*about, "--document", "--stay", str(outcome.stay.id))).exit_code == WRONG
    assert (await asm(*about, number)).exit_code == WRONG  # as an argument there is no place for it
    file.write_text("\n")
    file.chmod(0o640)
    exposed = await asm(*about, "--document-file", str(file))
    assert (exposed.exit_code, "chmod 600" in exposed.stderr) == (WRONG, True)
    file.chmod(0o600)
    empty = await asm(*about, "--document-file", str(file))
    assert (empty.exit_code, "  --document: Thiếu" in empty.stderr) == (WRONG, True)
    file.write_text(f" {number[:6]} {number[6:]}\n")
    held = await asm(*about, "--document-file", str(file))
    assert held.exit_code == DONE, held.stderr
    told = json.loads(held.stdout)
    assert (told["placed"], told["stays"], told["unreadable"]) == (1, [str(outcome.stay.id)], [])
    again = await asm(*about, "--document", typed=f"{number}\n")
    assert json.loads(again.stdout)["placed"] == 0
    nobody = await asm(*about, "--document", typed=f"{person(2).document_number}\n")
    assert (nobody.exit_code, json.loads(nobody.stdout)["stays"]) == (NO, [])
    for result in (empty, held, again, nobody):
        assert number not in result.stdout + result.stderr
    listed = json.loads((await asm("hold", "list", "--warrant", "15/2026/HS-PC02", "--json")).stdout)
    assert [each["stay_id"] for each in listed] == told["stays"]
    assert (await asm("hold", "list", "--warrant", "16/2026", "--json")).stdout.strip() == "[]"
    lift = ("hold", "lift", "--warrant", "15/2026/HS-PC02", "--reason", "đã xong")
    assert json.loads((await asm(*lift, "--dry-run")).stdout) == {"holds": 1, "dry_run": True}
    assert json.loads((await asm(*lift)).stdout) == {"holds": 1, "dry_run": False}
    assert (await asm(*lift)).exit_code == NO
    assert (await asm("hold", "lift", "--reason", "đã xong")).exit_code == WRONG
    https = {"ASM_PUBLIC_URL": "https://asm.example", "ASM_POPULATION_URL": "https://asm.example"}
    production = await asm(*about, "--document", typed=f"{number}\n", ASM_ENVIRONMENT="production", **https)
    assert (production.exit_code, "audit_unavailable" in production.stderr) == (UNREADY, True)


async def test_a_hold_said_again_is_one_and_one_changed_by_hand_is_found_and_restored(
    asm: Command, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    [outcome] = await intake.submit([act(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay is not None
    stay = str(outcome.stay.id)
    about = ("hold", "add", "--warrant", "15/2026/HS-PC02", "--reason", "điều tra")
    placed = [json.loads((await asm(*about, "--stay", stay)).stdout) for _ in range(2)]
    window = ("--facility", facility.code, "--from", "2026-01-01", "--until", "2100-01-01")
    placed += [json.loads((await asm(*about, *window)).stdout) for _ in range(2)]
    assert len({each["hold"] for each in placed}) == 2
    assert {each["stays"] for each in placed} == {1}
    listed = json.loads((await asm("hold", "list", "--stay", stay, "--json")).stdout)
    assert {each["id"] for each in listed} == {each["hold"] for each in placed}
    # One that nobody placed here is no answer, by its stay or by its document: it may be taken away as it came.
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO legal_holds (id, facility_id, stay_id, warrant_ref, reason, placed_at, placed_by)"
        " SELECT gen_random_uuid(), facility_id, id, '16/2026', 'x', now(), 'x' FROM stays"
    )
    another = (*about[:3], "16/2026", *about[4:])
    ours = json.loads((await asm(*another, "--stay", stay)).stdout)["hold"]
    await superuser.execute("DELETE FROM legal_holds WHERE id = $1", UUID(ours))
    found = json.loads((await asm(*another, "--document", typed=f"{person(1).document_number}\n")).stdout)
    assert (found["placed"], found["stays"]) == (1, [stay])
    await superuser.execute("DELETE FROM legal_holds WHERE warrant_ref = '16/2026' AND placed_by = 'x'")
    assert json.loads((await asm("hold", "restore")).stdout) == {"restored": [ours], "untold": []}
    assert json.loads((await asm("hold", "list", "--stay", str(uuid7()), "--json")).stdout) == []
    assert "2026-01-01T00:00:00+07:00" in (await asm("hold", "list")).stdout
    await superuser.execute("DELETE FROM legal_holds WHERE stay_id IS NOT NULL AND warrant_ref <> '16/2026'")
    ended = await asm("once", "end-months")
    assert (ended.exit_code, json.loads(ended.stdout)["holds_changed"]) == (NO, 1)
    assert json.loads((await asm("hold", "restore")).stdout) == {"restored": [placed[0]["hold"]], "untold": []}
    assert (await asm("once", "end-months")).exit_code == DONE
    await (await pools.database.connect()).execute(
        "UPDATE legal_holds SET id = gen_random_uuid() WHERE stay_id IS NULL"
    )
    restored = await asm("hold", "restore")
    assert (restored.exit_code, "hold lift" in restored.stderr) == (NO, True)
    [untold] = json.loads(restored.stdout)["untold"]
    assert (await asm("hold", "lift", untold, "--reason", "không ai đặt")).exit_code == DONE
    assert (await asm("once", "end-months")).exit_code == DONE


LEAVING = {
    "extract show tourism 2026-11-22": "releases",
    "hold add --warrant 15/2026/HS-PC02 --reason x --document": "reads",
    "audit checkpoint": "goes on",
    "audit key": "goes on",
    "audit verify": "goes on",
    "audit export FOLDER": "goes on",
    "keys public": "goes on",
    "sync status": "goes on",
}
"""Every command that gives out something in bulk or reads about a person, and what of it a silent witness stops."""


@pytest.mark.parametrize(("line", "stops"), LEAVING.items())
@pytest.mark.parametrize(("silent_hours", "stopped"), [(2, {"releases"}), (30, {"releases", "reads"})])
async def test_a_silent_witness_stops_at_the_command_line_what_it_stops_over_http(
    asm: Command, pools: Pools, facility: Facility, tmp_path: Path, line: str, stops: str, silent_hours: int,
    stopped: set[str], key_store: Path,
) -> None:  # fmt: skip
    long_ago = datetime.now(UTC) - timedelta(hours=silent_hours)
    await (await pools.database.connect()).execute("DELETE FROM audit_pending")  # of the facility, made just now
    async with (await pools.get("asm_intake")).acquire() as writer:
        await audit.append(writer, audit.AuditEntry(long_ago, "system", "test", "test.done", "thing/1"))
    signer = open_keyring(key_store).signing_key(KeyPurpose.CHECKPOINT)
    async with (await pools.get("asm_audit")).acquire() as sealer:
        await audit.seal_once(sealer, signer, "asm.test.example", long_ago)
    silent = create_witness(tmp_path / "witness", "witness.test/w1")
    asked = line.replace("FOLDER", str(tmp_path / "export")).split(" ")
    result = await asm(
        *asked,
        typed=f"{person(1).document_number}\n",
        ASM_WITNESS_KEY_FILE=str(silent.folder / WITNESS_NAME),
        ASM_WITNESS_RELEASE_HOURS="1",
        ASM_WITNESS_READ_HOURS="24",
    )
    assert ("audit_not_witnessed" in result.stderr) == (stops in stopped), result.stderr
    assert (result.exit_code == UNREADY) == (stops in stopped)


@pytest.mark.parametrize("columns", [None, 40, 80])
def test_an_id_in_a_table_is_never_cut_or_folded(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns is not None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    ids = [str(uuid4()) for _ in range(3)]
    print_table(("id", "stay id", "reason"), [(ids[0], ids[1], "vì lý do rất dài, " * 20), (ids[2], None, None)])
    lines = capsys.readouterr().out.splitlines()
    assert any(ids[0] in line and ids[1] in line for line in lines)
    assert any(ids[2] in line for line in lines)
    assert len(lines) == 4 or columns is not None  # without a terminal each row is one line
