"""The simulator of the population database (mô phỏng Cơ sở dữ liệu quốc gia về dân cư): synthetic people only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from asm_daemon.commands.console import Unready, connect, group, note, print_json
from asm_daemon.daemon import until_signalled
from connectors.population import simulator
from schemas.synthetic import PERSONS

population_commands = group("A simulated population database (mô phỏng CSDL dân cư).")

_DatabaseUrl = Annotated[str, typer.Option(help="its own PostgreSQL database, never the daemon's; it is migrated")]


def _secret_file(help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(exists=True, dir_okay=False, readable=True, help=help_text)
    return option


@population_commands.command("serve")
def serve(
    database_url: _DatabaseUrl,
    client_id: Annotated[str, typer.Option(help="the OAuth2 client that may send stays: ASM_POPULATION_CLIENT_ID")],
    client_secret_file: Annotated[Path, _secret_file("the file with its secret: ASM_POPULATION_CLIENT_SECRET_FILE")],
    admin_token_file: Annotated[Path, _secret_file("the file with the token for /admin/, which arms failures")],
    host: Annotated[str, typer.Option(help="where to listen")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8090,
) -> None:
    """Serve docs/population-contract.md until SIGTERM or SIGINT."""
    asyncio.run(_serve(database_url, host, port, client_id, _secret(client_secret_file), _secret(admin_token_file)))


def _secret(file: Path) -> str:
    text = file.read_text("utf-8").strip()
    if not text:
        raise Unready(f"{file}: tệp rỗng · {file} is empty")
    return text


async def _serve(database_url: str, host: str, port: int, client_id: str, client_secret: str, admin_token: str) -> None:
    await (await connect(database_url)).close()
    serving = asyncio.create_task(
        simulator.serve(
            database_url,
            host,
            port,
            client_id=client_id,
            client_secret=client_secret,
            admin_token=admin_token,
            ready=lambda bound: note(f"http://{host}:{bound}"),
        )
    )
    signalled = asyncio.create_task(until_signalled())
    await asyncio.wait((serving, signalled), return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        signalled.cancel()


@population_commands.command("seed")
def seed(
    database_url: _DatabaseUrl,
    persons: Annotated[int, typer.Option(min=1, max=PERSONS, help="how many people there shall be")] = 70_000,
) -> None:
    """Fill in synthetic people (nạp người giả lập).

    Who is there stays, so a call that was stopped can be repeated.
    """
    asyncio.run(_seed(database_url, persons))


async def _seed(database_url: str, persons: int) -> None:
    await (await connect(database_url)).close()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("persons", total=persons)
        done = await simulator.seed(database_url, persons, lambda there: progress.update(task, completed=there))
    print_json({"added": done.added, "persons": done.total, "seconds": round(done.seconds, 2)})
