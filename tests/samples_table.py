"""What every reader makes of sound, wrong and hostile documents: `python -m tests.samples_table`.

Every connector that is installed (entry point group `asm_daemon.connectors`) reads, each document in a limited child
process of its own as in the daemon: all of `deploy/samples`, what ruins any format (`HOSTILE`), and mutations of those
samples that the connector understands (`mutations`); for workbooks also mistakes that people make in cells
(`workbooks`). A connector that is added is found by itself, its mutations as soon as it has a sample.

One line per connector: documents, rows, rows accepted (an act without a fault that the canonical schema takes), rows or
documents refused with a reason, documents at which the child ended in another way than by answering. Those made to
exhaust their reader are counted as `killed`, any other as `crashed`; the exit status is 1 if any crashed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import entry_points
from io import BytesIO
from pathlib import Path

import orjson
from pydantic import ValidationError

from connectors.__main__ import GROUP
from schemas.act import Act, ActKind, Unreadable, from_json
from schemas.codes import FacilityKind
from schemas.stay import DeclarationContext, StayDeclaration
from tests.connectors.workbooks import GUEST, sheets, workbook

SAMPLES = Path(__file__).parents[1] / "deploy" / "samples"
READ_SECONDS = 60
RECEIVED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass(slots=True)
class Line:
    """One line of the table."""

    connector: str
    documents: int = 0
    rows: int = 0
    accepted: int = 0
    refused: int = 0
    killed: int = 0
    crashed: list[str] = field(default_factory=list)

    def count(self, name: str, results: list[Act | Unreadable] | None) -> None:
        """Add what became of the document `name`; None if its child did not answer."""
        self.documents += 1
        if results is None and name.startswith(EXHAUSTING):
            self.killed += 1
        elif results is None:
            self.crashed.append(name)
        for result in results or ():
            taken = is_taken(result)
            self.rows += result.row != 0
            self.accepted += taken
            self.refused += not taken


def is_taken(result: Act | Unreadable) -> bool:
    """Whether a row is without fault; a declaration also by the schema. A refusal without a reason is an error."""
    if isinstance(result, Unreadable):
        if not result.violations:
            raise AssertionError("a row is refused without a reason")
        return False
    if result.violations or result.kind is not ActKind.DECLARE:
        return not result.violations
    try:
        context = DeclarationContext(FacilityKind.HOTEL_4_STAR, RECEIVED_AT)
        StayDeclaration.model_validate_json(orjson.dumps(result.fields), context=context)
    except (ValidationError, TypeError):
        return False
    return True


def read(connector: str, document: bytes) -> list[Act | Unreadable] | None:
    """What the child answers; None if it ends in another way, or not in time, or answers what is no result."""
    command = [sys.executable, "-I", "-B", "-m", "connectors", connector]
    try:
        done = subprocess.run(command, input=document, capture_output=True, timeout=READ_SECONDS, check=False)
        if done.returncode or done.stderr:
            return None
        return [from_json(line) for line in done.stdout.splitlines()]
    except (subprocess.TimeoutExpired, ValueError):
        return None


# -- documents ---------------------------------------------------------------------------------------------------------

EXHAUSTING = "exhausting: "
"""What the names of documents begin with that are made to exhaust their reader: the child is what they may end."""


def hostile() -> Iterator[tuple[str, bytes]]:
    """What is wrong for every format."""
    billion = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a/b.txt", "not a workbook")
    yield from {
        "empty": b"",
        "a line end": b"\r\n",
        "spaces": b" " * 10_000,
        "NUL": b"\0" * 10_000,
        "all bytes": bytes(range(256)) * 40,
        "UTF-8 mark alone": b"\xef\xbb\xbf",
        "UTF-16 mark alone": b"\xff\xfe",
        "half a UTF-16 character": b"\xfe\xff\0",
        "overlong UTF-8": b"\xc0\xaf\xe0\x80\xaf" * 100,
        "surrogates": "\ud800\udfff".encode("utf-8", "surrogatepass") * 100,
        "one long line": b"A" * 2_000_000,
        "a million separators": b";" * 1_000_000,
        "quotes": b'"' * 100_001,
        "line ends": b"\n" * 500_000,
        "JSON of depth": b"[" * 100_000,
        "JSON of other things": b'[1, null, "x", {}, [], {"loai": []}, {"hoTen": {"a": 1}}, {"quocTich": 1e400}]',
        "JSON of great numbers": b'[{"hoTen": 1e308, "soGiayTo": 99999999999999999999999999, "loaiGiayTo": -0.0}]',
        "JSON lone surrogate": rb'[{"hoTen": "\ud800", "loaiGiayTo": 1}]',
        "XML billion laughs": f'<!DOCTYPE k [<!ENTITY l0 "ha">{billion}]><k>&l9;</k>'.encode(),
        "XML of a local file": b'<!DOCTYPE k [<!ENTITY x SYSTEM "file:///etc/passwd">]><KHAI_BAO_TAM_TRU>&x;</KHAI_BAO_TAM_TRU>',
        "XML of depth": b"<KHAI_BAO_TAM_TRU>" * 50_000,
        "a web page": b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>",
        "HL7 header alone": b"MSH|^~\\&|",
        "HL7 of strange separators": b"MSH||||||||\rPID|||\r",
        "another archive": archive.getvalue(),
        "half an archive": archive.getvalue()[:40],
        "an old workbook": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2_000),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n%%EOF",
    }.items()


def mutations(name: str, document: bytes) -> Iterator[tuple[str, bytes]]:
    """What becomes of a sound document on its way: other charsets, separators and line ends, parts lost or doubled."""
    size = len(document)
    for part in (1, 2, 3):
        yield f"{name}: {part} of 4 parts", document[: size * part // 4]
    yield f"{name}: without its beginning", document[size // 10 :]
    yield f"{name}: twice", document * 2
    yield f"{name}: backwards", document[::-1]
    for step in (7, 31, 127):
        yield (
            f"{name}: every {step}th byte other",
            bytes(byte ^ 0x55 if at % step == 0 else byte for at, byte in enumerate(document)),
        )
    yield f"{name}: NUL within", document[: size // 2] + b"\0" * 9 + document[size // 2 :]
    try:
        written = document.decode()
    except UnicodeDecodeError:
        return
    lines = written.splitlines(keepends=True)
    yield f"{name}: UTF-8 with mark", written.encode("utf-8-sig")
    yield f"{name}: UTF-16", written.encode("utf-16")
    yield f"{name}: UTF-16 without mark", written.encode("utf-16-le")
    yield f"{name}: Windows-1258", written.encode("cp1258", "replace")
    yield f"{name}: Latin-1", written.encode("latin-1", "replace")
    for label, end in {"LF": "\n", "CR": "\r", "CR LF": "\r\n", "no": ""}.items():
        yield f"{name}: {label} line ends", end.join(written.splitlines()).encode()
    for old, new in (";,", ";\t", ",;", "|^", "\"'", "<[", "/-", "2x", ": "):
        yield f"{name}: {old!r} as {new!r}", written.replace(old, new).encode()
    yield f"{name}: every other line", "".join(lines[::2]).encode()
    yield f"{name}: lines the other way round", "".join(reversed(lines)).encode()
    yield f"{name}: first line only", "".join(lines[:1]).encode()
    yield f"{name}: capitals", written.upper().encode()
    yield f"{name}: tails", "".join(line.rstrip("\r\n") + ";,|\t\n" for line in lines).encode()
    yield f"{name}: values of 100,000 characters", written.replace("Nguyễn", "Nguyễn" * 17_000, 2).encode()


def workbooks() -> Iterator[tuple[str, bytes]]:
    """The Ministry's workbook with one mistake in a cell each, and what else people do to workbooks."""
    yield "no guest", workbook({})
    yield "no heading", workbook({5: GUEST}, heading=False)
    yield "another sheet", workbook({5: GUEST}, sheet="Sheet1")
    yield "a guest in row 4", workbook({4: GUEST, 5: {**GUEST, "H": "000190000002"}})
    yield "a hole of 1,000 rows", workbook({5: GUEST, 1_005: {**GUEST, "H": "000190000003"}})
    for column, value in (
        ("B", None), ("B", 7), ("B", "x" * 32_000), ("C", date(1990, 6, 5)), ("C", date(1990, 5, 14)),
        ("C", "5/14/1990"),
        ("C", 33_000), ("C", ...), ("D", "nam nữ"), ("E", "XXX"), ("F", "9 - Giấy Tờ Khác"), ("F", 99), ("F", "CCCD"),
        ("H", 190000001), ("H", 1.5), ("H", 10**20), ("H", True), ("H", "=1+1"), ("I", 912345678), ("K", "34"),
        ("L", "999999999"), ("N", date(2026, 11, 23)), ("N", date(2026, 11, 5)), ("N", "hôm nay"),
        ("N", "31/02/2026"), ("O", "01/01/2020"), ("P", None), ("Q", "20 - Mục đích khác"), ("Q", 0),
        ("S", "\u202e\x07"),
    ):  # fmt: skip
        yield (
            f"{column} holds {value!r:.30}",
            workbook({5: {**GUEST, column: value}, 6: {**GUEST, "H": "000190000009"}}),
        )
    yield "two lists", sheets({name: [["Họ tên", "Ngày sinh", "Số CCCD"], ["A", "B", "C"]] for name in ("a", "b")})
    book = workbook({5: GUEST})
    yield (
        EXHAUSTING + "two cells far apart",
        _with_sheet(
            book,
            b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
            b'<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
            b"</sheetData></worksheet>",
        ),
    )
    yield "a bomb", _with_sheet(book, b" " * (1 << 20), times=201)
    yield "a sheet that is no XML", _with_sheet(book, b"\0garbage" * 1_000)


def _with_sheet(book: bytes, content: bytes, *, times: int = 1) -> bytes:
    """The workbook with another sheet: `content`, so many times."""
    output = BytesIO()
    old = zipfile.ZipFile(BytesIO(book))
    with old, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            with new.open(name, "w") as entry:
                is_sheet = name == "xl/worksheets/sheet1.xml"
                for _ in range(times if is_sheet else 1):
                    entry.write(content if is_sheet else old.read(name))
    return output.getvalue()


# -- the table ---------------------------------------------------------------------------------------------------------


def sample_documents() -> dict[str, bytes]:
    """Every sample, by name."""
    return {each.name: each.read_bytes() for each in sorted(SAMPLES.iterdir()) if each.suffix not in {".md", ""}}


def documents(connector: str, samples: Mapping[str, bytes], results: Mapping[str, bool]) -> Iterator[tuple[str, bytes]]:
    """What `connector` is given besides the samples, of which it understands those whose `results` are true."""
    yield from ((f"hostile: {name}", document) for name, document in hostile())
    understood = [name for name, is_understood in results.items() if is_understood]
    for name in understood:
        yield from mutations(name, samples[name])
    if any(samples[name].startswith(b"PK") for name in understood):
        yield from workbooks()


def examine(connector: str, pool: ThreadPoolExecutor, *, is_short: bool = False) -> Line:
    """Let one connector read everything; with `is_short` the samples and every 60th of the other documents."""
    line, samples = Line(connector), sample_documents()
    understood = {}
    for name, results in zip(samples, pool.map(lambda each: read(connector, each), samples.values()), strict=True):
        line.count(name, results)
        understood[name] = any(map(is_taken, results or ()))
    others = list(documents(connector, samples, understood))[:: 60 if is_short else 1]
    for (name, _), results in zip(others, pool.map(lambda each: read(connector, each[1]), others), strict=True):
        line.count(name, results)
    return line


def installed() -> list[str]:
    """The names of all connectors there are."""
    return sorted(each.name for each in entry_points(group=GROUP))


def write(lines: Iterable[Line]) -> None:
    """Print the table, in Markdown."""
    sys.stdout.write(
        "| connector | documents | rows | accepted | refused with a reason | killed, as meant | crashed |\n"
    )
    sys.stdout.write("|---|---:|---:|---:|---:|---:|---:|\n")
    for line in lines:
        counts = (line.documents, line.rows, line.accepted, line.refused, line.killed, len(line.crashed))
        sys.stdout.write(f"| `{line.connector}` | " + " | ".join(f"{count:,}" for count in counts) + " |\n")


def main() -> int:
    """Print the table; 1 if a child crashed at any document, whose names are then told."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        lines = [examine(name, pool) for name in installed()]
    write(lines)
    for line in lines:
        for name in line.crashed:
            sys.stderr.write(f"{line.connector} crashed at {name}\n")
    return int(any(line.crashed for line in lines))


if __name__ == "__main__":
    sys.exit(main())
