"""Evidence: whether the audit is whole, what a receipt proves, and what a department was given to read."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from asm_daemon import audit, auditing, feeds, rules
from asm_daemon.audit import FAULT_TEXTS, AuditVerification
from asm_daemon.commands.console import NO, Unready, group, note, pool, print_json, settings
from asm_daemon.crypto import KeyPurpose
from asm_daemon.daemon import utc_now, watch_of
from asm_daemon.issuing import EVENTS, TRIAL_MARK, TRIAL_ORIGIN
from asm_daemon.keystores import store_of
from asm_daemon.ledger import BadNote, write_vkey
from asm_daemon.receipts import BadReceipt, VerifiedReceipt, verify_receipt
from asm_daemon.settings import Settings
from asm_daemon.store import audit as audit_store
from asm_daemon.store.extracts import Release
from schemas.codes import Department

audit_commands = group("The audit (nhật ký kiểm toán).")
receipt_commands = group("Receipts (biên nhận).")
extract_commands = group("Extracts (bản trích xuất) of the departments.")
_AUDIT_LOGIN, _READER_LOGIN = "asm_audit", "asm_feeds"
# As `keys public` writes them: the key's name before it, which says what it signs. One with nothing before it is
# believed for everything, one with any other text for nothing: it may be a name that an editor or a hand has spoilt.
_PUBLIC_KEY = re.compile(rb"(-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----)")
_KEY_NAME = re.compile(rb"\s*(?:%s\s*)?(?:(\w+)/\d+\s*)?" % BOM_UTF8)
_MISNAMED = (
    "Tệp khoá có chữ không phải tên khoá trước một khoá công khai; khoá đó không được tin.\n"
    "The file of keys holds text that is no key name before a public key; that key is not believed."
)


# -- the audit ---------------------------------------------------------------------------------------------------------


@audit_commands.command("verify")
def verify_audit(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="a checkpoint kept elsewhere, as `audit checkpoint` printed it",
        ),
    ] = None,
) -> None:
    """Recompute the audit and compare it with what was signed.

    Kiểm tra nhật ký: ends with 1 on any fault.
    That the end was cut off, checkpoints and all, shows only against a checkpoint that was kept elsewhere.
    """
    earlier = [path.read_text("utf-8", errors="replace") for path in checkpoint or ()]
    verified = asyncio.run(_verify_audit(settings(), earlier))
    print_json(_verification(verified))
    if verified.faults:
        raise typer.Exit(NO)


async def _verify_audit(given: Settings, earlier: list[str]) -> AuditVerification:
    signer = store_of(given).keyring().signing_key(KeyPurpose.CHECKPOINT)
    key = audit.note_key(given.deployment, signer.public_key_bytes)
    async with pool(given.database_url, _AUDIT_LOGIN) as opened, opened.acquire() as connection:
        try:
            return await audit.verify(connection, key, earlier)
        except BadNote as error:
            raise Unready(
                f"điểm kiểm tra đã cho không do khoá của hệ thống này ký · "
                f"a checkpoint given is not one of this deployment's key: {error}"
            ) from None


def _verification(verified: AuditVerification) -> Mapping[str, Any]:
    faults = [
        {"kind": fault.kind.value, "position": fault.position, "message": FAULT_TEXTS[fault.kind]._asdict()}
        for fault in verified.faults
    ]
    return {
        "entries": verified.entries,
        "checkpoints": verified.checkpoints,
        "root": verified.root.hex(),
        "faults": faults,
    }


@audit_commands.command("key")
def print_audit_key() -> None:
    """Print the verifier key (khoá kiểm chứng) of the audit, for its witness.

    It is the public key of its checkpoints with the name of the log, in one line (vkey, C2SP signed-note).
    """
    given = settings()
    signer = store_of(given).keyring().signing_key(KeyPurpose.CHECKPOINT)
    key = audit.note_key(given.deployment, signer.public_key_bytes)
    typer.echo(write_vkey(key.name, key.public_key))


@audit_commands.command("checkpoint")
def print_checkpoint() -> None:
    """Print the newest checkpoint (điểm kiểm tra).

    Keep it where nobody of this installation can change it.
    """
    newest = asyncio.run(_latest_checkpoint(settings()))
    if newest is None:
        raise Unready(
            "nhật ký chưa được niêm phong lần nào · "
            "nothing has been sealed yet; the daemon seals every second, or: asm-daemon once seal-audit"
        )
    typer.echo(newest, nl=False)


async def _latest_checkpoint(given: Settings) -> str | None:
    async with pool(given.database_url, _AUDIT_LOGIN) as opened, opened.acquire() as connection:
        return await audit_store.latest_checkpoint(connection)


@audit_commands.command("export")
def export_audit(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="a new folder, which is made")],
) -> None:
    """Write the audit as files that an auditor verifies offline (xuất nhật ký cho kiểm toán).

    Tiles and entries as C2SP tlog-tiles says; docs/verify_audit.py verifies them with the public key alone.
    """
    try:
        counts = asyncio.run(_export_audit(settings(), folder))
    except FileExistsError:
        raise Unready(
            f"chưa xuất gì: {folder} đã có, hãy nêu một thư mục mới · "
            f"nothing was exported: {folder} is there already, name a new folder"
        ) from None
    except audit.NotSealed:
        raise Unready(
            "nhật ký chưa được niêm phong lần nào · nothing has been sealed yet; the daemon seals every second"
        ) from None
    print_json(counts)


async def _export_audit(given: Settings, folder: Path) -> Mapping[str, int]:
    async with pool(given.database_url, _AUDIT_LOGIN) as opened, opened.acquire() as connection:
        return await auditing.export(connection, folder)


# -- receipts ----------------------------------------------------------------------------------------------------------


@receipt_commands.command("verify")
def verify_receipt_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)],
    public_key: Annotated[
        Path,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="the published key, or several, as PEM"
        ),
    ],
) -> None:
    """Say what a receipt proves (biên nhận chứng minh điều gì).

    Needs nothing but the public key: no settings, no database. FILE holds the receipt as the API gives it, or only its
    member `signed`. Ends with 1 if it proves nothing.
    """
    published, misnamed = _published_keys(public_key.read_bytes())
    if not published and not misnamed:
        raise Unready(f"{public_key}: không có khoá công khai (PEM) · holds no public key (PEM)")
    try:
        verified = _verify_with(_signed_part(file.read_bytes()), published)
    except BadReceipt as error:
        typer.echo(f"Biên nhận này không chứng minh điều gì.\nThis receipt proves nothing: {error}.")
        if misnamed:
            typer.echo(_MISNAMED)
        raise typer.Exit(NO) from None
    typer.echo("\n".join(_what_it_proves(verified)))


def _published_keys(content: bytes) -> tuple[list[tuple[str, bytes]], bool]:
    """Return (purpose, key) of each, the purpose "" if it has no name; and whether one is misnamed and left out."""
    texts_and_keys = _PUBLIC_KEY.split(content)
    names = [_KEY_NAME.fullmatch(text) for text in texts_and_keys[:-1:2]]
    keys = zip(names, texts_and_keys[1::2], strict=True)
    return [((name[1] or b"").decode(), _raw_key(pem)) for name, pem in keys if name], None in names


def _raw_key(pem: bytes) -> bytes:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise Unready("không đọc được khoá công khai · the public key cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Unready("khoá công khai không phải Ed25519 · the public key is not an Ed25519 key")
    return key.public_bytes_raw()


def _signed_part(content: bytes) -> Mapping[str, Any]:
    try:
        receipt = orjson.loads(content.removeprefix(BOM_UTF8))
    except orjson.JSONDecodeError:
        raise BadReceipt("it is not JSON") from None
    if isinstance(receipt, dict) and "signed" in receipt:
        receipt = receipt["signed"]
    if not isinstance(receipt, dict):
        raise BadReceipt("it is not a receipt")
    return receipt


def _verify_with(receipt: Mapping[str, Any], published: list[tuple[str, bytes]]) -> VerifiedReceipt:
    """Verify with those keys that are published for this kind of receipt; the reasons of all, if none holds."""
    trial = TRIAL_ORIGIN in str(receipt.get("checkpoint")).partition("\n")[0]
    purpose = KeyPurpose.RECEIPT_TRIAL if trial else KeyPurpose.RECEIPT
    reasons: dict[str, None] = {}
    for key in [key for name, key in published if name in ("", purpose)]:
        try:
            return verify_receipt(receipt, key)
        except BadReceipt as error:
            reasons[str(error)] = None
    raise BadReceipt("; ".join(reasons) or f"no key named {purpose} is among the published ones")


def _what_it_proves(verified: VerifiedReceipt) -> Iterator[str]:
    """Only what is signed: the words beside it in a receipt are not."""
    leaf = verified.leaf
    event_vi, event_en = EVENTS.get(leaf.event, (leaf.event, leaf.event))
    received, deadline, signed = map(_local, (leaf.received_at, leaf.deadline_at, verified.signed_at))
    if verified.trial:
        yield f"{TRIAL_MARK['vi']}\n{TRIAL_MARK['en']}"
    late_vi = f"muộn {leaf.late_minutes} phút" if leaf.late_minutes else "đúng hạn"
    late_en = f"{leaf.late_minutes} minutes late" if leaf.late_minutes else "on time"
    yield (
        f"Hợp lệ: {verified.deployment} đã nhận từ cơ sở {leaf.facility} lúc {received}: {event_vi}, lượt lưu trú "
        f"{leaf.stay_id}, phiên bản {leaf.version}; hạn khai báo {deadline}, {late_vi}; ký lúc {signed}."
    )
    yield (
        f"Valid: {verified.deployment} received from facility {leaf.facility} at {received}: {event_en}, stay "
        f"{leaf.stay_id}, version {leaf.version}; due {deadline}, {late_en}; signed at {signed}."
    )
    yield "Chỉ những điều trên được ký; tên, địa chỉ và lời văn khác trong tệp thì không."
    yield "Only this is signed; names, addresses and words that stand beside it in the file are not."


def _local(instant: datetime) -> str:
    return f"{instant.astimezone(rules.HANOI):%H:%M %d/%m/%Y}"


# -- extracts ----------------------------------------------------------------------------------------------------------


@extract_commands.command("show")
def show_extract(
    department: Annotated[Department, typer.Argument(help="the department (sở, ban ngành)")],
    period: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="the day in Viet Nam")],
) -> None:
    """Print the newest release (bản công bố) of a day.

    It is read as the department reads it: while the witness is silent, not at all. Ends with 1 if there is none.
    """
    release = asyncio.run(_read_release(settings(), department, period.date()))
    if release is None:
        note("Chưa có bản công bố cho ngày này. · Nothing has been published for this day.")
        raise typer.Exit(NO)
    print_json(orjson.loads(release.body))


async def _read_release(given: Settings, department: Department, day: date) -> Release | None:
    keyring = store_of(given).keyring()
    async with pool(given.database_url, _AUDIT_LOGIN) as audit_pool:
        await watch_of(given, keyring, audit_pool).require_releases(utc_now())
    async with pool(given.database_url, _READER_LOGIN) as opened:
        return await feeds.read_release(opened, department, day)
