"""Hotel software of facilities (phần mềm khách sạn): where it is asked, and what waits (`asm_daemon.hotels`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from pydantic import BeforeValidator

from asm_daemon import hotels
from asm_daemon.commands.console import NO, group, note, operator, pool, print_json, print_table, settings, validated
from asm_daemon.daemon import utc_now
from schemas.directory import Name
from schemas.hotel_systems import NewHotelSystem, known_system
from schemas.hotels import HotelSystem
from schemas.stay import Input

hotel_commands = group("Hotel software (phần mềm khách sạn) whose reservations are fetched.")

_Result = TypeVar("_Result")
_SYSTEMS = ", ".join(HotelSystem)


def _in_directory(work: Callable[[asyncpg.Pool], Awaitable[_Result]]) -> _Result:
    async def connected() -> _Result:
        async with pool(settings().database_url, "asm_auth") as opened:
            return await work(opened)

    return asyncio.run(connected())


def _option(help_text: str) -> Any:
    return typer.Option(metavar="TEXT", help=help_text, show_default=False)


@hotel_commands.command("add")
def add_hotel_system(
    facility: Annotated[str | None, _option("code of the facility (mã cơ sở) [required]")] = None,
    system: Annotated[str | None, _option(f"its software (phần mềm): {_SYSTEMS} [required]")] = None,
    base_url: Annotated[str | None, _option("where it is asked, https; nothing else is called [required]")] = None,
    token_url: Annotated[str | None, _option("where its tokens come from, if not from there (apaleo)")] = None,
    property_id: Annotated[str | None, _option("what the software calls the hotel (mã khách sạn)")] = None,
    credentials_file: Annotated[
        str | None, _option("JSON with its secrets, on the daemon's host, absolute path [required]")
    ] = None,
) -> None:
    """Register the software of a facility and print its webhook token (mã webhook), which is shown only once.

    Registering again replaces everything, the token too.
    """
    new = validated(
        NewHotelSystem,
        facility=facility,
        system=system,
        base_url=base_url,
        token_url=token_url,
        property_id=property_id,
        credentials_file=credentials_file,
    )
    token = _in_directory(lambda opened: hotels.add_system(opened, operator(), new, utc_now()))
    typer.echo(token)
    note(f"{settings().public_url}/v1/hotel-events/{new.system}/…")


@hotel_commands.command("list")
def list_hotel_systems(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the software of facilities, how many reservations wait, and the last failure (danh sách)."""
    found = _in_directory(hotels.list_systems)
    if as_json:
        print_json([each._asdict() for each in found])
    else:
        print_table(("facility", "system", "base_url", "property_id", "waiting", "last_code"), found)


class OldHotelSystem(Input):
    """The software of a facility that is no longer asked."""

    facility: Name
    system: Annotated[HotelSystem, BeforeValidator(known_system)]


@hotel_commands.command("remove")
def remove_hotel_system(
    facility: Annotated[str | None, _option("code of the facility (mã cơ sở) [required]")] = None,
    system: Annotated[str | None, _option(f"its software (phần mềm): {_SYSTEMS} [required]")] = None,
) -> None:
    """Forget the software of a facility, its webhook token and what waits (gỡ bỏ)."""
    old = validated(OldHotelSystem, facility=facility, system=system)
    removed = _in_directory(
        lambda opened: hotels.remove_system(opened, operator(), old.facility, old.system, utc_now())
    )
    if not removed:
        note("Cơ sở không có phần mềm này. · The facility has no such software.")
        raise typer.Exit(NO)
