"""The key store: made, listed, rotated, verified, and what is to be forgotten destroyed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from asm_daemon import audit, resealing, retention
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
)
from asm_daemon.crypto import KeyName, KeyPurpose, epoch_at, next_epoch
from asm_daemon.daemon import periods_of, utc_now
from asm_daemon.key_backups import expire_backups, make_backup
from asm_daemon.keystores import KeyFacts, KeyStore, create_store, retired_with, root_of, store_of
from asm_daemon.retention import NotEndable
from asm_daemon.settings import Settings
from asm_daemon.stay_proofs import StaysVerification, verify_stays
from asm_daemon.store import retention as retention_store
from asm_daemon.told import HOLDS_CHANGED, Holds, HoldsChanged, alert_to_holds, verify_told

key_store_commands = group("The key store (kho khoá), outside the database.")
_LOGIN, _AUDIT_LOGIN = "asm_retention", "asm_audit"
FAULT_TEXTS: Mapping[str, tuple[str, str]] = {
    "no_key": ("Tháng có lượt lưu trú nhưng không có khoá.", "The month has stays and no keys."),
    "stays_of_a_destroyed_month": (
        "Khoá của tháng đã huỷ nhưng bản ghi vẫn còn, không ai đọc được.",
        "The month's keys were destroyed and its records are still there, unreadable.",
    ),
    "not_what_was_signed": (
        "Bản ghi không mở được hoặc không khớp với biên nhận đã ký.",
        "The record does not open, or is not what its receipt was signed over.",
    ),
    "tags_changed": (
        "Chỉ mục tìm kiếm không phải của bản ghi: tra cứu sẽ không thấy.",
        "The search tags are not those of the record: searches miss it.",
    ),
    "times_changed": (
        "Thời điểm đến hoặc dự kiến đi cạnh bản ghi khác với nội dung khai báo.",
        "Arrival or planned departure beside the record are not those declared.",
    ),
    "state_changed": (
        "Trạng thái, thời điểm khách đi hoặc dấu nội dung cạnh bản ghi khác với những gì được niêm phong trong đó.",
        "State, departure or content tag beside the record are not those sealed in it.",
    ),
    "forgotten_not_signed": (
        "Danh sách biên nhận đã xoá theo quy định không do hệ thống này ký: có thể che một bản ghi bị xoá lén.",
        "A list of what was forgotten on purpose is not what we signed: it may hide that a record was removed.",
    ),
    "record_missing": (
        "Biên nhận đã ký nhưng bản ghi không còn, hoặc đã bị đưa về phiên bản cũ.",
        "A receipt was signed and its record is gone, or was rolled back.",
    ),
    "receipts_changed": (
        "Lô biên nhận không khớp với chữ ký của nó.",
        "A batch of receipts is not what its note signs.",
    ),
    "receipts_not_audited": (
        "Lô biên nhận không có trong nhật ký kiểm toán.",
        "A batch of receipts is not in the audit.",
    ),
    "receipts_missing": (
        "Nhật ký kiểm toán có lô biên nhận mà cơ sở dữ liệu không còn.",
        "The audit names a batch of receipts that is gone.",
    ),
    "reference_changed": (
        "Mã tham chiếu của cơ sở không còn dẫn đến lượt lưu trú này.",
        "The sender's reference leads to another stay, or nowhere.",
    ),
    "not_told": (
        "Nhật ký kiểm toán không có bản ghi nào về dòng này: có người đã tự thêm vào cơ sở dữ liệu.",
        "The audit tells nothing of this row: somebody put it into the database.",
    ),
    "told_otherwise": (
        "Dòng này khác với những gì nhật ký kiểm toán ghi nhận.",
        "The row is not what the audit tells of it.",
    ),
    "told_and_gone": (
        "Nhật ký kiểm toán ghi nhận dòng này nhưng cơ sở dữ liệu không còn.",
        "The audit tells of this row, and it is gone.",
    ),
    "not_vouched": (
        "Bản ghi kiểm toán này không do hệ thống viết; nội dung của nó không được tính.",
        "This audit entry was not written by the system; what it tells counts for nothing.",
    ),
    "reencryption_not_signed": (
        "Danh sách niêm phong lại không khớp với nhật ký kiểm toán.",
        "A list of re-encrypted records is not what the audit signed.",
    ),
    "reencryption_not_recorded": (
        "Bản ghi được niêm phong lại nhưng không có trong danh sách đã ký.",
        "The record was sealed anew, and no signed list says so.",
    ),
}


_LOCK_SECONDS = 10
_LOOK_SECONDS = 3_600  # for how long the session may rest that lets no hold come while records are looked through


class PublishedKey(StrEnum):
    """The keys whose public halves are for everybody."""

    RECEIPT = KeyPurpose.RECEIPT.value
    RECEIPT_TRIAL = KeyPurpose.RECEIPT_TRIAL.value
    CHECKPOINT = KeyPurpose.CHECKPOINT.value


def _epoch(text: str) -> int:
    """A month as `yyyymm`."""
    if not re.fullmatch(r"\d{4}(0[1-9]|1[0-2])", text):
        raise typer.BadParameter("tháng viết theo dạng · a month is written yyyymm, such as 202611")
    return int(text)


_Epoch = Annotated[int, typer.Argument(parser=_epoch, metavar="YYYYMM", help="the month of registration, UTC")]
_Reason = Annotated[str, typer.Option(parser=kept_text, metavar="TEXT", help="why; it goes into the audit")]
_Confirm = Annotated[str, typer.Option(metavar="NAME", help="the same name once more: this cannot be undone")]


# -- making and showing ------------------------------------------------------------------------------------------------


@key_store_commands.command("init")
def init_keys() -> None:
    """Make the key store (tạo kho khoá).

    It gets the keys of this month and the next. A store that exists is never touched, nor a root key in a token or a
    vault.
    """
    given, now = settings(), utc_now()
    this_month = epoch_at(now)
    create_store(given.key_store, [this_month, next_epoch(this_month)], now, root_of(given))
    typer.echo(given.key_store)
    note(
        "Hãy sao lưu kho khoá ngay, tách riêng khỏi cơ sở dữ liệu: mất kho khoá là mất mọi dữ liệu đã niêm phong.\n"
        "Back the key store up now, apart from the database: without it nothing sealed can ever be read again."
    )


@key_store_commands.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the keys (danh mục khoá mật mã), never what they are.

    No key is opened for it. `superseded` keys only open what they sealed and find what they tagged; of `destroyed` ones
    nothing is left.
    """
    found = [_line(facts) for facts in store_of(settings()).inventory()]
    if as_json:
        print_json(found)
    else:
        columns = tuple(name.replace("_", " ") for name in found[0])
        print_table(columns, [tuple(line.values()) for line in found])


def _line(facts: KeyFacts) -> dict[str, Any]:
    return {
        "name": str(facts.name),
        "purpose": facts.name.purpose.value,
        "epoch": facts.name.epoch,
        "version": facts.name.version,
        "algorithm": facts.algorithm,
        "state": facts.state,
        "created_at": facts.created_at.isoformat(timespec="seconds"),
        "rewrapped_at": _shown(facts.rewrapped_at),
        "messages": facts.messages,
        "destroyed_at": _shown(facts.destroyed_at),
    }


def _shown(instant: datetime | None) -> str | None:
    return instant.isoformat(timespec="seconds") if instant else None


@key_store_commands.command("public")
def print_public_keys(
    purpose: Annotated[PublishedKey | None, typer.Argument(help="only this one, for a file of its own")] = None,
) -> None:
    """Print the public keys (khoá công khai) to publish, as PEM.

    With them anybody verifies receipts and audit checkpoints.
    """
    keyring = store_of(settings()).keyring()
    for each in PublishedKey if purpose is None else (purpose,):
        key = keyring.signing_key(KeyPurpose(each.value))
        typer.echo(f"{key.key_id}\n{key.public_key_pem}", nl=False)  # text before a key is allowed: RFC 7468, 2


@key_store_commands.command("backup")
def backup_keys(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="where; without it ASM_KEY_BACKUPS", file_okay=False)
    ] = None,
) -> None:
    """Back the wrapped keys up into a dated folder (sao lưu kho khoá), and remove those that are too old.

    Never the root key. Whoever keeps a backup for longer than ASM_KEY_BACKUP_DAYS keeps what was to be forgotten.
    """
    given, now = settings(), utc_now()
    into = folder or given.key_backups
    if into is None:
        raise Unready(
            "chưa sao lưu: hãy nêu thư mục hoặc đặt ASM_KEY_BACKUPS · "
            "nothing was backed up: name a folder, or set ASM_KEY_BACKUPS"
        )
    if given.key_store.resolve() in (into.resolve(), *into.resolve().parents):
        raise Unready(
            "chưa sao lưu: bản sao phải nằm ngoài kho khoá · "
            "nothing was backed up: a backup has to lie outside the key store"
        )
    made = make_backup(given.key_store, into, now)
    expired = expire_backups(into, given.key_backup_days, now)
    print_json({"backup": str(made), "expired": expired})


# -- rotating ----------------------------------------------------------------------------------------------------------


@key_store_commands.command("rotate")
def rotate_keys(
    epoch: Annotated[
        int | None, typer.Option(parser=_epoch, metavar="YYYYMM", help="renew this month's two keys instead")
    ] = None,
) -> None:
    """Renew the root key (thay khoá gốc), or with --epoch the data key and the index key of one month.

    Beside running daemons, which notice within seconds. The root: every key is wrapped anew and the old root destroyed
    (a vault only shuts it out: `trim` destroys it there); no record is touched. A month's keys: the new ones seal and
    tag at once, and the job `reencrypt` seals and tags anew what the old ones did, then destroys them. Until then
    searches ask by both.
    """
    asyncio.run(_rotate(settings(), epoch))


async def _rotate(given: Settings, epoch: int | None) -> None:
    store, now = store_of(given), utc_now()
    store.read()  # nothing is begun on a store that does not open
    if epoch is not None:
        _require_epoch(store, epoch, "active")
        await _audited(given, "keys.renew", f"epoch/{epoch}", {}, now)
        print_json({"keys": [str(name) for name in store.renew_epoch(epoch, now)]})
        note(
            "Dữ liệu cũ được niêm phong lại và lập lại chỉ mục tìm kiếm ở nền.\n"
            "What was sealed before is sealed and tagged anew in the background."
        )
        return
    await _audited(given, "keys.rotate_root", "root", {"provider": given.key_provider}, now)
    started = time.perf_counter()
    wrapped = store.rotate_root(now)
    print_json({"wrapped": wrapped, "milliseconds": round((time.perf_counter() - started) * 1000, 1)})
    note(
        "Bản sao lưu kho khoá cũ chỉ mở được bằng khoá gốc cũ: hãy sao lưu lại ngay, và huỷ bản cũ.\n"
        "Backups of the key store made before open with the old root key alone: make a new one now, destroy those."
    )


# -- verifying ---------------------------------------------------------------------------------------------------------


@key_store_commands.command("verify")
def verify_keys(
    sample: Annotated[int, typer.Option(min=1, max=10_000, help="how many stays of each month to open")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="open every version of every stay instead")] = False,
) -> None:
    """Verify that every key opens, and what it sealed (kiểm tra kho khoá).

    Opens every wrapped key; looks that each month with stays has its keys; opens stays at random and holds them against
    their signed receipts. With --all also that every receipt that was signed has its record: what was removed or rolled
    back is found by that alone; and that legal holds, ended months, erasures, extracts, facilities, HL7 senders,
    principals, API keys and grants are what the audit tells of them (`told`). Ends with 1 on any fault.
    """
    given = settings()
    store = store_of(given)
    keys = store.read()
    verified = asyncio.run(_verify(given, store, None if everything else sample))
    told, told_faults = asyncio.run(_verify_told(given, store)) if everything else (None, [])
    faults = [*verified.faults, *told_faults]
    print_json(
        {
            "keys": len(keys),
            "epochs": verified.epochs,
            "versions": verified.versions,
            "reencrypted": verified.reencrypted,
            "batches": verified.batches,
            **({"told": told} if everything else {}),
            "faults": [
                {"kind": kind, "subject": subject, "message": dict(zip(("vi", "en"), FAULT_TEXTS[kind], strict=True))}
                for kind, subject in faults
            ],
        }
    )
    if faults:
        raise typer.Exit(NO)


async def _verify(given: Settings, store: KeyStore, sample: int | None) -> StaysVerification:
    destroyed = {facts.name.epoch or 0 for facts in store.inventory() if facts.state == "destroyed"}
    async with pool(given.database_url, _LOGIN) as opened, pool(given.database_url, _AUDIT_LOGIN) as auditors:
        return await verify_stays(opened, auditors, store.keyring(), destroyed, sample=sample)


async def _verify_told(given: Settings, store: KeyStore) -> tuple[int, list[tuple[str, str]]]:
    async with AsyncExitStack() as stack:
        logins = (_LOGIN, _AUDIT_LOGIN, "asm_feeds", "asm_auth")
        pools = [await stack.enter_async_context(pool(given.database_url, each)) for each in logins]
        return await verify_told(*pools, keyring=store.keyring())


# -- destroying --------------------------------------------------------------------------------------------------------


@key_store_commands.command("destroy")
def destroy_keys(epoch: _Epoch, reason: _Reason, confirm: _Confirm) -> None:
    """End a month for ever (huỷ khoá của một tháng): its keys are destroyed, its stays dropped, a certificate written.

    As the job `end-months` does, without waiting for its turn. Refused for a month that is not over and while a stay of
    it has to be kept: open, left too recently (ASM_STAY_RETENTION_DAYS), or held. Backups of the key store that hold
    these keys have to be destroyed too.
    """
    if confirm != str(epoch):
        raise _destroyed_nothing(f"--confirm phải ghi {epoch}", f"--confirm has to say {epoch}")
    asyncio.run(_destroy(settings(), epoch, reason))


async def _destroy(given: Settings, epoch: int, reason: str) -> None:
    store, now = store_of(given), utc_now()
    if epoch >= epoch_at(now):
        raise _destroyed_nothing(f"tháng {epoch} chưa qua", f"the month {epoch} is not over")
    _require_epoch(store, epoch, "active", "destroyed")
    there = {facts.name for facts in store.inventory() if facts.name.epoch == epoch and facts.state != "destroyed"}
    async with pool(given.database_url, _LOGIN) as opened, pool(given.database_url, _AUDIT_LOGIN) as auditors:
        try:
            ended = await retention.end_now(opened, auditors, store, epoch, periods_of(given), reason, operator(), now)
        except NotEndable as why:
            raise _destroyed_nothing(*why.reason) from None
    print_json({"destroyed": sorted(str(name) for name in there), "no_copy_after": _shown(ended.final_at)})
    note(
        "Hãy huỷ mọi bản sao lưu kho khoá còn chứa các khoá này.\n"
        "Destroy every backup of the key store that still holds these keys."
    )


@key_store_commands.command("retire")
def retire_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a superseded data key, such as data/202611/1")],
    reason: _Reason,
    confirm: _Confirm,
    lost: Annotated[int, typer.Option(min=0, help="how many records are lost with it, as the refusal counts them")] = 0,
) -> None:
    """Destroy a superseded data key by hand, and the index key beside it (huỷ khoá đã bị thay).

    The job `reencrypt` does this by itself, unless records stay under the old key that are not what their receipts
    say. Those are lost with it: look at the alerts `not_reencrypted` first. Refused while anything under it is what was
    signed, or under a legal hold, and until ten minutes after the key was renewed.
    """
    if confirm != name:
        raise _destroyed_nothing(f"--confirm phải ghi {name}", f"--confirm has to say {name}")
    try:
        parsed = KeyName.parse(name)
    except ValueError:
        raise _destroyed_nothing(f"{name} không phải khoá của kho này", f"{name} is not a key of this store") from None
    asyncio.run(_retire(settings(), parsed, reason, lost))


async def _retire(given: Settings, name: KeyName, reason: str, lost: int) -> None:
    store, now = store_of(given), utc_now()
    states = {facts.name: facts.state for facts in store.inventory()}
    if states.get(name) != "superseded" or name.purpose is not KeyPurpose.DATA:
        raise _destroyed_nothing(
            f"{name} không phải khoá dữ liệu đã được thay", f"{name} is not a superseded data key"
        )  # fmt: skip
    going = [str(each) for each in retired_with(name, [one for one, state in states.items() if state != "destroyed"])]
    async with pool(given.database_url, _LOGIN) as opened, pool(given.database_url, _AUDIT_LOGIN) as auditors:
        holds = Holds(auditors, store.keyring())
        await holds.read()
        try:
            async with opened.acquire() as connection, connection.transaction(isolation="read_committed"):
                await retention_store.set_timeouts(
                    connection, lock_seconds=_LOCK_SECONDS, statement_seconds=_LOOK_SECONDS
                )
                # Until the key is gone: a hold that came meanwhile would lose its record.
                await retention_store.stop_holds(connection)
                await holds.require(connection)
                await _require_nothing_good(opened, store, name, lost, now)
                await _audited(given, "keys.retire", f"epoch/{name.epoch}", {"keys": going, "reason": reason}, now)
                await holds.require(connection)  # the session may have been lost, and its lock, while all was looked at
                print_json({"destroyed": [str(each) for each in store.retire(name, now)]})
        except HoldsChanged as found:
            await alert_to_holds(opened, found, now)
            raise _destroyed_nothing(*HOLDS_CHANGED) from None


async def _require_nothing_good(opened: asyncpg.Pool, store: KeyStore, name: KeyName, lost: int, now: datetime) -> None:
    """Refused unless exactly `lost` records go with a superseded key, none of them sound or held."""
    key = str(name)
    renewed_at = max(
        facts.created_at
        for facts in store.inventory()
        if (facts.name.purpose, facts.name.epoch, facts.state) == (name.purpose, name.epoch, "active")
    )
    if now < renewed_at + resealing.SETTLE:
        minutes = int(resealing.SETTLE.total_seconds()) // 60
        raise Unready(
            f"chưa huỷ gì: khoá mới thay chưa đủ {minutes} phút, có thể còn tiến trình dùng {key} · "
            f"nothing was destroyed: less than {minutes} minutes after renewing, {key} may still be in use"
        )
    left = await resealing.left_under(opened, store.keyring(), name)
    if left.sound:
        raise Unready(
            f"chưa huỷ gì: {left.sound} bản ghi hợp lệ còn niêm phong bằng {key}; hãy chờ tác vụ reencrypt · "
            f"nothing was destroyed: {left.sound} good records are still under {key}; let the job reencrypt finish"
        )
    if left.held:
        raise Unready(
            f"chưa huỷ gì: {left.held} bản ghi niêm phong bằng {key} đang bị giữ theo lệnh · "
            f"nothing was destroyed: {left.held} records under {key} are under a legal hold"
        )
    if left.refused != lost:
        raise Unready(
            f"chưa huỷ gì: {left.refused} bản ghi sẽ mất cùng {key}; nếu đúng ý, thêm --lost {left.refused} · "
            f"nothing was destroyed: {left.refused} records are lost with {key}; if so meant, say --lost {left.refused}"
        )


def _destroyed_nothing(vi: str, en: str) -> Unready:
    return Unready(f"chưa huỷ gì: {vi} · nothing was destroyed: {en}")


def _require_epoch(store: KeyStore, epoch: int, *states: str) -> None:
    if not any(facts.name.epoch == epoch and facts.state in states for facts in store.inventory()):
        raise Unready(f"kho khoá không có khoá của {epoch} · the key store has no keys of {epoch}")


async def _audited(given: Settings, action: str, subject: str, details: Mapping[str, Any], now: datetime) -> None:
    """Say in the audit what is about to be done, before it is done: who cannot say it cannot do it."""
    entry = audit.AuditEntry(
        at=now, actor_kind="operator", actor=operator(), action=action, object=subject, details=details
    )
    async with pool(given.database_url, _LOGIN) as opened, opened.acquire() as connection:
        await audit.append(connection, entry)
