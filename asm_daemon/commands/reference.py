"""The reference data (danh mục) of this version: how many codes are in force, of which day, and from where."""

from __future__ import annotations

from typing import Annotated

import typer

from asm_daemon.commands.console import print_json, print_table
from schemas.codes import TABLES


def list_codes(
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON array")] = False,
) -> None:
    """List the code tables with their number of codes in force, date and source (danh mục).

    Needs neither settings nor a database. The rows are at GET /v1/codes/{table}.
    """
    rows = [
        {
            "name": each.name,
            "rows": len(each.rows),
            "rows_in_force": each.rows_in_force,
            "dated_on": each.dated_on.isoformat(),
            "version": each.version,
            "source": each.source,
        }
        for each in TABLES.values()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
