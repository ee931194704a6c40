"""Documents: a file is read by its connector in a limited child process, then goes the way of every declaration."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import orjson

from asm_daemon.crypto import epoch_at
from asm_daemon.intake import Command, Intake, Outcome, batch_result, rehearse_alone, row_result, unreadable_result
from asm_daemon.issuing import Issuer
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from schemas.act import DOCUMENT_BYTES_LIMIT, Act, Connector, Unreadable, from_json
from schemas.codes import FacilityKind
from schemas.stay import BatchResult, RowResult
from schemas.violations import violation

READ_SECONDS = 30.0
SLICE_ROWS = 500
"""Rows that are handed to intake at once; between two slices single declarations pass."""

OUTPUT_BYTES_LIMIT = 64 << 20
"""The most a child may answer; its rows are limited (`schemas.act.RESULTS_LIMIT`), their cells are not."""

ANNOTATE = "--annotate"
"""What the child is asked for instead of a connector (`connectors.__main__`)."""

_CHILDREN = asyncio.Semaphore(2)  # each may take 1 GiB and a core (`connectors.__main__`)
_NO_SUCH_CONNECTOR, _UNREADABLE = 64, 65  # exit statuses of `connectors.__main__`
_ENVIRONMENT = ("LD_LIBRARY_PATH",)  # an interpreter in an unusual place does not start without it


async def read_document(connector_name: str, document: bytes, *, timeout_seconds: float) -> list[Act | Unreadable]:
    """Read `document` with the connector of that name in a child process (`python -m connectors`), one per call.

    Returns the results in document order. One `Unreadable(0, …)` stands for a document that is too large, that cannot
    be read, or whose reader exceeded its memory, its time or its output: then nothing of it was taken. The child gets
    none of our environment, so that it holds no secret. Raises LookupError if no such connector is installed, and
    RuntimeError if the child does not start: that is not the document's fault.
    """
    if len(document) > DOCUMENT_BYTES_LIMIT:
        return [_refused("file_too_large", limit=f"{DOCUMENT_BYTES_LIMIT >> 20} MB")]
    async with _CHILDREN:
        return await _read_in_child(connector_name, document, timeout_seconds)


async def _read_in_child(connector_name: str, document: bytes, timeout_seconds: float) -> list[Act | Unreadable]:
    output = await _ask_child((connector_name,), document, timeout_seconds)
    return [_refused("unreadable_file")] if output is None else await asyncio.to_thread(_decoded, output)


async def annotate_document(document: bytes, notes: Mapping[int, str], first_row: int) -> bytes | None:
    """The document with a column of errors, `notes` by row as its user counts; None if it is of a format without
    columns. `first_row` is the first row that was read: the title of the column goes above it.

    It is made in the same limited child process, since it is as hostile as the document.
    """
    said = orjson.dumps({"notes": {str(row): text for row, text in notes.items()}, "first_row": first_row})
    async with _CHILDREN:
        return await _ask_child((ANNOTATE,), len(said).to_bytes(4, "big") + said + document, READ_SECONDS)


async def _ask_child(arguments: Sequence[str], given: bytes, timeout_seconds: float) -> bytes | None:
    """What `python -m connectors` answers; None where it could not read the document within its limits."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-B", "-m", "connectors", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_seconds):
            output = await _exchange(child, given)
            status = await child.wait() if output is not None else None
    except TimeoutError:
        return None
    finally:
        await _end(child)
    if status == _NO_SUCH_CONNECTOR:
        raise LookupError(f"no connector named {arguments[0]}")
    if output is None or status is None or status == _UNREADABLE or status < 0:
        return None
    if status != 0:
        raise RuntimeError(f"python -m connectors ended with status {status}")
    return output


async def _exchange(child: Process, document: bytes) -> bytes | None:
    """Write the document, read the answer; None if the answer is longer than it may be."""
    stdin, stdout = child.stdin, child.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the child was started without pipes")
    writing = asyncio.create_task(_write(stdin, document))
    output = bytearray()
    try:
        while chunk := await stdout.read(1 << 18):
            output += chunk
            if len(output) > OUTPUT_BYTES_LIMIT:
                return None
    finally:
        writing.cancel()
    return bytes(output)


async def _write(stdin: asyncio.StreamWriter, document: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the child died; its exit status says so
        stdin.write(document)
        await stdin.drain()
    stdin.close()


async def _end(child: Process) -> None:
    if child.returncode is None:
        child.kill()
        await child.wait()


def _decoded(output: bytes) -> list[Act | Unreadable]:
    try:
        return [from_json(line) for line in BytesIO(output)]  # a line at a time: together they are as long again
    except ValueError:
        return [_refused("unreadable_file")]


def _refused(code: str, limit: str = "") -> Unreadable:
    return Unreadable(0, (violation(code, limit=limit),))


# -- the use case ------------------------------------------------------------------------------------------------------


def choose_connector(
    connectors: Mapping[str, Connector], *, name: str | None, file_name: str | None, media_type: str | None
) -> Connector:
    """The connector asked for by name, else the one that claims the file's suffix or media type.

    Raises `Refused` unknown_connector when there is none, or more than one.
    """
    if name is not None:
        if name not in connectors:
            raise Refused("unknown_connector")
        return connectors[name]
    suffix = PurePath(file_name).suffix.lower() if file_name else None
    for claims in (
        [connector for connector in connectors.values() if suffix and suffix in connector.suffixes],
        [connector for connector in connectors.values() if media_type in connector.media_types],
    ):
        if len(claims) == 1:
            return claims[0]
    raise Refused("unknown_connector")


async def read_rows(connector_name: str, document: bytes) -> list[Act | Unreadable]:
    """The rows of a document, at least one. Raises `Refused`: no_rows, or declaration_invalid when the document as a
    whole cannot be read."""
    read = await read_document(connector_name, document, timeout_seconds=READ_SECONDS)
    for result in read:
        if isinstance(result, Unreadable) and result.row == 0:
            nothing = any(found.code == "no_rows" for found in result.violations)
            raise Refused("no_rows" if nothing else "declaration_invalid", violations=result.violations)
    if not read:
        raise Refused("no_rows")
    return read


async def import_document(
    intake: Intake,
    connector: Connector,
    document: bytes,
    *,
    facility: Facility,
    actor: str,
    received_at: datetime,
    rehearse: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> BatchResult:
    """Read a document and take its rows in (or rehearse it); a result per row, in document order.

    `progress` hears how many rows of how many are done; a rehearsal decides them all at once.
    Raises `Refused`: no_rows, declaration_invalid when the document as a whole cannot be read, and what intake raises.
    """
    read = await read_rows(connector.name, document)
    results: list[RowResult] = []
    for first in range(0, len(read), len(read) if rehearse else SLICE_ROWS):
        rows = read[first:] if rehearse else read[first : first + SLICE_ROWS]
        commands = [Command(facility, act, received_at, actor) for act in rows if isinstance(act, Act)]
        outcomes = await (intake.rehearse if rehearse else intake.submit)(commands)
        results += _told(rows, commands, outcomes)
        progress(len(results), len(read))
    return batch_result(results)


async def try_document(connector_name: str, document: bytes, kind: FacilityKind, now: datetime) -> BatchResult:
    """What would become of a document's rows at a facility of this kind where nobody was declared before: without a
    database, a server or a key of the installation. Raises `Refused` as `import_document` does.

    What only the facility's own stays can tell, repetitions and overlaps with them, is not found.
    """
    read = await read_rows(connector_name, document)
    with TemporaryDirectory(prefix="asm-try-") as folder:  # keys that seal nothing which is kept
        epoch = epoch_at(now)
        create_store(Path(folder) / "keys", [epoch], now)
        keyring = open_keyring(Path(folder) / "keys")
        commands = [Command(_facility_of(kind), act, now, "try") for act in read if isinstance(act, Act)]
        issuer = Issuer("asm.try.example", "http://asm.try.example", production=False, keyring=keyring)
        return batch_result(_told(read, commands, rehearse_alone(keyring, issuer, commands, now)))


def _told(
    rows: Sequence[Act | Unreadable], commands: Sequence[Command], outcomes: Sequence[Outcome]
) -> list[RowResult]:
    taken = iter(zip(commands, outcomes, strict=True))
    return [unreadable_result(row) if isinstance(row, Unreadable) else row_result(*next(taken)) for row in rows]


def _facility_of(kind: FacilityKind) -> Facility:
    return Facility(0, "TRY", "", kind, "109", "", "", None, "", 1, sandbox=False)
