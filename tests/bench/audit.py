"""Proofs of the audit at a million entries: `python -m tests.bench.audit [ENTRIES]`.

The log is sealed by the daemon's own code on a PostgreSQL of its own (fsync on) in batches of 10,000. Proofs are made
from the stored hashes, sizes are those of a checkpoint, positions drawn from a seed. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import orjson

from asm_daemon import audit, auditing, embedded
from asm_daemon.audit import AuditEntry
from asm_daemon.crypto import KeyPurpose, Keyring
from asm_daemon.daemon import utc_now
from asm_daemon.keystores import create_store
from asm_daemon.ledger import HASH_BYTES, open_checkpoint, read_checkpoint, verify_consistency, verify_inclusion
from asm_daemon.store import audit as store
from asm_daemon.store.migrate import load_migrations, migrate

ENTRIES = 1_000_000
SAMPLES = 200
DEPLOYMENT = "asm.bench"
_Result = TypeVar("_Result")


async def main(entries: int) -> None:
    with tempfile.TemporaryDirectory(prefix="asm-bench-audit-") as folder:
        keyring = Keyring(create_store(Path(folder) / "keys", [], utc_now()).read)
        server = await embedded.start(Path(folder) / "postgres")
        try:
            superuser = await asyncpg.connect(server.dsn())
            await migrate(superuser, load_migrations())
            sealer = await asyncpg.connect(server.dsn("asm_audit"))
            result = await _measure(superuser, sealer, keyring, entries, Path(folder))
            await sealer.close()
            await superuser.close()
        finally:
            await server.stop()
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")


async def _measure(
    superuser: asyncpg.Connection, sealer: asyncpg.Connection, keyring: Keyring, entries: int, folder: Path
) -> dict[str, Any]:
    key = keyring.signing_key(KeyPurpose.CHECKPOINT)
    believed = audit.note_key(DEPLOYMENT, key.public_key_bytes)
    sizes, sealing = [0], 0.0
    while sizes[-1] < entries:
        now = utc_now()
        count = min(audit.SEAL_LIMIT, entries - sizes[-1])
        made = [AuditEntry(now, "owner", "bench", "stay.read", f"stay/{number}") for number in range(count)]
        rows = [(one.id, one.at, one.body()) for one in made]
        await superuser.copy_records_to_table("audit_pending", records=rows, columns=["entry_id", "at", "body"])
        started = time.perf_counter()
        sizes.append((await audit.seal_once(sealer, key, DEPLOYMENT, now)).size)
        sealing += time.perf_counter() - started
    await superuser.execute("VACUUM ANALYZE")
    verifying, seen = await _timed(audit.verify(sealer, believed))
    exporting, exported = await _timed(auditing.export(sealer, folder / "export"))
    return {
        "entries": sizes[-1],
        "seal_microseconds_per_entry": round(sealing / entries * 1e6, 1),
        "inclusion": await _inclusion(sealer, believed, sizes[-1]),
        "consistency": await _consistency(sealer, sizes[1:]),
        "verify_all_seconds": round(verifying, 1),
        "faults": len(seen.faults),
        "export_seconds": round(exporting, 1),
        "exported_files": exported["files"],
    }


async def _timed(work: Awaitable[_Result]) -> tuple[float, _Result]:
    started = time.perf_counter()
    result = await work
    return time.perf_counter() - started, result


def _timed_once(work: Callable[[], bool]) -> float:
    started = time.perf_counter()
    if not work():
        raise SystemExit("a proof does not hold")
    return time.perf_counter() - started


async def _inclusion(sealer: asyncpg.Connection, believed: Any, size: int) -> dict[str, float]:
    draw, taken, verified, hashes = random.Random(1), [], [], []  # noqa: S311 - positions, no secrets
    for _ in range(SAMPLES):
        position = draw.randrange(size)
        seconds, proof = await _timed(audit.inclusion_proof(sealer, position))
        checkpoint = open_checkpoint(proof.note, believed)
        taken.append(seconds)
        hashes.append(len(proof.path))
        verified.append(
            _timed_once(
                lambda proof=proof, checkpoint=checkpoint: verify_inclusion(  # type: ignore[misc]  # bound now
                    proof.leaf, proof.position, checkpoint.size, proof.path, checkpoint.root
                )
            )
        )
    return _summary(taken, verified, hashes)


async def _consistency(sealer: asyncpg.Connection, sizes: list[int]) -> dict[str, float]:
    draw, taken, verified, hashes = random.Random(2), [], [], []  # noqa: S311 - sizes, no secrets
    new = sizes[-1]
    notes = await store.checkpoints_of(sealer, sizes)
    roots = {size: read_checkpoint(note).root for size, note in notes.items()}
    for _ in range(SAMPLES):
        old = draw.choice(sizes[:-1] or sizes)
        seconds, proof = await _timed(audit.consistency_proof(sealer, old, new))
        taken.append(seconds)
        hashes.append(len(proof.path))
        verified.append(
            _timed_once(
                lambda old=old, proof=proof: verify_consistency(  # type: ignore[misc]  # bound now
                    old, roots[old], new, roots[new], proof.path
                )
            )
        )
    return _summary(taken, verified, hashes)


def _summary(taken: list[float], verified: list[float], hashes: list[int]) -> dict[str, float]:
    return {
        "samples": len(taken),
        "hashes_median": statistics.median(hashes),
        "hashes_max": max(hashes),
        "bytes_max": max(hashes) * HASH_BYTES,
        "make_ms_median": round(statistics.median(taken) * 1e3, 2),
        "make_ms_max": round(max(taken) * 1e3, 2),
        "verify_microseconds_median": round(statistics.median(verified) * 1e6, 1),
    }


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else ENTRIES))
