"""Files that only the daemon's user may open: read with suspicion, replaced as a whole, written by one at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asm_daemon.crypto import KeyStoreBusy, KeyStoreDamaged, KeyStoreExposed, KeyStoreMissing

FILE_LIMIT_BYTES = 4 * 1024 * 1024
LOCK_FILE = "lock"
_BESIDE = ".new"
_LOCK_SECONDS = 5.0


def check_directory(directory: Path) -> None:
    """Raise KeyStoreMissing or KeyStoreExposed unless this is a directory of ours that nobody else can enter."""
    try:
        facts = directory.lstat()
    except FileNotFoundError:
        raise KeyStoreMissing(f"{directory} does not exist") from None
    if not stat.S_ISDIR(facts.st_mode):
        raise KeyStoreExposed(f"{directory} is not a directory")
    _check_private(directory, facts)


def _check_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid != os.geteuid():
        raise KeyStoreExposed(f"{path} belongs to user {facts.st_uid}, not to the daemon's user {os.geteuid()}")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise KeyStoreExposed(f"{path} is open to others (mode {stat.S_IMODE(facts.st_mode):04o}); remove their rights")


def read_private(path: Path) -> bytes:
    """Return the content. Raises KeyStoreMissing, KeyStoreExposed (a link, rights of others) or KeyStoreDamaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise KeyStoreMissing(f"{path} does not exist") from None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise KeyStoreExposed(f"{path} cannot be opened safely: {why}") from None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise KeyStoreExposed(f"{path} is not a regular file")
        _check_private(path, facts)
        if facts.st_size > FILE_LIMIT_BYTES:
            raise KeyStoreDamaged(f"{path} is larger than {FILE_LIMIT_BYTES} bytes")
        return file.read(FILE_LIMIT_BYTES)


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes whenever the file is written, replaced, or given other rights; None if it is not there."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_mode, facts.st_uid)


def replace_private(path: Path, content: bytes) -> None:
    """Replace `path` so that a crash at any point leaves the old content or the new, and the new is on the disk."""
    beside = path.with_name(path.name + _BESIDE)
    beside.unlink(missing_ok=True)  # of a writer that died
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring the names in `directory` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the one lock of the directory, and remove what a writer that died left beside a file.

    Raises KeyStoreBusy after five seconds, and as `check_directory` does.
    """
    check_directory(directory)
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KeyStoreBusy(f"{directory} was locked for {_LOCK_SECONDS:g} s") from None
                time.sleep(0.01)
        for left in directory.glob(f"*{_BESIDE}"):
            left.unlink()
        yield
    finally:
        os.close(descriptor)  # releases the lock
