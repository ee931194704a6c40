"""What is kept for longer, what is forgotten, and how far that is."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
import typer
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from asm_daemon import erasing, retention
from asm_daemon.commands.console import (
    NO,
    Unready,
    group,
    kept_text,
    note,
    operator,
    pool,
    print_json,
    print_table,
    settings,
    trusted_keyring,
)
from asm_daemon.crypto import Keyring
from asm_daemon.daemon import desk_of, periods_of, utc_now, watch_of
from asm_daemon.document_holds import Held, Order, hold_document
from asm_daemon.erasing import NotErasable, Request
from asm_daemon.keystores import store_of
from asm_daemon.problems import Refused, from_validation
from asm_daemon.rules import HANOI
from asm_daemon.settings import Settings
from asm_daemon.store import retention as store
from asm_daemon.store.retention import Erasure, Hold
from asm_daemon.told import Holds
from schemas.police import DocumentNumber

hold_commands = group("Legal holds (lệnh giữ dữ liệu): what is not forgotten when its time is over.")
erase_commands = group("Erasure at somebody's request (xoá theo yêu cầu).")
retention_commands = group("What was forgotten, and since when no copy can exist (lưu giữ và tiêu huỷ).")
_LOGIN, _AUDIT_LOGIN = "asm_retention", "asm_audit"
_LINE_LIMIT = 200  # characters read of what should be a document's number
_Result = TypeVar("_Result")


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "một ngày hoặc thời điểm · a day or an instant, such as 2026-11-28 or 2026-11-28T14:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=HANOI)


_Reason = Annotated[str, typer.Option(parser=kept_text, metavar="TEXT", help="why; it goes into the audit")]
_AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def _run(use: Callable[[asyncpg.Pool], Awaitable[_Result]]) -> _Result:
    async def run() -> _Result:
        async with pool(settings().database_url, _LOGIN) as opened:
            return await use(opened)

    return asyncio.run(run())


# -- legal holds -------------------------------------------------------------------------------------------------------


@hold_commands.command("add")
def add_hold(
    warrant: Annotated[str, typer.Option(parser=kept_text, metavar="REF", help="the warrant (số văn bản yêu cầu)")],
    reason: _Reason,
    stay: Annotated[UUID | None, typer.Option(metavar="ID", help="hold this stay (mã lượt)")] = None,
    document: Annotated[
        bool, typer.Option("--document", help="or every stay of a document, whose number is asked for (số giấy tờ)")
    ] = False,
    document_file: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="… or read; nobody else may")
    ] = None,
    facility: Annotated[str | None, typer.Option(metavar="CODE", help="or who was at this facility (mã cơ sở)")] = None,
    since: Annotated[datetime | None, typer.Option("--from", parser=_instant, metavar="TIME", help="from")] = None,
    until: Annotated[datetime | None, typer.Option(parser=_instant, metavar="TIME", help="until before")] = None,
) -> None:
    """Place a legal hold (đặt lệnh giữ): on a stay, on every stay of a document, or on whoever was at a facility.

    What is under it is neither forgotten by the clock nor erased by request, until the hold is lifted. Said again of
    the same warrant, it changes nothing. By document it
    is a search about a person, recorded as those of the police are. The number is never an argument: --document asks
    for it without showing it, or reads a line of standard input. Stays declared later are held by saying it again.
    """
    window = (facility, since, until)
    given = [stay is not None, document or document_file is not None, any(each is not None for each in window)]
    if sum(given) != 1 or (document and document_file) or (given[2] and None in window):
        raise typer.BadParameter(
            "cho --stay, --document, --document-file, hoặc --facility cùng --from và --until · "
            "give --stay, --document, --document-file, or --facility with --from and --until"
        )
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("--until phải sau --from · --until has to be after --from")
    if given[1]:
        _hold_document(Order(warrant, reason, operator()), _number(document_file))
        return

    async def place(opened: asyncpg.Pool) -> tuple[UUID, int]:
        async with opened.acquire() as connection:
            if stay is not None:
                found = await store.facility_of(connection, stay)
            else:
                found = await store.facility_by_code(connection, facility or "")
        if found is None:
            raise Unready(
                f"chưa giữ gì: không có {'lượt' if stay else 'cơ sở'} này · "
                f"nothing was held: there is no such {'stay' if stay else 'facility'}"
            )
        hold = Hold(uuid7(), found, stay, since, until, warrant, reason, utc_now(), operator())
        async with opened.acquire() as connection:
            there = await store.same_hold(connection, hold)
            if there is not None and await _is_told(there, keyring):
                return there, await store.under_hold(connection, there)
        return hold.id, await retention.place_hold(opened, keyring, hold)

    keyring = trusted_keyring()
    hold_id, stays = _run(place)
    print_json({"hold": str(hold_id), "stays": stays})


async def _is_told(hold_id: UUID, keyring: Keyring) -> bool:
    async with pool(settings().database_url, _AUDIT_LOGIN) as auditors:
        holds = Holds(auditors, keyring)
        await holds.read()
        return holds.tells(hold_id)


def _number(file: Path | None) -> DocumentNumber:
    """The number that is asked for. Raises Refused; no message repeats it."""
    if file is not None:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise typer.BadParameter(
                f"người khác đọc được tệp này: chmod 600 {file} · others may read this file: chmod 600 {file}",
                param_hint="--document-file",
            )
        with file.open("r", encoding="utf-8", errors="replace") as opened:
            typed = opened.readline(_LINE_LIMIT)
    elif sys.stdin.isatty():
        typed = getpass("Số giấy tờ · Document number: ")
    else:
        typed = sys.stdin.readline(_LINE_LIMIT)
    try:
        return DocumentNumber(document_number=typed)
    except ValidationError as error:
        faults = from_validation(error, {"/document_number": "--document"})
        raise Refused("request_invalid", violations=faults) from None


def _hold_document(order: Order, wanted: DocumentNumber) -> None:
    held = asyncio.run(_search_and_hold(settings(), order, wanted))
    print_json(
        {
            "trace": str(held.trace),
            "placed": held.placed,
            "stays": [str(stay_id) for stay_id in held.stays],
            "unreadable": [str(stay_id) for stay_id in held.unreadable],
        }
    )
    if held.unreadable:
        note(
            "Có lượt mang mã của số này nhưng không mở được, nên không được giữ: hãy chạy asm-daemon keys verify "
            "--all, và giữ từng lượt bằng hold add --stay. · Some carry this number's tag but do not open, and are not "
            "held: run asm-daemon keys verify --all, and hold each by hold add --stay."
        )
    if not held.stays or held.unreadable:
        raise typer.Exit(NO)


async def _search_and_hold(given: Settings, order: Order, wanted: DocumentNumber) -> Held:
    keyring = trusted_keyring()
    async with pool(given.database_url, _LOGIN) as opened, pool(given.database_url, _AUDIT_LOGIN) as audit_pool:
        desk = desk_of(given, keyring, opened, watch_of(given, keyring, audit_pool))
        return await hold_document(desk, order, wanted, utc_now())


@hold_commands.command("list")
def list_holds(
    warrant: Annotated[str | None, typer.Option(metavar="REF", help="only those of this warrant")] = None,
    stay: Annotated[UUID | None, typer.Option(metavar="ID", help="only those that this stay is under")] = None,
    lifted: Annotated[bool, typer.Option("--lifted", help="those that were lifted instead")] = False,
    as_json: _AsJson = False,
) -> None:
    """List the holds in force (danh sách lệnh giữ)."""

    async def read(opened: asyncpg.Pool) -> list[tuple[Hold, str]]:
        async with opened.acquire() as connection:
            return await store.list_holds(connection, lifted=lifted, warrant=warrant, stay_id=stay)

    found = [
        {**hold._asdict(), "id": str(hold.id), "stay_id": str(hold.stay_id) if hold.stay_id else None, "facility": code}
        for hold, code in _run(read)
    ]
    names = (
        "id", "facility", "stay_id", "present_from", "present_until", "warrant_ref", "reason", "placed_at", "placed_by"
    )  # fmt: skip
    if as_json:
        print_json([{name: each[name] for name in names} for each in found])
    else:
        print_table(tuple(name.replace("_", " ") for name in names), [[each[name] for name in names] for each in found])


@hold_commands.command("lift")
def lift_hold(
    reason: _Reason,
    hold_id: Annotated[UUID | None, typer.Argument(metavar="ID", help="a hold; none: by --warrant")] = None,
    warrant: Annotated[str | None, typer.Option(metavar="REF", help="all holds of this warrant (số văn bản)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count (chỉ đếm); with --warrant")] = False,
) -> None:
    """Lift a hold, or all of a warrant (gỡ lệnh giữ). What only they kept is forgotten at its month's next round."""
    by = operator()
    if (hold_id is None) == (warrant is None) or (dry_run and warrant is None):
        raise typer.BadParameter(
            "cho mã lệnh giữ, hoặc --warrant (có thể với --dry-run) · give an id, or --warrant (--dry-run goes with it)"
        )
    keyring = trusted_keyring()
    if warrant is not None:
        found = _run(
            lambda opened: retention.lift_warrant(opened, keyring, warrant, reason, by, utc_now(), dry_run=dry_run)
        )
        print_json({"holds": len(found), "dry_run": dry_run})
        if not found:
            raise typer.Exit(NO)
        return
    if hold_id is None or not _run(lambda opened: retention.lift_hold(opened, keyring, hold_id, reason, by, utc_now())):
        raise Unready(
            "chưa gỡ gì: không có lệnh giữ nào đang hiệu lực với mã này · "
            "nothing was lifted: no hold of this id is in force"
        )
    print_json({"lifted": str(hold_id)})


@hold_commands.command("restore")
def restore_holds() -> None:
    """Write holds that were changed in the database as the audit tells them (khôi phục lệnh giữ), on record.

    Until then nothing is forgotten. `untold` are in the database and nobody placed them here: look, then lift them.
    Ends with 1 if there are any.
    """
    given, keyring = settings(), trusted_keyring()

    async def restore(opened: asyncpg.Pool) -> retention.Restored:
        async with pool(given.database_url, _AUDIT_LOGIN) as auditors:
            return await retention.restore_holds(opened, auditors, keyring, operator(), utc_now())

    done = _run(restore)
    print_json({name: [str(each) for each in ids] for name, ids in done._asdict().items()})
    if done.untold:
        note(
            "Không ai đặt các lệnh giữ untold qua hệ thống này: hãy xem xét rồi gỡ bằng hold lift. · "
            "Nobody placed the holds called untold through this system: look at them, then hold lift."
        )
        raise typer.Exit(NO)


# -- erasure -----------------------------------------------------------------------------------------------------------


@erase_commands.command("stay")
def erase_stay(
    stay: Annotated[UUID, typer.Argument(metavar="ID", help="the stay (mã lượt)")],
    reason: _Reason,
    confirm: Annotated[UUID, typer.Option(metavar="ID", help="the same id once more: this cannot be undone")],
    urgent: Annotated[
        bool, typer.Option("--urgent", help="seal the rest of its month anew and destroy the old key")
    ] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="though its record is not what was signed; a copy is kept as evidence")
    ] = False,
) -> None:
    """Erase a stay that has ended, with all its versions (xoá một lượt lưu trú).

    Backups hold it until they expire; --urgent makes it unreadable there too, as soon as its month is sealed anew.
    Refused under a legal hold. The population database keeps its own copy by its own law.
    """
    if confirm != stay:
        raise Unready(f"chưa xoá gì: --confirm phải ghi {stay} · nothing was erased: --confirm has to say {stay}")
    trusted_keyring()
    given, request = settings(), Request(stay, reason, operator(), urgent, changed)

    async def erase(opened: asyncpg.Pool) -> Erasure:
        async with pool(given.database_url, _AUDIT_LOGIN) as auditors:
            return await erasing.erase_stay(opened, auditors, store_of(given), request, periods_of(given), utc_now())

    try:
        done = _run(erase)
    except NotErasable as error:
        raise Unready(f"chưa xoá gì: {error.reason.vi} · nothing was erased: {error.reason.en}") from None
    except ValueError:
        raise Unready(
            "chưa xoá gì: đây không phải mã lượt · nothing was erased: this is not the id of a stay"
        ) from None
    print_json({"stay": str(stay), "state": done.state, "no_copy_after": _shown(done.final_at)})
    if done.urgent:
        note("Tháng này đang được niêm phong lại ở nền. · Its month is being sealed anew in the background.")


@retention_commands.command("list")
def list_rounds(as_json: _AsJson = False) -> None:
    """List the months that were ended, and erasures that are not final (các tháng đã tiêu huỷ)."""

    async def read(opened: asyncpg.Pool) -> tuple[list[store.Round], list[Erasure]]:
        async with opened.acquire() as connection:
            return await store.rounds(connection), await store.open_erasures(connection)

    rounds, erasures = _run(read)
    found: list[dict[str, Any]] = [
        {
            "subject": f"epoch/{each.epoch}",
            "state": each.state,
            "kept": each.kept,
            "forgotten": orjson.loads(each.counts or "{}").get("stays"),
            "destroyed_at": _shown(each.ended_at),
            "no_copy_after": _shown(each.final_at),
        }
        for each in rounds
    ]
    found += [
        {
            "subject": f"stay/{each.stay_id}",
            "state": each.state,
            "kept": None,
            "forgotten": 1,
            "destroyed_at": _shown(each.erased_at),
            "no_copy_after": _shown(each.final_at),
        }
        for each in erasures
    ]
    if as_json:
        print_json(found)
    else:
        columns = ("subject", "state", "kept", "forgotten", "destroyed_at", "no_copy_after")
        print_table(columns, [[each[name] for name in columns] for each in found])


def _shown(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(timespec="seconds")
