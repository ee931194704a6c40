"""A backlog to be carried: stays sealed as intake seals them and stored by intake's own statement, but without work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import cycle, islice

from uuid_utils.compat import uuid7

from asm_daemon.crypto import Keyring
from asm_daemon.daemon import utc_now
from asm_daemon.model import Contents, StayRow, Tags
from asm_daemon.sealing import new_salt, seal_contents
from asm_daemon.store import stays as store
from asm_daemon.store.pool import open_connection
from schemas.synthetic import person

_AT_ONCE = 2_000


async def store_stays(database_url: str, keyring: Keyring, count: int) -> None:
    """`count` stays of different guests, spread evenly over all facilities; nothing is queued."""
    connection = await open_connection(database_url, "asm_intake")
    try:
        facilities = [row["id"] for row in await connection.fetch("SELECT id FROM facilities WHERE NOT sandbox")]
        made = _stays(keyring, facilities, utc_now())
        for start in range(0, count, _AT_ONCE):
            rows = list(islice(made, min(_AT_ONCE, count - start)))
            await store.insert_declared(connection, rows, [], [], [])
    finally:
        await connection.close()


def _stays(keyring: Keyring, facility_ids: list[int], now: datetime) -> Iterator[tuple[StayRow, Tags]]:
    arrived_at = now - timedelta(hours=1)
    batch = uuid7()
    for number, facility_id in enumerate(cycle(facility_ids)):
        stay_id = uuid7()
        sealed = seal_contents(keyring, facility_id, stay_id, 1, _contents(number, arrived_at))
        row = StayRow(
            id=stay_id,
            facility_id=facility_id,
            version=1,
            status="declared",
            event="declare",
            received_at=now,
            declared_at=now,
            arrived_at=arrived_at,
            planned_departure_at=now + timedelta(days=1),
            departed_at=None,
            deadline_at=now + timedelta(hours=6),
            late_minutes=0,
            content_tag=bytes(16),
            receipt_batch_id=batch,
            receipt_index=0,
            sealed=sealed,
        )
        yield row, Tags(number * 7919, number * 104_729, number % 1_000)


def _contents(number: int, arrived_at: datetime) -> Contents:
    guest = person(number)
    declared = {
        "guest": {
            "full_name": guest.full_name,
            "birth_date": guest.birth_date,
            "gender": guest.gender,
            "nationality": guest.nationality,
            "document": {"type": guest.document_type, "number": guest.document_number},
        },
        "arrived_at": arrived_at.isoformat(),
        "room": "203",
        "reason": 1,
    }
    return Contents(declared=declared, salt=new_salt(), source_ref=f"BACKLOG-{number}", sender="bench")
