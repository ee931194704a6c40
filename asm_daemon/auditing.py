"""The audit as files for an auditor (kiểm toán viên): checkpoint, tiles and bundles of entries (C2SP tlog-tiles).

Entries hold ids, counts, and search terms sealed to the auditor. `docs/verify_audit.py` verifies the files with the
public key alone; any program that reads tlog-tiles can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asm_daemon.audit import AuditBroken, NotSealed
from asm_daemon.ledger import Frontier, read_checkpoint
from asm_daemon.store import Connection
from asm_daemon.store import audit as store
from asm_daemon.store.audit import LogEntry

TILE = 256
PAGE = 8 * TILE


async def export(connection: Connection, folder: Path) -> dict[str, int]:
    """Write the log up to its newest checkpoint into `folder`, which is made; `connection` as asm_audit.

    Counts: `entries`, `files`. Raises FileExistsError, NotSealed for an empty log, AuditBroken if what was written is
    not what the checkpoint signed: then no checkpoint is written.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        note = await store.latest_checkpoint(connection)
        if note is None:
            raise NotSealed("nothing is sealed yet")
        checkpoint = read_checkpoint(note)
        await asyncio.to_thread(folder.mkdir, parents=True)
        tiles = _Tiles(folder)
        while tiles.frontier.size < checkpoint.size:
            limit = min(PAGE, checkpoint.size - tiles.frontier.size)
            page = await store.log_from(connection, tiles.frontier.size, limit)
            if [entry.position for entry in page] != list(range(tiles.frontier.size, tiles.frontier.size + limit)):
                raise AuditBroken("entries of the audit log are missing")
            await asyncio.to_thread(tiles.take, page)
        await asyncio.to_thread(tiles.finish)
    if tiles.frontier.root != checkpoint.root:
        raise AuditBroken("the entries are not those that were signed")
    await asyncio.to_thread((folder / "checkpoint").write_text, note, "utf-8")
    return {"entries": checkpoint.size, "files": tiles.files + 1}


@dataclass(slots=True)
class _Tiles:
    """Tiles as they fill up, each level 256 times as wide as the one below."""

    folder: Path
    frontier: Frontier = field(default_factory=Frontier)
    levels: list[list[bytes]] = field(default_factory=list)  # the hashes of each level whose tile is not full
    written: list[int] = field(default_factory=list)  # full tiles of each level
    files: int = 0

    def take(self, page: Sequence[LogEntry]) -> None:
        """Write the bundles of a page, which begins at a bundle, and the tiles that became full."""
        for at in range(0, len(page), TILE):
            part = page[at : at + TILE]
            bundle = b"".join(len(entry.body).to_bytes(2, "big") + entry.body for entry in part)
            self._write("entries", part[0].position // TILE, len(part), bundle)
            self.frontier.extend(entry.leaf for entry in part)
            for entry in part:
                self._add(0, entry.leaf)

    def finish(self) -> None:
        """Write the partial tiles."""
        for level, hashes in enumerate(self.levels):
            if hashes:
                self._write(str(level), self.written[level], len(hashes), b"".join(hashes))

    def _add(self, level: int, node: bytes) -> None:
        if level == len(self.levels):
            self.levels.append([])
            self.written.append(0)
        hashes = self.levels[level]
        hashes.append(node)
        if len(hashes) == TILE:
            whole = Frontier()
            whole.extend(hashes)
            self._write(str(level), self.written[level], TILE, b"".join(hashes))
            self.written[level] += 1
            hashes.clear()
            self._add(level + 1, whole.root)

    def _write(self, level: str, number: int, width: int, content: bytes) -> None:
        path = self.folder / "tile" / level / tile_path(number, width)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files += 1


def tile_path(number: int, width: int) -> str:
    """Where a tile lies within its level: 1234067 is `x001/x234/067`, with `.p/<width>` if it is not full."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return name if width == TILE else f"{name}.p/{width}"
