"""Backups of the key store (bản sao lưu kho khoá): dated folders that must not outlive their age.

A backup holds `keys.json` alone, which opens nothing without the root. One that is older than a destroyed key still
holds it: what was forgotten can be read from it until it is removed.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asm_daemon.keyfiles import check_directory, locked, read_private, replace_private, sync_directory

KEYS_FILE = "keys.json"
_NAME = re.compile(r"asm-keys-(\d{8}T\d{6}Z)")
_STAMP = "%Y%m%dT%H%M%SZ"


def make_backup(key_store: Path, folder: Path, now: datetime) -> Path:
    """Copy the wrapped keys into a new dated folder (0700) below `folder`; return it.

    Raises KeyStoreError, and FileExistsError for a second one within a second.
    """
    with locked(key_store):
        content = read_private(key_store / KEYS_FILE)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_directory(folder)
    made = folder / f"asm-keys-{now.astimezone(UTC).strftime(_STAMP)}"
    made.mkdir(mode=0o700)
    replace_private(made / KEYS_FILE, content)
    sync_directory(folder)
    return made


def list_backups(folder: Path) -> list[tuple[Path, datetime]]:
    """The backups in `folder` and when they were made, the oldest first; none if there is no such folder."""
    if not folder.is_dir():
        return []
    found = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    dated = [(path, datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)) for path, match in found]
    return sorted(dated, key=lambda each: each[1])


def expire_backups(folder: Path, days: int, now: datetime) -> int:
    """Remove the backups that are older than `days`; return how many. A disk may keep more of them."""
    old = [path for path, made_at in list_backups(folder) if made_at + timedelta(days=days) <= now]
    for path in old:
        shutil.rmtree(path)
    if old:
        sync_directory(folder)
    return len(old)
