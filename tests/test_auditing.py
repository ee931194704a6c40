"""The exported audit, verified by the stand-alone program of the documentation, which knows nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from asm_daemon import audit, auditing
from asm_daemon.audit import AuditBroken, NotSealed
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey
from asm_daemon.ledger import leaf_hash, root
from tests.conftest import Database
from tests.test_audit import NOW, entry

DEPLOYMENT = "asm.test"
PROGRAM = Path(__file__).resolve().parents[1] / "docs" / "verify_audit.py"


@pytest.fixture
def key(keyring: Keyring) -> SigningKey:
    return keyring.signing_key(KeyPurpose.CHECKPOINT)


@pytest.fixture
def public(key: SigningKey, tmp_path: Path) -> Path:
    path = tmp_path / "keys.pem"
    path.write_text(f"{key.key_id}\n{key.public_key_pem}")
    return path


@pytest.fixture
async def sealer(database: Database) -> asyncpg.Connection:
    return await database.connect("asm_audit")


async def fill(database: Database, sealer: asyncpg.Connection, key: SigningKey, *sizes: int) -> list[str]:
    """Seal batches; return the checkpoints."""
    superuser, notes = await database.connect(), []
    for size in sizes:
        rows = [(one.id, one.at, one.body()) for one in (entry(number) for number in range(size))]
        await superuser.copy_records_to_table("audit_pending", records=rows, columns=["entry_id", "at", "body"])
        await audit.seal_once(sealer, key, DEPLOYMENT, NOW)
        notes.append(await sealer.fetchval("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1"))
    return notes


def verify(*arguments: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def test_an_empty_log_is_not_exported_and_no_folder_is_written_over(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, tmp_path: Path
) -> None:
    with pytest.raises(NotSealed):
        await auditing.export(sealer, tmp_path / "audit")
    await fill(database, sealer, key, 1)
    with pytest.raises(FileExistsError):
        await auditing.export(sealer, tmp_path)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM audit_log WHERE position = 5", "UPDATE audit_log SET leaf = sha256(leaf) WHERE position = 5"],
)
async def test_a_log_that_was_changed_gets_no_checkpoint(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, tmp_path: Path, statement: str
) -> None:
    await fill(database, sealer, key, 10)
    await (await database.connect()).execute(statement)
    with pytest.raises(AuditBroken):
        await auditing.export(sealer, tmp_path / "audit")
    assert not (tmp_path / "audit" / "checkpoint").exists()


@pytest.mark.parametrize(
    "before",
    ["receipt/1\n", "  receipt/1\n", "\ufeffreceipt/1\n", "# receipt/1\n", "# checkpoint/1\n", "checkpoint/1 -\n"],
)
async def test_a_key_that_is_published_for_something_else_or_after_other_text_signs_no_checkpoint(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, tmp_path: Path, public: Path, before: str
) -> None:
    await fill(database, sealer, key, 1)
    await auditing.export(sealer, tmp_path / "audit")
    public.write_text(f"{before}{key.public_key_pem}", "utf-8")
    status, said = verify(tmp_path / "audit", public)
    assert (status, "is signed by another key, or the text before the key is not its name" in said) == (1, True)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
async def test_a_file_of_keys_that_went_through_windows_verifies_an_export(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, tmp_path: Path, public: Path, start: bytes
) -> None:
    await fill(database, sealer, key, 1)
    await auditing.export(sealer, tmp_path / "audit")
    public.write_bytes(start + public.read_bytes().replace(b"\n", b"\r\n"))
    assert verify(tmp_path / "audit", public)[0] == 0


@pytest.mark.parametrize("sizes", [(1,), (255, 1), (256, 1), (300, 212), (700, 7)])
async def test_an_export_verifies_with_the_public_key_alone_and_against_checkpoints_kept_elsewhere(
    database: Database,
    sealer: asyncpg.Connection,
    key: SigningKey,
    tmp_path: Path,
    public: Path,
    sizes: tuple[int, ...],
) -> None:
    notes = await fill(database, sealer, key, *sizes)
    counts = await auditing.export(sealer, tmp_path / "audit")
    files = [path for path in (tmp_path / "audit").rglob("*") if path.is_file()]
    assert counts == {"entries": sum(sizes), "files": len(files)}
    kept = []
    for number, note in enumerate(notes):
        kept.append(tmp_path / f"kept-{number}.txt")
        kept[-1].write_text(note)
    assert verify(tmp_path / "audit", public, *kept) == (
        0,
        f"Hợp lệ / valid: asm.test/audit, {sum(sizes)} entries, {len(kept)} earlier checkpoints\n",
    )


async def test_what_is_done_to_an_export_is_found(
    database: Database,
    sealer: asyncpg.Connection,
    key: SigningKey,
    keyring: Keyring,
    tmp_path: Path,
    public: Path,
) -> None:
    [note, newer] = await fill(database, sealer, key, 300, 5)
    folder = tmp_path / "audit"
    await auditing.export(sealer, folder)
    for name in ("tile/entries/000", "tile/entries/001.p/49", "tile/0/000", "tile/0/001.p/49", "checkpoint"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        assert verify(folder, public)[0] != 0, name
        path.write_bytes(whole)
    stranger = tmp_path / "stranger.pem"
    stranger.write_text(keyring.signing_key(KeyPurpose.RECEIPT).public_key_pem)
    assert "another key" in verify(folder, stranger)[1]
    kept = tmp_path / "kept.txt"
    kept.write_text(newer)
    (folder / "checkpoint").write_text(note)  # as after a rollback
    for path in (folder / "tile").rglob("*"):
        if path.is_file() and path.parent.name.endswith(".p"):
            cut = 44 * 32 if "entries" not in path.parts else _bytes_of(path.read_bytes(), 44)
            path.with_name("44").write_bytes(path.read_bytes()[:cut])
    assert verify(folder, public)[0] == 0
    code, said = verify(folder, public, kept)
    assert code != 0
    assert "the end is missing" in said


def _bytes_of(bundle: bytes, count: int) -> int:
    at = 0
    for _ in range(count):
        at += 2 + int.from_bytes(bundle[at : at + 2], "big")
    return at


async def test_tiles_of_every_level_lie_where_the_specification_says(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, tmp_path: Path
) -> None:
    await fill(database, sealer, key, 513)
    await auditing.export(sealer, tmp_path / "audit")
    leaves = [leaf_hash(row["body"]) for row in await sealer.fetch("SELECT body FROM audit_log ORDER BY position")]
    tiles = tmp_path / "audit" / "tile"
    assert (tiles / "0" / "001").read_bytes() == b"".join(leaves[256:512])
    assert (tiles / "0" / "002.p" / "1").read_bytes() == leaves[512]
    assert (tiles / "1" / "000.p" / "2").read_bytes() == root(leaves[:256]) + root(leaves[256:512])
    assert auditing.tile_path(1_234_067, 256) == "x001/x234/067"
    assert auditing.tile_path(7, 112) == "007.p/112"
