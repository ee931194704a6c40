"""Statements over import jobs, their files and their results; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from uuid import UUID

from asm_daemon.model import ImportJob
from asm_daemon.store import Connection

_COLUMNS = ", ".join(field.name for field in fields(ImportJob))


async def insert_job(connection: Connection, job: ImportJob, content_tag: bytes) -> bool:
    """Put a waiting job; false if the same file is kept for this facility already."""
    status = await connection.execute(
        """
        INSERT INTO import_jobs (id, facility_id, connector, actor, content_tag, state, received_at, file_bytes)
        VALUES ($1, $2, $3, $4, $5, 'waiting', $6, $7)
        ON CONFLICT (facility_id, content_tag) WHERE file_erased_at IS NULL DO NOTHING
        """,
        job.id,
        job.facility_id,
        job.connector,
        job.actor,
        content_tag,
        job.received_at,
        job.file_bytes,
    )
    return _count(status) == 1


async def insert_parts(connection: Connection, facility_id: int, job_id: UUID, parts: Sequence[bytes]) -> None:
    """Keep the sealed parts of a file, numbered from 1."""
    await connection.execute(
        """
        INSERT INTO import_files (facility_id, job_id, part, sealed)
        SELECT $1, $2, part, sealed FROM unnest($3::bytea[]) WITH ORDINALITY AS given (sealed, part)
        """,
        facility_id,
        job_id,
        parts,
    )


async def find_content(connection: Connection, facility_id: int, content_tag: bytes) -> ImportJob | None:
    """The job whose file is kept and has this content."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM import_jobs
        WHERE facility_id = $1 AND content_tag = $2 AND file_erased_at IS NULL
        """,  # noqa: S608 - column names of our own
        facility_id,
        content_tag,
    )
    return ImportJob(*row) if row else None


async def read_job(connection: Connection, facility_ids: Sequence[int], job_id: UUID) -> ImportJob | None:
    """A job of one of these facilities."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM import_jobs WHERE id = $1 AND facility_id = ANY($2::int[])",  # noqa: S608 - our columns
        job_id,
        facility_ids,
    )
    return ImportJob(*row) if row else None


async def list_jobs(connection: Connection, facility_ids: Sequence[int], limit: int) -> list[ImportJob]:
    """The newest jobs of these facilities, newest first."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM import_jobs WHERE facility_id = ANY($1::int[]) ORDER BY id DESC LIMIT $2
        """,  # noqa: S608 - column names of our own
        facility_ids,
        limit,
    )
    return [ImportJob(*row) for row in rows]


async def claim_job(connection: Connection, owner: UUID, now: datetime, until: datetime) -> ImportJob | None:
    """Take the oldest job that nobody works on, or whose worker has been silent.

    Two who choose the same one wait for each other at its row; the second then finds it claimed, and takes none.
    """
    row = await connection.fetchrow(
        f"""
        UPDATE import_jobs SET state = 'running', claimed_by = $1, claimed_until = $3, attempts = attempts + 1,
            started_at = coalesce(started_at, $2)
        WHERE state IN ('waiting', 'running') AND (claimed_until IS NULL OR claimed_until < $2)
            AND (facility_id, id) = (
                SELECT facility_id, id FROM import_jobs
                WHERE state IN ('waiting', 'running') AND (claimed_until IS NULL OR claimed_until < $2)
                ORDER BY id LIMIT 1)
        RETURNING {_COLUMNS}
        """,  # noqa: S608 - column names of our own
        owner,
        now,
        until,
    )
    return ImportJob(*row) if row else None


async def keep_claim(connection: Connection, job: ImportJob, owner: UUID, until: datetime, rows: int | None) -> bool:
    """Stay the worker of a job and say how many rows it has, if that is known; false if another has taken it over."""
    status = await connection.execute(
        """
        UPDATE import_jobs SET claimed_until = $4, rows = coalesce($5, rows)
        WHERE facility_id = $1 AND id = $2 AND claimed_by = $3 AND state = 'running'
        """,
        job.facility_id,
        job.id,
        owner,
        until,
        rows,
    )
    return _count(status) == 1


async def record_slice(
    connection: Connection,
    job: ImportJob,
    owner: UUID,
    until: datetime,
    counts: tuple[int, int, int, int],
) -> bool:
    """Count the rows of a slice (accepted, duplicate, expected, refused); false if another works on the job now.

    It has got on, so the attempts before no longer count against it.
    """
    status = await connection.execute(
        """
        UPDATE import_jobs SET claimed_until = $4, accepted = accepted + $5, duplicate = duplicate + $6,
            expected = expected + $7, refused = refused + $8, done = done + $5 + $6 + $7 + $8, attempts = 1
        WHERE facility_id = $1 AND id = $2 AND claimed_by = $3 AND state = 'running'
        """,
        job.facility_id,
        job.id,
        owner,
        until,
        *counts,
    )
    return _count(status) == 1


async def insert_results(connection: Connection, job: ImportJob, first: int, results: bytes) -> None:
    """Keep what became of the rows of a slice that begins at `first`."""
    await connection.execute(
        "INSERT INTO import_results (facility_id, job_id, first, results) VALUES ($1, $2, $3, $4)",
        job.facility_id,
        job.id,
        first,
        results,
    )


async def end_job(connection: Connection, job: ImportJob, owner: UUID, now: datetime, problem: bytes | None) -> bool:
    """End a job as finished, or with a problem as failed; false if another works on it now."""
    status = await connection.execute(
        """
        UPDATE import_jobs SET state = CASE WHEN $5::bytea IS NULL THEN 'finished' ELSE 'failed' END,
            finished_at = $4, problem = $5, claimed_by = NULL, claimed_until = NULL
        WHERE facility_id = $1 AND id = $2 AND claimed_by = $3
        """,
        job.facility_id,
        job.id,
        owner,
        now,
        problem,
    )
    return _count(status) == 1


async def release_job(connection: Connection, job: ImportJob, owner: UUID) -> None:
    """Let another worker go on at once."""
    await connection.execute(
        "UPDATE import_jobs SET claimed_by = NULL, claimed_until = NULL "
        "WHERE facility_id = $1 AND id = $2 AND claimed_by = $3",
        job.facility_id,
        job.id,
        owner,
    )


async def read_parts(connection: Connection, job: ImportJob) -> list[bytes]:
    """The sealed parts of a job's file in order; none once it is erased."""
    rows = await connection.fetch(
        "SELECT sealed FROM import_files WHERE facility_id = $1 AND job_id = $2 ORDER BY part",
        job.facility_id,
        job.id,
    )
    return [row["sealed"] for row in rows]


async def read_results(connection: Connection, job: ImportJob) -> list[bytes]:
    """The slices of results in order."""
    rows = await connection.fetch(
        "SELECT results FROM import_results WHERE facility_id = $1 AND job_id = $2 ORDER BY first",
        job.facility_id,
        job.id,
    )
    return [row["results"] for row in rows]


async def erase_file(connection: Connection, facility_id: int, job_id: UUID, now: datetime) -> bool:
    """Delete a job's file; false if that was done before."""
    status = await connection.execute(
        """
        WITH gone AS (DELETE FROM import_files WHERE facility_id = $1 AND job_id = $2)
        UPDATE import_jobs SET file_erased_at = $3 WHERE facility_id = $1 AND id = $2 AND file_erased_at IS NULL
        """,
        facility_id,
        job_id,
        now,
    )
    return _count(status) == 1


async def find_files_over(connection: Connection, before: datetime, limit: int) -> list[tuple[int, UUID]]:
    """Ended jobs that still have their file and came in before this instant: (facility, job)."""
    rows = await connection.fetch(
        """
        SELECT facility_id, id FROM import_jobs
        WHERE finished_at IS NOT NULL AND file_erased_at IS NULL AND received_at < $1 LIMIT $2
        """,
        before,
        limit,
    )
    return [(row["facility_id"], row["id"]) for row in rows]


async def delete_ended(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` jobs that ended before this instant, with their results; returns how many."""
    status = await connection.execute(
        """
        WITH old AS (
            SELECT facility_id, id FROM import_jobs
            WHERE finished_at < $1 AND file_erased_at IS NOT NULL LIMIT $2
        ), gone AS (
            DELETE FROM import_results USING old
            WHERE import_results.facility_id = old.facility_id AND import_results.job_id = old.id
        )
        DELETE FROM import_jobs USING old
        WHERE import_jobs.facility_id = old.facility_id AND import_jobs.id = old.id
        """,
        before,
        limit,
    )
    return _count(status)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
