"""SQL of the HL7 messages of hospitals: what was answered to them. No content of a message is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from asm_daemon.store import Connection


class RefusedMessage(NamedTuple):
    """A message that was refused: its sealed header, and `reasons` as code and place."""

    message_tag: bytes
    received_at: datetime
    header_sealed: bytes | None
    code: str
    reasons: list[str]
    times: int


async def find_taken(connection: Connection, message_tag: bytes) -> str | None:
    """What was answered to this very message when it was taken; None if it never was."""
    answer: str | None = await connection.fetchval(
        "SELECT answer FROM hl7_messages WHERE message_tag = $1 AND code = 'AA'", message_tag
    )
    return answer


async def put_answer(
    connection: Connection,
    message_tag: bytes,
    code: str,
    answer: str,
    header_sealed: bytes | None,
    reasons: Sequence[str],
    received_at: datetime,
) -> None:
    """Remember what was answered to a message, in place of an earlier answer to the same one.

    An AA does not wait for the disk: what it says is stored already, and if this row is lost with the server, the
    message that comes again meets intake's own idempotence. A refusal is nowhere else, and waits.
    """
    await connection.execute(
        """
        INSERT INTO hl7_messages (message_tag, code, answer, header_sealed, reasons, times, received_at)
        SELECT $1::bytea, $2::text, $3::text, $4::bytea, $5::text[], 1, $6::timestamptz
        FROM set_config('synchronous_commit',
            CASE WHEN $2 = 'AA' THEN 'off' ELSE current_setting('synchronous_commit') END, true)
        ON CONFLICT (message_tag) DO UPDATE SET code = EXCLUDED.code, answer = EXCLUDED.answer,
            header_sealed = EXCLUDED.header_sealed, reasons = EXCLUDED.reasons, times = hl7_messages.times + 1,
            received_at = EXCLUDED.received_at
        """,
        message_tag,
        code,
        answer,
        header_sealed,
        reasons,
        received_at,
    )


async def list_refused(connection: Connection, limit: int) -> list[RefusedMessage]:
    """The refused messages, the latest first."""
    rows = await connection.fetch(
        """
        SELECT message_tag, received_at, header_sealed, code, reasons, times
        FROM hl7_messages WHERE code <> 'AA' ORDER BY received_at DESC, message_tag LIMIT $1
        """,
        limit,
    )
    return [RefusedMessage(*row) for row in rows]


async def count_refused(connection: Connection) -> int:
    """How many messages are kept as refused."""
    counted: int = await connection.fetchval("SELECT count(*) FROM hl7_messages WHERE code <> 'AA'")
    return counted


async def erase_before(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` answers that were given before this instant; returns how many."""
    status = await connection.execute(
        """
        DELETE FROM hl7_messages WHERE message_tag IN (
            SELECT message_tag FROM hl7_messages WHERE received_at < $1 ORDER BY received_at LIMIT $2)
            AND received_at < $1
        """,
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])
