"""A watched folder (thư mục nhận tệp): files put there are taken in like uploads, then deleted; a report stays.

    inbox/HY-KS-0001/khach.xlsx             put there by the facility's software, written elsewhere and then renamed
    inbox/HY-KS-0001/reports/khach.xlsx.json    what became of each row, without personal data
    inbox/HY-KS-0001/rejected/khach.doc     of what nothing could be taken, with a report too

Names that begin with a dot or end in .tmp or .part, links, and what was written to a moment ago, are left alone.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import asyncpg
import structlog

from asm_daemon import import_jobs, imports
from asm_daemon.import_jobs import Importer
from asm_daemon.model import Facility
from asm_daemon.problems import Refused, problem_document
from asm_daemon.store import facilities
from schemas.act import Connector

ACTOR = "inbox"
SETTLED_SECONDS = 5.0
"""How long nobody may have written to a file: it may not be whole."""
FILES_AT_ONCE = 100
WAIT_SECONDS = 300.0
WAIT_STEP_SECONDS = 0.1
_UNFINISHED = (".tmp", ".part", ".crdownload")

log = structlog.get_logger()


async def read_once(
    folder: Path,
    importer: Importer,
    pool: asyncpg.Pool,
    connectors: Mapping[str, Connector],
    now: datetime,
    limit_bytes: int,
) -> Mapping[str, int]:
    """Take in what lies in the inbox now. A file that is still being taken in when the wait is over is met again at the
    next call, as the same job."""
    taken = rejected = 0
    for place in await asyncio.to_thread(_folders, folder):
        async with pool.acquire() as connection:
            facility = await facilities.facility_by_code(connection, place.name)
        if facility is None:
            log.warning("inbox.unknown_facility")
            continue
        try:
            files = await asyncio.to_thread(_files, place, now)
        except OSError as error:  # no right to look into it: the other folders are looked into all the same
            log.warning("inbox.not_readable", facility_id=facility.id, exc_info=error)
            continue
        for file in files:
            try:
                report = await _take(file, facility, importer, pool, connectors, now, limit_bytes)
            except Refused as refusal:
                if refusal.code in ("unavailable", "overloaded", "key_exhausted", "outcome_unknown"):
                    continue  # nothing is wrong with the file
                report, keep = problem_document(refusal).model_dump_json(exclude_none=True).encode(), True
            except OSError as error:  # gone meanwhile, or not ours to read
                log.warning("inbox.not_readable", facility_id=facility.id, exc_info=error)
                continue
            else:
                keep = False
            if report is None:
                continue
            try:
                await asyncio.to_thread(_put_away, file, report, keep=keep)
            except OSError as error:  # it is met again: the same job, which harms nobody
                log.warning("inbox.not_put_away", facility_id=facility.id, exc_info=error)
                continue
            taken, rejected = taken + (not keep), rejected + keep
    return {"taken": taken, "rejected": rejected}


async def _take(
    file: Path,
    facility: Facility,
    importer: Importer,
    pool: asyncpg.Pool,
    connectors: Mapping[str, Connector],
    now: datetime,
    limit_bytes: int,
) -> bytes | None:
    """The report of a file once it is in; None if it takes longer than we wait. Raises `Refused`."""
    connector = imports.choose_connector(connectors, name=None, file_name=file.name, media_type=None)
    content = await asyncio.to_thread(_read, file, limit_bytes)
    if content is None:
        raise Refused("body_too_large")
    job = await importer.put(facility, connector.name, content, actor=ACTOR, received_at=now)
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_SECONDS
    while loop.time() < until:
        report = await import_jobs.facility_report(pool, facility, job.id, now)
        if report.job.finished_at is not None:
            return report.model_dump_json(exclude_defaults=True).encode()
        await asyncio.sleep(WAIT_STEP_SECONDS)
    return None


def _folders(folder: Path) -> list[Path]:
    return (
        sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink()) if folder.is_dir() else []
    )


def _files(place: Path, now: datetime) -> list[Path]:
    return sorted(_settled(place, now))[:FILES_AT_ONCE]


def _settled(place: Path, now: datetime) -> Iterator[Path]:
    for file in place.iterdir():
        found = file.lstat()
        named = not file.name.startswith(".") and not file.name.lower().endswith(_UNFINISHED)
        if named and stat.S_ISREG(found.st_mode) and now.timestamp() - found.st_mtime >= SETTLED_SECONDS:
            yield file


def _read(file: Path, limit_bytes: int) -> bytes | None:
    """The content; None if it is larger than any upload may be."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:  # noqa: PTH123 - opened without following a link
        content = opened.read(limit_bytes + 1)
    return content if len(content) <= limit_bytes else None


def _put_away(file: Path, report: bytes, *, keep: bool) -> None:
    """Leave the report, whole or not at all; then delete the file, or move what nothing was taken of."""
    reports = _beside(file, "reports")
    unfinished = reports / f".{file.name}.tmp"
    unfinished.write_bytes(report + b"\n")
    _open_like(unfinished, file.parent, 0o666)
    unfinished.replace(reports / f"{file.name}.json")
    if keep:
        file.replace(_beside(file, "rejected") / file.name)
    else:
        file.unlink(missing_ok=True)


def _beside(file: Path, name: str) -> Path:
    made = file.parent / name
    if not made.is_dir():
        made.mkdir(mode=0o700, exist_ok=True)
        _open_like(made, file.parent, 0o777)
    return made


def _open_like(made: Path, folder: Path, most: int) -> None:
    """Let those read what we made who may read the facility's folder, whatever the daemon's umask: it is for them."""
    like = folder.stat()
    with suppress(PermissionError):  # a group that the daemon does not belong to
        os.chown(made, -1, like.st_gid)
    made.chmod(like.st_mode & most)
