"""What each login must not do, tried: every attack as every login, and what PostgreSQL answers to it.

The whole is one table: an attack, and who of all logins gets another answer than "insufficient privilege" (42501).
"""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest

from asm_daemon.crypto import epoch_bounds
from asm_daemon.store import stays as stays_store
from tests.conftest import Database
from tests.test_roles import GRANTS, LOGINS

AUDIENCES = [login for login in LOGINS if login != "asm_migrate"]
"""Everybody who is not there to change the structure."""
DENIED, UNKNOWN_FUNCTION, UNKNOWN_OBJECT = "42501", "42883", "42704"

ATTACKS = {
    "make a schema": "CREATE SCHEMA mine",
    "make a table": "CREATE TABLE public.mine (word text)",
    "make a temporary table": "CREATE TEMPORARY TABLE mine (word text)",
    "make a temporary table from a query": "SELECT 1 INTO TEMPORARY mine",
    "make a temporary view": "CREATE TEMPORARY VIEW mine AS SELECT 1",
    "make a function": "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "make a function in pg_temp": "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "make an operator's function": "CREATE OPERATOR public.@@@ (FUNCTION = int4pl, LEFTARG = int4, RIGHTARG = int4)",
    "make a type": "CREATE TYPE public.mine AS ENUM ('a')",
    "make a sequence": "CREATE SEQUENCE public.mine",
    "make a large object of a file": "SELECT lo_import('/etc/passwd')",
    "write a large object to a file": "SELECT lo_export(1, '/tmp/asm-mine')",
    "make an extension": "CREATE EXTENSION dblink",
    "make an extension that reaches other servers": "CREATE EXTENSION postgres_fdw",
    "make a server": "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw",
    "make a publication": "CREATE PUBLICATION mine FOR TABLE stays",
    "make a subscription": "CREATE SUBSCRIPTION mine CONNECTION 'dbname=asm' PUBLICATION mine",
    "make an event trigger": "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION nothing()",
    "make a trigger": "CREATE TRIGGER mine BEFORE INSERT ON stays EXECUTE FUNCTION tsvector_update_trigger()",
    "make a rule": "CREATE RULE mine AS ON INSERT TO stays DO ALSO NOTHING",
    "make a login": "CREATE ROLE mine LOGIN",
    "make a database": "CREATE DATABASE mine",
    "make a language": "CREATE LANGUAGE plperlu",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "run a program and read it": "COPY audit_pending FROM PROGRAM 'true'",
    "write a file": "COPY (SELECT 1) TO '/tmp/asm-mine'",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "read a file as bytes": "SELECT pg_read_binary_file('PG_VERSION')",
    "list a folder": "SELECT pg_ls_dir('.')",
    "look at a file": "SELECT pg_stat_file('PG_VERSION')",
    "read the log of the server": "SELECT pg_current_logfile()",
    "list the write-ahead log": "SELECT pg_ls_waldir()",
    "make a slot that reads every change": "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "read the passwords": "SELECT rolpassword FROM pg_authid",
    "read the passwords of others": "SELECT passwd FROM pg_shadow",
    "read samples of values": "SELECT stavalues1 FROM pg_statistic",
    "read large objects": "SELECT data FROM pg_largeobject",
    "read the connections to other servers": "SELECT * FROM pg_user_mapping",
    "read the settings file": "SELECT * FROM pg_file_settings",
    "read who may connect": "SELECT * FROM pg_hba_file_rules",
    "let a program be run": "SET session_preload_libraries = 'mine'",
    "load a library": "LOAD 'dblink'",
    "log less": "SET log_statement = 'none'",
    "log parameters": "SET log_parameter_max_length = -1",
    "write replicas' changes": "SET session_replication_role = 'replica'",
    "change the server": "ALTER SYSTEM SET log_statement = 'all'",
    "change the database": "ALTER DATABASE {database} SET log_statement = 'all'",
    "change itself": "ALTER ROLE {login} SUPERUSER",
    "change another": "ALTER ROLE asm_owner SET search_path = mine",
    "become a superuser": "SET ROLE postgres",
    "become the owner": "SET ROLE asm_owner",
    "be a superuser from the start": "SET SESSION AUTHORIZATION postgres",
    "lend itself a role": "GRANT asm_owner TO {login}",
    "lend itself all files": "GRANT pg_read_server_files TO {login}",
    "own a table": "ALTER TABLE stays OWNER TO {login}",
    "change a table": "ALTER TABLE stays ADD COLUMN mine text",
    "drop a table": "DROP TABLE stays CASCADE",
    "drop the audit": "DROP TABLE audit_log",
    "index a table": "CREATE INDEX mine ON stays (id)",
    "comment on a table": "COMMENT ON TABLE stays IS 'mine'",
    "end the server": "SELECT pg_reload_conf()",
    "switch the log": "SELECT pg_rotate_logfile()",
    "make a checkpoint": "CHECKPOINT",
    "back the server up": "SELECT pg_backup_start('mine')",
    "reset the statistics": "SELECT pg_stat_reset()",
    "stay in another's function": "ALTER FUNCTION has_stay_partition(integer) RESET ALL",
    "detach a month": "ALTER TABLE stays DETACH PARTITION stays_{epoch}",
    "read a month past its table": "SELECT * FROM stays_{epoch}",
    "write into a month past its table": "INSERT INTO stays_{epoch} DEFAULT VALUES",
}

OTHERWISE = {
    # PostgreSQL looks for the thing before it looks for the right: what is not there is in nobody's hands.
    "make a server": UNKNOWN_OBJECT,
    "make a language": "0A000",
}

FUNCTIONS = {
    "has_stay_partition(202601)": {"asm_intake", "asm_retention"},
    "create_stay_partitions(202601, gen_random_uuid(), gen_random_uuid())": {"asm_retention"},
    "lock_stay_month(202601)": {"asm_retention"},
    "end_stay_month(202601, gen_random_uuid(), gen_random_uuid())": {"asm_retention"},
    "forget_stay(1, gen_random_uuid(), 202601)": {"asm_retention"},
}
CONNECTIONS = ("dblink('dbname=asm', 'SELECT 1')", "dblink_connect('dbname=asm')", "postgres_fdw_handler()")


@pytest.fixture
async def month(database: Database) -> int:
    """A month that has partitions, so that attacks have something to reach."""
    connection = await database.connect("asm_retention")
    await stays_store.create_partitions(connection, 202601, *epoch_bounds(202601))
    return 202601


async def refusal(connection: asyncpg.Connection, statement: str) -> str | None:
    """How PostgreSQL refuses it; None if it does not. Whatever was done is undone, where it can be."""
    if statement.startswith(("CREATE DATABASE", "CREATE SUBSCRIPTION", "ALTER SYSTEM")):  # not in a transaction
        try:
            await connection.execute(statement)
        except asyncpg.PostgresError as error:
            return error.sqlstate
        return None
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    finally:
        await transaction.rollback()
    return None


@pytest.mark.parametrize("login", AUDIENCES)
async def test_no_login_does_what_none_may(database: Database, month: int, login: str) -> None:
    connection = await database.connect(login)
    names = {"login": login, "database": database.name, "epoch": month}
    answers = {name: await refusal(connection, attack.format(**names)) for name, attack in ATTACKS.items()}
    assert answers == {name: OTHERWISE.get(name, DENIED) for name in ATTACKS}


@pytest.mark.parametrize("login", AUDIENCES)
async def test_no_login_becomes_another(database: Database, login: str) -> None:
    connection = await database.connect(login)
    for other in (*LOGINS, "asm_owner", "postgres"):
        for become in (f"SET ROLE {other}", f"SET SESSION AUTHORIZATION {other}", f"GRANT {other} TO {login}"):
            expected = None if other == login and not become.startswith("GRANT") else {DENIED, "0LP01"}
            answer = await refusal(connection, become)
            assert answer is None if expected is None else answer in expected, (become, answer)


@pytest.mark.parametrize("login", AUDIENCES)
async def test_no_login_hands_on_what_it_holds(database: Database, login: str) -> None:
    """PostgreSQL only warns of that, so the rights are compared."""
    superuser, connection = await database.connect(), await database.connect(login)
    held = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = await superuser.fetch(held)
    for _, table, _ in (row for row in GRANTS if row[0] == login):
        for to in ("asm_guest", "PUBLIC"):
            try:
                await connection.execute(f"GRANT ALL ON {table} TO {to}")
            except asyncpg.InsufficientPrivilegeError:
                continue
    assert await superuser.fetch(held) == before


@pytest.mark.parametrize("login", AUDIENCES)
async def test_no_login_touches_a_table_in_a_way_that_it_was_not_granted(
    database: Database, month: int, login: str
) -> None:
    """Every table × SELECT, INSERT, UPDATE, DELETE, TRUNCATE, and the columns that a grant leaves out."""
    superuser = await database.connect()
    columns: dict[str, list[str]] = {}
    for table, column in await superuser.fetch(
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped"
    ):
        columns.setdefault(table, []).append(column)
    connection = await database.connect(login)
    tried: Counter[str | None] = Counter()
    for table, names in columns.items():
        granted = _granted(login, table)
        for verb, statement in (
            ("SELECT", f"SELECT FROM {table}"),
            ("INSERT", f"INSERT INTO {table} SELECT FROM generate_series(1, 0)"),
            ("UPDATE", f"UPDATE {table} SET {names[-1]} = {names[-1]} WHERE false"),
            ("DELETE", f"DELETE FROM {table} WHERE false"),
            ("TRUNCATE", f"TRUNCATE {table}"),
        ):
            if verb not in granted:
                answer = await refusal(connection, statement)
                tried[answer] += 1
                assert answer == DENIED, (table, verb, answer)
        allowed = granted.get("SELECT", set())
        for name in names if allowed else ():
            if name not in allowed and "*" not in allowed:
                answer = await refusal(connection, f"SELECT {name} FROM {table}")
                tried[answer] += 1
                assert answer == DENIED, (table, name, answer)
    assert tried.total() > 80


def _granted(login: str, table: str) -> dict[str, set[str]]:
    """Privilege → the columns it is for, `*` for all; as test_roles has it by hand."""
    granted: dict[str, set[str]] = {}
    for who, name, privileges in GRANTS:
        if who in (login, "public") and name == table:
            for privilege in privileges.replace("), ", ")|").replace(", ", "\0").split("|"):
                _read_privileges(privilege, granted)
    return granted


def _read_privileges(text: str, granted: dict[str, set[str]]) -> None:
    head, bracket, inside = text.partition(" (")
    for verb in head.split("\0"):
        granted[verb] = {"*"}
    if bracket:
        granted[head.split("\0")[-1]] = set(inside.rstrip(")").split("\0"))


@pytest.mark.parametrize("login", AUDIENCES)
async def test_functions_with_the_owners_rights_run_for_nobody_else(database: Database, login: str) -> None:
    connection = await database.connect(login)
    for call, callers in FUNCTIONS.items():
        answer = await refusal(connection, f"SELECT {call}")
        assert (answer == DENIED) == (login not in callers), (call, answer)
    for call in CONNECTIONS:
        assert await refusal(connection, f"SELECT {call}") == UNKNOWN_FUNCTION, call


async def test_a_department_is_held_apart_by_the_daemon_and_not_by_the_database(database: Database) -> None:
    """One login reads the releases of all departments (docs/threat-model.md, T6): who steals it has them all, and
    nothing but published numbers. A setting that the session itself can change would not have been a boundary."""
    superuser = await database.connect()
    for department in ("tourism", "health"):
        await superuser.execute(
            "INSERT INTO releases (id, department, template, period, release_no, published_at, body, sha256, "
            "withheld_sealed) VALUES (gen_random_uuid(), $1, 'daily', '2026-11-01', 1, now(), '{}', $2, '{}')",
            department,
            bytes(32),
        )
    feeds = await database.connect("asm_feeds")
    assert await feeds.fetchval("SELECT count(DISTINCT department) FROM releases") == 2
    assert await refusal(feeds, "SELECT withheld_sealed FROM releases") == DENIED
    assert not await superuser.fetchval("SELECT count(*) FROM pg_policy"), "no policy pretends to be a boundary"


async def test_the_catalogue_holds_no_way_around(database: Database) -> None:
    connection = await database.connect()

    async def rows(query: str) -> list[str]:
        return [row[0] for row in await connection.fetch(query)]

    ours = "pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
    definers = await rows(f"SELECT proname FROM pg_proc WHERE prosecdef AND {ours} ORDER BY 1")
    assert definers == [
        "create_stay_partitions", "end_stay_month", "forget_stay", "has_stay_partition", "lock_stay_month"
    ]  # fmt: skip
    assert (
        await rows(
            f"""
        SELECT proname FROM pg_proc JOIN pg_roles ON pg_roles.oid = proowner
        WHERE {ours} AND (rolsuper OR rolcanlogin OR NOT EXISTS (
            SELECT FROM unnest(proconfig) AS setting WHERE setting LIKE 'search\\_path=pg\\_catalog,%pg\\_temp'))
        """
        )
        == []
    ), "whose search path is not fixed, with pg_temp last"
    assert (
        await rows(
            f"""
        SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS held
        WHERE {ours} AND grantee = 0
        """
        )
        == []
    ), "which everybody may call"
    assert (
        await rows(
            """
        SELECT relname FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
        WHERE relnamespace = 'public'::regnamespace AND rolname <> 'asm_owner'
        """
        )
        == []
    ), "tables, views and sequences of another owner"
    assert await rows("SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 2200") == []
    assert await rows(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ) == ["public"]
    assert await rows("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'") == []
    assert await rows(
        """
        SELECT coalesce(rolname, 'public') || ' ' || privilege_type
        FROM pg_database, aclexplode(datacl) AS held LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE datname = current_database() AND privilege_type <> 'CONNECT' AND grantee <> datdba ORDER BY 1
        """
    ) == ["asm_owner CREATE"]
    assert await rows(
        """
        SELECT coalesce(rolname, 'public') FROM pg_namespace, aclexplode(nspacl) AS held
        LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE nspname = 'public' AND privilege_type = 'CREATE' AND grantee <> nspowner ORDER BY 1
        """
    ) == ["asm_owner"]


async def test_what_the_owner_makes_tomorrow_is_not_everybodys(database: Database) -> None:
    connection = await database.connect("asm_migrate")
    await connection.execute("SET ROLE asm_owner")
    await connection.execute("CREATE FUNCTION public.tomorrow() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    await connection.execute("CREATE TABLE public.tomorrow (word text)")
    stranger = await database.connect("asm_feeds")
    assert await refusal(stranger, "SELECT public.tomorrow()") == DENIED
    assert await refusal(stranger, "SELECT * FROM public.tomorrow") == DENIED
