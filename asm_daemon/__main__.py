"""The command line: `asm-daemon`, or `python -m asm_daemon`."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Annotated

import typer

from asm_daemon import __version__, demo
from asm_daemon.commands import (
    directory,
    evidence,
    hotel,
    installation,
    keys,
    operating,
    population,
    reference,
    retention,
    webhook,
    witness,
    work,
)
from asm_daemon.commands.console import Failures
from asm_daemon.log import configure_logging

app = typer.Typer(
    cls=Failures,
    help="Accommodation declaration (thông báo lưu trú): the daemon and everything its operators do.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

app.command("run")(installation.run_daemon)
app.command("migrate")(installation.migrate_database)
app.command("import")(work.import_file)
app.command("roster")(work.apply_roster)
app.command("once")(work.run_once)
app.command("codes")(reference.list_codes)
for name, commands in {
    "keys": keys.key_store_commands,
    "facility": directory.facility_commands,
    "principal": directory.principal_commands,
    "key": directory.key_commands,
    "grant": directory.grant_commands,
    "sender": directory.sender_commands,
    "hotel-system": hotel.hotel_commands,
    "webhook": webhook.webhook_commands,
    "audit": evidence.audit_commands,
    "witness": witness.witness_commands,
    "receipt": evidence.receipt_commands,
    "extract": evidence.extract_commands,
    "population": population.population_commands,
    "hold": retention.hold_commands,
    "erase": retention.erase_commands,
    "retention": retention.retention_commands,
    "sync": operating.sync_commands,
    "alerts": operating.alert_commands,
}.items():
    app.add_typer(commands, name=name)


@app.command("demo")
def run_demo(
    check: Annotated[
        bool, typer.Option("--check", help="once, in a temporary folder; say in JSON whether everything held")
    ] = False,
    directory: Annotated[Path, typer.Option(file_okay=False, help="where the demo keeps its data")] = Path(".demo"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="of the HTTP server")] = 8080,
    mllp_port: Annotated[int, typer.Option(min=1, max=65535, help="of the HL7 listener")] = 2575,
) -> None:
    """Show the whole system, with synthetic people (trình diễn).

    Runs until Ctrl-C; with --check only until everything was done once.
    """
    raise typer.Exit(asyncio.run(demo.demo(None if check else directory, port=port, mllp_port=mllp_port)))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command of this process; a crash is logged by type and place alone, for its message may name a guest.

    A core dump would hold guests and keys, so neither this process nor one that it starts leaves any.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    configure_logging("warning", "asm-daemon")
    typer.main.get_command(app)(prog_name="asm-daemon")


if __name__ == "__main__":
    main()
