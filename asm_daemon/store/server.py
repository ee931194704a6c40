"""What the server is told to do, as far as it concerns us."""

from __future__ import annotations

from collections.abc import Collection

from asm_daemon.store import Connection


async def read_settings(connection: Connection, names: Collection[str]) -> dict[str, str]:
    """Those of these settings that the server knows, as they are for this login in this database."""
    rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", list(names))
    return {row["name"]: row["setting"] for row in rows}
