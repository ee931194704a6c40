"""`python -m tests.bench.crypto`: what sealing a guest costs, beside two usual ways, on this machine, as JSON.

Microseconds per record of seven personal fields, the best of several rounds. `sealed` is ours, with its three blind
indexes; `fernet_per_field` is what field-encrypting libraries for ORMs do, without any index; `pgcrypto` is
`pgp_sym_encrypt` for each field inside PostgreSQL, including the insert, and is not run without that extension.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from cryptography.fernet import Fernet
from uuid_utils.compat import uuid7

from asm_daemon import embedded
from asm_daemon.crypto import IndexField, RecordName, document_value, epoch_at, epoch_of, name_values, next_epoch
from asm_daemon.keystores import create_store
from schemas.synthetic import person

RECORDS, ROUNDS = 2_000, 7
PGCRYPTO_RECORDS = 200
EPOCHS = 24
DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")
FIELDS = ("full_name", "birth_date", "document_number", "nationality", "address", "phone", "room")


def people(count: int) -> list[dict[str, str]]:
    """Synthetic guests of seven fields."""
    found = []
    for index in range(count):
        who = person(index)
        values = (
            who.full_name,
            who.birth_date,
            who.document_number,
            who.nationality,
            "1 Đường Mẫu, Hưng Yên",
            "",
            "203",
        )
        found.append(dict(zip(FIELDS, (value or "0900000000" for value in values), strict=True)))
    return found


def best(work: Callable[[], object], records: int) -> float:
    """Microseconds per record, the best round."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return round(min(seconds) / records * 1e6, 2)


def sealed(folder: Path, guests: Sequence[dict[str, str]]) -> dict[str, Any]:
    """One blob and three blind indexes for each guest, as intake makes them from the validated fields."""
    now = datetime.now(UTC)
    keyring = create_store(folder / "keys", [epoch_at(now), next_epoch(epoch_at(now))], now).keyring()
    names = [RecordName("stay", epoch_of(each), 7, each, 1, 1) for each in (uuid7() for _ in guests)]
    epoch = names[0].epoch

    def seal() -> list[bytes]:
        return [keyring.seal(name, orjson.dumps(guest)) for name, guest in zip(names, guests, strict=True)]

    def index() -> None:
        for guest in guests:
            whole, given = name_values(guest["full_name"], guest["birth_date"])
            keyring.blind_index(epoch, 1, IndexField.DOCUMENT, document_value(guest["document_number"]))
            keyring.blind_index(epoch, 1, IndexField.PERSON, whole)
            keyring.blind_index(epoch, 1, IndexField.GIVEN_NAME, given)

    def both() -> None:
        seal()
        index()

    blobs = seal()

    def opened() -> None:
        for name, blob in zip(names, blobs, strict=True):
            orjson.loads(keyring.open(name, blob))

    return {
        "seal_and_three_indexes_us": best(both, len(guests)),
        "seal_us": best(seal, len(guests)),
        "three_indexes_us": best(index, len(guests)),
        "open_us": best(opened, len(guests)),
        "bytes": round(sum(map(len, blobs)) / len(blobs)),
    }


def fernet_per_field(guests: Sequence[dict[str, str]]) -> dict[str, Any]:
    """A Fernet token for each field."""
    cipher = Fernet(Fernet.generate_key())

    def encrypt() -> list[list[bytes]]:
        return [[cipher.encrypt(value.encode()) for value in guest.values()] for guest in guests]

    tokens = encrypt()

    def decrypt() -> None:
        for row in tokens:
            for token in row:
                cipher.decrypt(token)

    size = round(sum(len(token) for row in tokens for token in row) / len(tokens))
    return {"seal_us": best(encrypt, len(guests)), "open_us": best(decrypt, len(guests)), "bytes": size}


async def pgcrypto(folder: Path, guests: Sequence[dict[str, str]]) -> dict[str, Any]:
    """`pgp_sym_encrypt` for each field in the INSERT of a row, and its opposite."""
    if not (DEBIAN_POSTGRES / "initdb").exists():
        return {"not_run": f"no PostgreSQL with pgcrypto in {DEBIAN_POSTGRES}"}
    server = await embedded.start(folder / "postgres", binaries=DEBIAN_POSTGRES)
    try:
        connection = await asyncpg.connect(server.dsn())
        try:
            await connection.execute("CREATE EXTENSION pgcrypto")
        except asyncpg.PostgresError as error:
            return {"not_run": f"PostgreSQL has no pgcrypto: {type(error).__name__}"}
        await connection.execute(f"CREATE TABLE guests ({', '.join(f'{name} bytea' for name in FIELDS)})")
        places = ", ".join(f"pgp_sym_encrypt(${place}, $8)" for place in range(1, 8))
        rows = [(*guest.values(), "a passphrase") for guest in guests]
        started = time.perf_counter()
        await connection.executemany(f"INSERT INTO guests VALUES ({places})", rows)
        inserted = time.perf_counter()
        opened = ", ".join(f"pgp_sym_decrypt({name}, $1)" for name in FIELDS)
        await connection.fetch(f"SELECT {opened} FROM guests", "a passphrase")
        done = time.perf_counter()
        size = await connection.fetchval(
            f"SELECT avg({' + '.join(f'length({name})' for name in FIELDS)})::int FROM guests"
        )
        await connection.close()
    finally:
        await server.stop()
    return {
        "seal_us": round((inserted - started) / len(rows) * 1e6, 1),
        "open_us": round((done - inserted) / len(rows) * 1e6, 1),
        "bytes": size,
    }


def root_rotation(folder: Path) -> dict[str, Any]:
    """Wrapping the keys of two years anew, fsync included."""
    now, epochs, epoch = datetime.now(UTC), [], 202401
    for _ in range(EPOCHS):
        epochs.append(epoch)
        epoch = next_epoch(epoch)
    store = create_store(folder / "two-years", epochs, now)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        keys = store.rotate_root(now)
        seconds.append(time.perf_counter() - started)
    return {"keys": keys, "milliseconds": round(min(seconds) * 1000, 1)}


async def main() -> None:
    guests = people(RECORDS)
    with tempfile.TemporaryDirectory(prefix="asm-bench-crypto-") as name:
        folder = Path(name)
        result = {
            "records": RECORDS,
            "fields": len(FIELDS),
            "sealed": sealed(folder, guests),
            "fernet_per_field": fernet_per_field(guests),
            "pgcrypto": await pgcrypto(folder, guests[:PGCRYPTO_RECORDS]),
            "root_rotation": root_rotation(folder),
        }
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
