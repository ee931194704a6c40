"""What the tables of a database hold, and whether a word is in it."""

from __future__ import annotations

import asyncpg

from tests.canary.words import patterns


async def tables(connection: asyncpg.Connection) -> bytes:
    """Every row of every table, as text; bytes are shown in hexadecimal."""
    names = await connection.fetch("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384")
    rows: list[str] = []
    for (name,) in names:
        rows += [text for (text,) in await connection.fetch(f"SELECT t::text FROM {name} AS t")]
    return "\n".join(rows).encode()


def found_in(content: bytes, word: str) -> set[bytes]:
    """In which forms the word stands there."""
    return {form for form in patterns([word]) if form in content}
