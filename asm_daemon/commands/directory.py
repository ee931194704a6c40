"""Who may speak for whom: facilities, principals, keys, grants and senders (`asm_daemon.directory`).

Every argument is optional to the parser, so that whatever is missing or wrong is told at once, in both languages.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import asyncpg
import typer
from pydantic import BeforeValidator, Field

from asm_daemon import directory
from asm_daemon.commands.console import (
    NO,
    group,
    note,
    operator,
    pool,
    print_json,
    print_table,
    settings,
    trusted_keyring,
    validated,
)
from asm_daemon.daemon import utc_now
from asm_daemon.directory import Actor
from asm_daemon.model import Facility, PrincipalKind, Scope, Sender
from asm_daemon.store.accounts import KeyFacts
from schemas.codes import Department, FacilityKind
from schemas.directory import Name, NewFacility
from schemas.hospital import CHARSETS, CLASS_FORM, DEFAULT_CHARSET, OVERNIGHT_CLASSES, HospitalProfile
from schemas.stay import Input, refuse

facility_commands = group("Facilities (cơ sở lưu trú).")
principal_commands = group("Principals (chủ thể): who holds API keys.")
key_commands = group("API keys (khoá API).")
grant_commands = group("Grants (quyền): what a principal may do at a facility.")
sender_commands = group("HL7 senders (hệ thống bệnh viện) over MLLP.")

LOGIN = "asm_auth"
_Result = TypeVar("_Result")
_Row = TypeVar("_Row")
_Enum = TypeVar("_Enum", bound=StrEnum)


def _in_directory(work: Callable[[asyncpg.Pool], Awaitable[_Result]]) -> _Result:
    """Do `work` with a pool of the directory's login."""

    async def connected() -> _Result:
        async with pool(settings().database_url, LOGIN) as opened:
            return await work(opened)

    return asyncio.run(connected())


def _actor() -> Actor:
    return Actor(operator(), trusted_keyring())


def _option(help_text: str) -> Any:
    return typer.Option(metavar="TEXT", help=help_text, show_default=False)


def _one_of(names: type[StrEnum]) -> str:
    return ", ".join(names)


def _member(names: type[_Enum]) -> BeforeValidator:
    def read(text: object) -> object:
        try:
            return names(text)  # type: ignore[arg-type]  # whatever was given: what is no member fails
        except ValueError:
            raise refuse("out_of_range", expected=_one_of(names)) from None

    return BeforeValidator(read)


# -- facilities --------------------------------------------------------------------------------------------------------


@facility_commands.command("add")
def add_facility(
    code: Annotated[str | None, _option("its code (mã cơ sở), such as HY-KS-0001 [required]")] = None,
    name: Annotated[str | None, _option("its name (tên) [required]")] = None,
    kind: Annotated[str | None, _option(f"its kind (loại): {_one_of(FacilityKind)} [required]")] = None,
    province: Annotated[str | None, _option("code of the province (mã tỉnh), table provinces [required]")] = None,
    commune: Annotated[str | None, _option("code of the commune (mã xã, phường), table communes [required]")] = None,
    address: Annotated[str | None, _option("its address (địa chỉ) [required]")] = None,
    zone: Annotated[str | None, _option("its industrial zone (khu công nghiệp), if it lies in one")] = None,
    authority: Annotated[
        str | None, _option("the commune police that receives its declarations (cơ quan tiếp nhận) [required]")
    ] = None,
    capacity: Annotated[str | None, _option("how many guests it can house (sức chứa) [required]")] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="for trials only (thử nghiệm), for ever")] = False,
) -> None:
    """Enter a facility (thêm cơ sở lưu trú) and print its code."""
    new = validated(
        NewFacility,
        code=code,
        name=name,
        kind=kind,
        province=province,
        commune=commune,
        address=address,
        zone=zone,
        authority=authority,
        capacity=capacity,
        sandbox=str(sandbox).lower(),
    )
    facility = _in_directory(lambda opened: directory.add_facility(opened, _actor(), new, utc_now()))
    typer.echo(facility.code)


@facility_commands.command("list")
def list_facilities(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the facilities (danh sách cơ sở) by code."""
    found = _in_directory(lambda opened: _all(directory.list_facilities, opened, lambda facility: facility.code))
    columns = ("code", "name", "kind", "province", "commune", "zone", "capacity", "sandbox")
    _show(columns, [_facility_members(facility) for facility in found], as_json=as_json)


def _facility_members(facility: Facility) -> dict[str, Any]:
    return {
        "code": facility.code,
        "name": facility.name,
        "kind": facility.kind.value,
        "province": facility.province,
        "commune": facility.commune,
        "address": facility.address,
        "zone": facility.zone,
        "authority": facility.authority,
        "capacity": facility.capacity,
        "sandbox": facility.sandbox,
    }


async def _all(
    page: Callable[[asyncpg.Pool, str], Awaitable[list[_Row]]], opened: asyncpg.Pool, key: Callable[[_Row], str]
) -> list[_Row]:
    """Everything of a list that is read page by page."""
    found: list[_Row] = []
    while rows := await page(opened, key(found[-1]) if found else ""):
        found += rows
    return found


def _show(columns: tuple[str, ...], rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[column] for column in columns] for row in rows])


# -- principals --------------------------------------------------------------------------------------------------------


class NewPrincipal(Input):
    """A principal to be entered; who is a department says which."""

    kind: Annotated[PrincipalKind, _member(PrincipalKind)]
    name: Name
    organisation: Name
    department: Annotated[Department | None, _member(Department)] = None


@principal_commands.command("add")
def add_principal(
    kind: Annotated[str | None, _option(f"the role (vai trò): {_one_of(PrincipalKind)} [required]")] = None,
    name: Annotated[str | None, _option("who answers for the keys (người phụ trách) [required]")] = None,
    organisation: Annotated[str | None, _option("of which organisation (đơn vị) [required]")] = None,
    department: Annotated[
        str | None, _option(f"which department (sở, ban ngành), for that kind only: {_one_of(Department)}")
    ] = None,
) -> None:
    """Enter a principal (thêm chủ thể) and print its id.

    `key create` and `grant add` ask for the id.
    """
    new = validated(NewPrincipal, kind=kind, name=name, organisation=organisation, department=department)
    principal_id = _in_directory(
        lambda opened: directory.add_principal(
            opened, _actor(), new.kind, new.name, new.organisation, utc_now(), department=new.department
        )
    )
    typer.echo(principal_id)


# -- keys --------------------------------------------------------------------------------------------------------------


class NewKey(Input):
    """A key to be made."""

    principal: UUID
    valid_days: Annotated[int, Field(ge=1, le=directory.KEY_VALID_DAYS_LIMIT)] = directory.KEY_VALID_DAYS_LIMIT


@key_commands.command("create")
def create_key(
    principal: Annotated[
        str | None, _option("whose key (mã chủ thể), as `principal add` printed it [required]")
    ] = None,
    valid_days: Annotated[
        str | None,
        _option(f"days until it expires (số ngày hiệu lực), 1 to {directory.KEY_VALID_DAYS_LIMIT} (default)"),
    ] = None,
) -> None:
    """Make an API key (tạo khoá) and print it, once.

    What is kept of it cannot be turned back into the key.
    """
    new = validated(NewKey, principal=principal, valid_days=valid_days)
    token = _in_directory(
        lambda opened: directory.create_key(opened, _actor(), new.principal, utc_now(), valid_days=new.valid_days)
    )
    typer.echo(token)
    note("Hãy cất khoá ngay: không thể xem lại. · Put the key away now: it cannot be shown again.")


@key_commands.command("revoke")
def revoke_key(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="its id: the 16 characters after `asm_`, as `key list` shows them")
    ],
) -> None:
    """Revoke an API key (thu hồi khoá).

    The daemon may honour it for ASM_KEY_CACHE_SECONDS more.
    """
    revoked = _in_directory(lambda opened: directory.revoke_key(opened, _actor(), key, utc_now()))
    _end(revoked, "Không có khoá nào còn hiệu lực mang mã này. · No valid key has this id.")


@key_commands.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the API keys (danh sách khoá), revoked ones too."""
    found = _in_directory(lambda opened: _all(directory.list_keys, opened, lambda key: key.id))
    columns = ("id", "kind", "name", "principal", "created_at", "expires_at", "revoked_at")
    _show(columns, [_key_members(key) for key in found], as_json=as_json)


def _key_members(key: KeyFacts) -> dict[str, Any]:
    times = {"created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return {
        "id": key.id,
        "kind": key.kind.value,
        "name": key.name,
        "principal": str(key.principal_id),
        **{name: instant and instant.isoformat(timespec="seconds") for name, instant in times.items()},
    }


def _end(changed: bool, otherwise: str) -> None:
    """Say that nothing was there to change, and fail."""
    if not changed:
        note(otherwise)
        raise typer.Exit(NO)


# -- grants ------------------------------------------------------------------------------------------------------------


class Granted(Input):
    """A principal at a facility."""

    principal: UUID
    facility: Name


def _read_scopes(text: str) -> frozenset[Scope]:
    try:
        return frozenset(map(Scope, text.split(",")))
    except ValueError:
        raise refuse("out_of_range", expected=_one_of(Scope)) from None


class NewGrant(Granted):
    """What a principal may do at a facility; None is what suits its kind."""

    scopes: Annotated[frozenset[Scope] | None, BeforeValidator(_read_scopes)] = None


_PRINCIPAL = "the principal's id (mã chủ thể) [required]"
_FACILITY = "the facility's code (mã cơ sở) [required]"


@grant_commands.command("add")
def add_grant(
    principal: Annotated[str | None, _option(_PRINCIPAL)] = None,
    facility: Annotated[str | None, _option(_FACILITY)] = None,
    scopes: Annotated[
        str | None,
        _option(
            f"what it may do there (phạm vi), comma-separated: {_one_of(Scope)}; "
            "by default all for an owner, declare,status for a vendor"
        ),
    ] = None,
) -> None:
    """Let a principal act for a facility (cấp quyền).

    This replaces what was granted there before.
    """
    new = validated(NewGrant, principal=principal, facility=facility, scopes=scopes)
    _in_directory(
        lambda opened: directory.grant(opened, _actor(), new.principal, new.facility, utc_now(), scopes=new.scopes)
    )


@grant_commands.command("revoke")
def revoke_grant(
    principal: Annotated[str | None, _option(_PRINCIPAL)] = None,
    facility: Annotated[str | None, _option(_FACILITY)] = None,
) -> None:
    """Withdraw what was granted at a facility (thu hồi quyền)."""
    old = validated(Granted, principal=principal, facility=facility)
    revoked = _in_directory(
        lambda opened: directory.revoke_grant(opened, _actor(), old.principal, old.facility, utc_now())
    )
    _end(revoked, "Chủ thể không có quyền nào tại cơ sở này. · The principal holds no grant at this facility.")


# -- senders -----------------------------------------------------------------------------------------------------------


_SenderName = Annotated[str, Field(min_length=1, max_length=directory.SENDER_FIELD_LIMIT)]


def _read_classes(text: str) -> tuple[str, ...]:
    classes = tuple(each.strip() for each in text.split(","))
    if not all(map(CLASS_FORM.fullmatch, classes)):
        raise refuse("wrong_format", expected=",".join(OVERNIGHT_CLASSES))
    return classes


def _read_charset(text: str) -> str:
    if text.upper() not in CHARSETS:
        raise refuse("out_of_range", expected=", ".join(CHARSETS))
    return text.upper()


def _read_fingerprint(text: str) -> bytes:
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise refuse("wrong_format", expected="SHA-256, 64 x 0-9 a-f")
    return bytes.fromhex(digits)


class NewSender(Input):
    """An HL7 sender, the facility it speaks for, and how its messages are read."""

    sending_application: _SenderName
    sending_facility: _SenderName
    facility: Name
    overnight_classes: Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_read_classes)] = (
        OVERNIGHT_CLASSES
    )
    charset: Annotated[str, BeforeValidator(_read_charset)] = DEFAULT_CHARSET
    relative_role: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,20}$")] | None = None
    certificate: Annotated[bytes | None, BeforeValidator(_read_fingerprint)] = None


@sender_commands.command("add")
def add_sender(
    sending_application: Annotated[str | None, _option("the name of its program, exactly (MSH-3) [required]")] = None,
    sending_facility: Annotated[str | None, _option("its own name, exactly (MSH-4) [required]")] = None,
    facility: Annotated[str | None, _option(_FACILITY)] = None,
    overnight_classes: Annotated[
        str | None,
        _option(
            "who stays overnight (loại bệnh nhân nội trú), PV1-2 comma-separated; `:bed` only with a bed in PV1-3 "
            f"(default {','.join(OVERNIGHT_CLASSES)})"
        ),
    ] = None,
    charset: Annotated[
        str | None, _option(f"of messages whose MSH-18 is empty (bảng mã); default {DEFAULT_CHARSET}")
    ] = None,
    relative_role: Annotated[
        str | None, _option("NK1-7 of relatives who stay with the patient (người nhà ở cùng); without it none do")
    ] = None,
    certificate: Annotated[
        str | None, _option("SHA-256 of the client certificate (chứng thư) that alone may use these names, in hex")
    ] = None,
) -> None:
    """Let a sender speak for a facility (khai báo hệ thống gửi).

    It no longer speaks for another, and what was said of it before is replaced.
    """
    new = validated(
        NewSender,
        sending_application=sending_application,
        sending_facility=sending_facility,
        facility=facility,
        overnight_classes=overnight_classes,
        charset=charset,
        relative_role=relative_role,
        certificate=certificate,
    )
    profile = HospitalProfile(new.overnight_classes, new.charset, new.relative_role)
    _in_directory(
        lambda opened: directory.assign_sender(
            opened,
            _actor(),
            new.sending_application,
            new.sending_facility,
            new.facility,
            utc_now(),
            profile=profile,
            certificate_sha256=new.certificate,
        )
    )


@sender_commands.command("list")
def list_senders(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the HL7 senders (danh sách hệ thống gửi), and how their messages are read."""

    async def every(opened: asyncpg.Pool) -> list[tuple[str, str, Sender]]:
        found: list[tuple[str, str, Sender]] = []
        while rows := await directory.list_senders(opened, found[-1][:2] if found else ("", "")):
            found += rows
        return found

    columns = ("application", "sender", "facility", "overnight", "charset", "relative_role", "certificate")
    _show(columns, [_sender_members(*each) for each in _in_directory(every)], as_json=as_json)


def _sender_members(application: str, name: str, sender: Sender) -> dict[str, Any]:
    return {
        "application": application,
        "sender": name,
        "facility": sender.facility.code,
        "overnight": ",".join(sender.profile.overnight_classes),
        "charset": sender.profile.charset,
        "relative_role": sender.profile.relative_role,
        "certificate": sender.certificate_sha256.hex() if sender.certificate_sha256 else None,
    }


@sender_commands.command("refused")
def list_refused_messages(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the HL7 messages that were refused (bản tin bị từ chối), the latest 1000, and why.

    What they said is not kept. Ends with 1 if there are any.
    """
    count, refused = _in_directory(lambda opened: directory.refused_messages(opened, _actor(), utc_now()))
    columns = ("received_at", "application", "sender", "control_id", "answer", "times", "reasons")
    rows = [
        {
            "received_at": each.received_at.isoformat(timespec="seconds"),
            "application": each.sending_application,
            "sender": each.sending_facility,
            "control_id": each.control_id,
            "answer": each.code,
            "times": each.times,
            "reasons": "; ".join(each.reasons),
        }
        for each in refused
    ]
    _show(columns, rows, as_json=as_json)
    note(f"{count} bản tin bị từ chối · messages refused")
    if count:
        raise typer.Exit(NO)
