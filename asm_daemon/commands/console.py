"""What all commands share: settings, the database, who is asking, what is printed, and how a failure ends.

Exit codes: 0 done; 1 done, and the answer is no (rows refused, faults found, nothing proven); 2 the arguments or the
settings are wrong; 3 something else has to be put in order first, and the message says what.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import orjson
import typer
from pydantic import BaseModel, ValidationError
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from asm_daemon.audit import AuditBroken
from asm_daemon.crypto import Keyring, KeyStoreError, KeyStoreForeign, KeyStoreMissing
from asm_daemon.daemon import NoSuchConnector
from asm_daemon.embedded import EmbeddedPostgresError
from asm_daemon.feeds import Leaking
from asm_daemon.keystores import store_of
from asm_daemon.ledger import BadNote
from asm_daemon.problems import Refused, from_validation
from asm_daemon.rules import HANOI
from asm_daemon.settings import Settings, SettingsError, load_settings
from asm_daemon.store import LOST
from asm_daemon.store.migrate import MigrationError, load_migrations, pending
from asm_daemon.store.pool import ROLE_PLACEHOLDER, open_pool
from asm_daemon.verifying import require_ours
from schemas.operating import REASON_LIMIT, holds_long_number
from schemas.violations import Violation

NO, WRONG, UNREADY = 1, 2, 3
_BETWEEN = 3  # what a table puts between two columns
_NARROWEST = 12  # of a column with text
_CONNECT_SECONDS = 10
_NOBODY_LOGGED_IN = "4294967295"
_WRONG_CODES = frozenset({"request_invalid", "unknown_connector"})
# PostgreSQL's classes of errors whose messages name objects and logins, never the values of a row.
_TELLING_CLASSES = frozenset({"08", "28", "3D", "42", "53", "55", "57"})
_MISSING_OBJECTS = frozenset({"42P01", "42883"})

_Model = TypeVar("_Model", bound=BaseModel)


class Unready(Exception):
    """Something outside this program has to be put in order first; the message says what, and how."""


def kept_text(text: str) -> str:
    """A reason or a reference for the audit, which keeps it for good."""
    if not text.strip() or len(text) > REASON_LIMIT or holds_long_number(text):
        raise typer.BadParameter(
            f"1 đến {REASON_LIMIT} ký tự, không có dãy số dài, không nói gì về khách vì được lưu mãi · "
            f"1 to {REASON_LIMIT} characters, without long numbers; nothing about a guest, it is kept for good"
        )
    return text.strip()


class Failures(TyperGroup):
    """The root of all commands: the one place where an expected failure becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What `_explain` does not know stays a crash."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            explained = _explain(error)
            if explained is None:
                raise
            code, text = explained
            typer.echo(text, err=True)
            raise typer.Exit(code) from None


def group(help_text: str) -> typer.Typer:
    """A group of commands; called without one it shows its help."""
    return typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _explain(error: Exception) -> tuple[int, str] | None:
    match error:
        case SettingsError():
            return WRONG, str(error)
        case Refused():
            return _explain_refusal(error)
        case Leaking():
            return NO, f"không công bố vì sẽ lộ quá nhiều · not published, for it would tell too much: {error}"
        case AuditBroken():
            return NO, (
                "nhật ký kiểm toán bị hỏng, không ghi thêm gì · "
                f"the audit is broken, and nothing was appended to it: {error}; look at: asm-daemon audit verify"
            )
        case KeyStoreMissing():
            return UNREADY, (
                f"chưa có kho khoá · there is no key store: {error}; if there are records, restore a backup of it; "
                "if it is a new installation, make one with: asm-daemon keys init"
            )
        case KeyStoreForeign():
            return UNREADY, (
                "kho khoá này không phải của cơ sở dữ liệu này, hãy khôi phục đúng kho khoá · "
                f"this key store is not the database's: {error}; restore the one that is"
            )
        case KeyStoreError():
            return UNREADY, f"không dùng được kho khoá · the key store cannot be used: {error}"
        case NoSuchConnector():
            return WRONG, f"ASM_POPULATION_CONNECTOR: chưa cài · no installed package has a connector {error}"
        case BadNote():
            return WRONG, f"khoá hoặc điểm kiểm tra không tin được · a key or a checkpoint cannot be believed: {error}"
        case Unready() | MigrationError() | EmbeddedPostgresError():
            return UNREADY, str(error)
        case asyncpg.PostgresError():
            return UNREADY, f"cơ sở dữ liệu từ chối · the database refused: {_database_reason(error)}"
        case asyncpg.InterfaceError():
            return UNREADY, (
                "địa chỉ cơ sở dữ liệu không dùng được, hoặc mất kết nối · "
                "the database URL cannot be used, or the connection was lost"
            )
        case OSError():
            what = "" if error.filename is None else f"{error.filename}: "
            return UNREADY, f"hệ thống từ chối · the system refused: {what}{error.strerror or type(error).__name__}"
    return None


def _explain_refusal(refused: Refused) -> tuple[int, str]:
    title = refused.problem.title
    lines = [f"{title.vi} · {title.en} ({refused.code})"]
    lines += [f"  {_where(found, refused.code)}{found.vi} · {found.en}" for found in refused.violations]
    unready = refused.problem.status >= 500
    return UNREADY if unready else WRONG if refused.code in _WRONG_CODES else NO, "\n".join(lines)


def _where(found: Violation, code: str) -> str:
    """The place of a violation, with a colon. What a command asks for in vain, it asked for by an option."""
    option = option_name(found.pointer[1:]) if code == "request_invalid" and found.pointer else ""
    place = found.place or option or found.pointer
    return f"{place}: " if place else ""


def _database_reason(error: asyncpg.PostgresError) -> str:
    state = error.sqlstate or ""
    if state in _MISSING_OBJECTS:
        return "it is not migrated; run: asm-daemon migrate"
    message = str(error).partition("\n")[0] if state[:2] in _TELLING_CLASSES else type(error).__name__
    return f"{message} (SQLSTATE {state})"


# -- what goes in ------------------------------------------------------------------------------------------------------


def settings() -> Settings:
    """The settings of this process's environment. Raises SettingsError."""
    return load_settings(os.environ)


def trusted_keyring() -> Keyring:
    """The keys. Raises KeyStoreForeign if they are not the database's: what others vouch for is a fault for good."""
    given = settings()
    keyring = store_of(given).keyring()

    async def look() -> None:
        async with (
            pool(given.database_url, "asm_retention") as opened,
            pool(given.database_url, "asm_audit") as auditors,
        ):
            await require_ours(opened, auditors, keyring, given.deployment)

    with ThreadPoolExecutor(1) as beside:  # whether or not a loop runs here
        beside.submit(asyncio.run, look()).result()
    return keyring


def operator() -> str:
    """Who is at the command line, for the audit: `operator:<login>`.

    The kernel's login uid outlives sudo and su, and no variable changes it; without one it is whose process this is.
    """
    try:
        login_uid = Path("/proc/self/loginuid").read_text("ascii").strip()
    except OSError:
        login_uid = _NOBODY_LOGGED_IN
    uid = os.getuid() if login_uid == _NOBODY_LOGGED_IN else int(login_uid)
    try:
        return f"operator:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"operator:{uid}"


def validated(model: type[_Model], **given: str | None) -> _Model:
    """The arguments of a command, all of them checked at once; None is absent.

    Raises Refused `request_invalid` that names each option.
    """
    try:
        return model.model_validate_strings({name: text for name, text in given.items() if text is not None})
    except ValidationError as error:
        places = {f"/{name}": option_name(name) for name in given}
        raise Refused("request_invalid", violations=from_validation(error, places)) from None


def option_name(parameter: str) -> str:
    """`valid_days` → `--valid-days`."""
    return f"--{parameter.replace('_', '-')}"


# -- the database ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pool(database_url: str, role: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool of one login for one command. Raises Unready, also for a database that is not migrated."""
    await require_database(database_url, role)
    opened = await open_pool(database_url, role, min_size=0, max_size=2)
    try:
        yield opened
    finally:
        await opened.close()


async def require_database(database_url: str, *roles: str) -> None:
    """Raise Unready unless each of these logins gets in, and finds every migration of this release."""
    migrations = load_migrations()
    for role in roles:
        connection = await connect(database_url.replace(ROLE_PLACEHOLDER, role))
        try:
            missing = await pending(connection, migrations)
        finally:
            await connection.close()
        if missing:
            raise Unready(
                f"cơ sở dữ liệu chưa cập nhật · "
                f"the database lacks {len(missing)} of our migrations; run: asm-daemon migrate"
            )


async def connect(url: str) -> asyncpg.Connection:
    """A connection that the caller closes; `url` names the login. Raises Unready if there is none to be had."""
    try:
        return await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    except (
        *LOST,
        ValueError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
    ) as error:
        raise Unready(
            f"không kết nối được cơ sở dữ liệu · no connection to the database: {_connection_reason(error)}"
        ) from None


def _connection_reason(error: BaseException) -> str:
    match error:
        case asyncpg.InvalidCatalogNameError():
            return f"{error}; create it, then run: asm-daemon migrate"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return f"{error}; run asm-daemon migrate if it is new, else look at pg_hba.conf and the passwords"
        case asyncpg.PostgresError():
            return str(error)
        case OSError():
            return f"{error.strerror or error}; does it run where the URL says?"
        case TimeoutError():
            return f"no answer within {_CONNECT_SECONDS} s"
    return "the URL cannot be used"  # its text may hold a password, and so may a message about it


# -- what comes out ----------------------------------------------------------------------------------------------------


def print_json(document: Any) -> None:
    """Print one JSON document for people and programs: indented, members in their order."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for people; None is an empty cell, an instant is told in the time of Viet Nam.

    In a terminal, text goes on in the next line of its cell. What is one word, such as an id, is never cut or folded,
    however narrow the terminal is: it has to be copied. Where there is no terminal each row is one line.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    cells = [[_shown(cell) for cell in row] for row in rows]
    wanted = _BETWEEN * (len(columns) - 1)
    for index, name in enumerate(columns):
        texts = [name, *(row[index] for row in cells)]
        width = max(map(cell_len, texts))
        whole = not console.is_terminal or not any(" " in text for text in texts[1:])
        table.add_column(name, overflow="fold", no_wrap=whole, min_width=width if whole else None)
        wanted += width if whole else min(width, _NARROWEST)
    for row in cells:
        table.add_row(*row)
    console.width = max(console.width, wanted) if console.is_terminal else wanted
    console.print(table)


def _shown(cell: object) -> str:
    if isinstance(cell, datetime):
        return cell.astimezone(HANOI).isoformat(timespec="seconds")
    return "" if cell is None else str(cell)


def note(text: str) -> None:
    """Tell the operator something beside the result, which alone goes to standard output."""
    typer.echo(text, err=True)
