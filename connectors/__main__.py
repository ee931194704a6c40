"""The child process in which a connector reads a document: `python -I -B -m connectors NAME < document > results`.

A spreadsheet of 2 kB can make its reader take all memory or abort, so nobody reads one in a process that matters. The
child limits itself before it sees a byte: address space, processor time, no core dump, no files to write. It prints one
line of JSON per result (`schemas.act.to_json`), all of them or none, and nothing at all on standard error once it holds
the document. With `--annotate` in the place of the name it reads notes and a document (`connectors.annotate.unpacked`)
and prints the document with a column of them. Whoever started it takes any other exit than 0 for a document that cannot
be read.
"""

from __future__ import annotations

import os
import resource
import sys
import zipfile
from importlib.metadata import entry_points
from io import BytesIO
from itertools import islice

from schemas.act import DOCUMENT_BYTES_LIMIT, RESULTS_LIMIT, Act, Connector, Unreadable, to_json
from schemas.violations import violation

ANNOTATE = "--annotate"
GROUP = "asm_daemon.connectors"
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
UNPACKED_BYTES_LIMIT = 200 << 20
ENTRIES_LIMIT = 2_000
NO_SUCH_CONNECTOR = 64
UNREADABLE = 65


def main(arguments: list[str]) -> int:
    """Read the document on standard input with the connector named by the only argument; return the exit status."""
    limit_resources()
    if arguments == [ANNOTATE]:
        return annotate_input()
    found = entry_points(group=GROUP, name=arguments[0]) if len(arguments) == 1 else ()
    if not found:
        sys.stderr.write("usage: python -m connectors NAME, one of the connectors that are installed\n")
        return NO_SUCH_CONNECTOR
    connector: Connector = next(iter(found)).load()
    silence_standard_error()
    document = sys.stdin.buffer.read(DOCUMENT_BYTES_LIMIT + 1)
    try:
        lines = [to_json(result) + b"\n" for result in results(connector, document)]
    except BaseException:  # noqa: BLE001 - no memory, a panic of a library: this is what the process is for
        return UNREADABLE
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()
    return 0


def annotate_input() -> int:
    """Print the document on standard input with its column of errors; return the exit status."""
    from connectors.annotate import annotated, unpacked  # what it takes to write a workbook, nobody else waits for

    silence_standard_error()
    try:
        notes, first_row, document = unpacked(sys.stdin.buffer.read())
        made = annotated(document, notes, first_row)
    except BaseException:  # noqa: BLE001 - as in `main`
        return UNREADABLE
    if made is None:
        return UNREADABLE
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
    return 0


def limit_resources() -> None:
    """Lower the hard limits of this process, so that nothing it reads can raise them again."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def silence_standard_error() -> None:
    """A traceback, or the message of a library that aborts, may show what stands in the document."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def results(connector: Connector, document: bytes) -> list[Act | Unreadable]:
    """What the connector reads, or one `Unreadable(0, …)` for a document beyond the limits."""
    if len(document) > DOCUMENT_BYTES_LIMIT:
        return [Unreadable(0, (violation("file_too_large", limit=_megabytes(DOCUMENT_BYTES_LIMIT)),))]
    if document.startswith(b"PK"):
        unpacked = unpacked_bytes(document)
        if unpacked is None:
            return [Unreadable(0, (violation("unreadable_file"),))]
        if unpacked > UNPACKED_BYTES_LIMIT:
            return [Unreadable(0, (violation("file_too_large", limit=_megabytes(UNPACKED_BYTES_LIMIT)),))]
    read = list(islice(connector.read(document), RESULTS_LIMIT + 1))
    if len(read) > RESULTS_LIMIT:
        return [Unreadable(0, (violation("too_many_rows", limit=RESULTS_LIMIT),))]
    return read


def unpacked_bytes(archive: bytes) -> int | None:
    """How large a ZIP archive says it unpacks to; None if it is not a whole archive or has too many entries.

    An archive that lies about it meets the memory limit.
    """
    try:
        with zipfile.ZipFile(BytesIO(archive)) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError):
        return None
    return sum(entry.file_size for entry in entries) if len(entries) <= ENTRIES_LIMIT else None


def _megabytes(limit: int) -> str:
    return f"{limit >> 20} MB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
