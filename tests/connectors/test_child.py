"""Documents made to kill their reader kill a child process, and nothing of them is taken."""

from __future__ import annotations

import asyncio
import os
import resource
import struct
import subprocess
import sys
import zipfile
from datetime import date
from io import BytesIO
from itertools import repeat
from pathlib import Path

import pytest

from asm_daemon import samples
from asm_daemon.imports import read_document
from connectors import dorm_roster, foreigner_xml, hl7_adt, kbtt_api, official_xlsx, spreadsheet
from connectors.__main__ import ENTRIES_LIMIT, MEMORY_BYTES, UNPACKED_BYTES_LIMIT, results
from schemas.act import DOCUMENT_BYTES_LIMIT, RESULTS_LIMIT, Act, Connector, Unreadable, to_json
from schemas.violations import violation
from tests.connectors.workbooks import GUEST, sheets, workbook

DAY = date(2026, 11, 23)
SHEET_PART = "xl/worksheets/sheet1.xml"


async def read(connector: str, document: bytes, timeout_seconds: float = 60) -> list[Act | Unreadable]:
    return await read_document(connector, document, timeout_seconds=timeout_seconds)


async def refusal(connector: str, document: bytes, timeout_seconds: float = 60) -> str:
    """The one code with which the document is refused as a whole."""
    [result] = await read(connector, document, timeout_seconds)
    assert result is not None
    assert result.violations
    assert result.row == 0
    [fault] = result.violations
    return fault.code


BOOKS = {"official_xlsx": workbook({5: GUEST}), "spreadsheet": sheets({"Khách": [["Họ tên", "Ngày sinh"]]})}
"""A small workbook for each connector that reads them."""


def with_sheet(xml: bytes, book: bytes = BOOKS["official_xlsx"]) -> bytes:
    """A workbook whose sheet is this XML."""
    output = BytesIO()
    with zipfile.ZipFile(BytesIO(book)) as form, zipfile.ZipFile(output, "w") as made:
        for entry in form.infolist():
            content = xml if entry.filename == SHEET_PART else form.read(entry)
            made.writestr(entry.filename, content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return output.getvalue()


def two_cells(book: bytes = BOOKS["official_xlsx"]) -> bytes:
    """Two cells, in the first and the last place of a sheet: 17 thousand million cells between them."""
    rows = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return with_sheet(f'<worksheet xmlns="{namespace}"><sheetData>{rows}</sheetData></worksheet>'.encode(), book)


def understated(archive: bytes, part: str) -> bytes:
    """The archive, claiming that `part` unpacks to 1,000 bytes."""
    with zipfile.ZipFile(BytesIO(archive)) as opened:
        size = struct.pack("<I", opened.getinfo(part).file_size)
    assert archive.count(size) in (1, 2)
    return archive.replace(size, struct.pack("<I", 1000))


@pytest.mark.parametrize("connector", BOOKS)
async def test_two_cells_far_apart_abort_the_child_and_not_us(connector: str) -> None:
    document = two_cells(BOOKS[connector])
    assert len(document) < 10_000
    assert await refusal(connector, document) == "unreadable_file"


@pytest.mark.parametrize("connector", BOOKS)
async def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_opened(connector: str) -> None:
    bomb = with_sheet(b" " * (UNPACKED_BYTES_LIMIT + 1), BOOKS[connector])
    assert len(bomb) < 2 << 20
    assert await refusal(connector, bomb) == "file_too_large"


@pytest.mark.parametrize("connector", BOOKS)
async def test_an_archive_that_lies_about_its_size_is_no_whole_archive(connector: str) -> None:
    bomb = understated(with_sheet(b" " * 1_234_567, BOOKS[connector]), SHEET_PART)
    assert await refusal(connector, bomb) == "unreadable_file"


async def test_an_archive_of_too_many_entries_is_refused() -> None:
    output = BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for number in range(ENTRIES_LIMIT + 1):
            archive.writestr(str(number), b"")
    assert await refusal("official_xlsx", output.getvalue()) == "unreadable_file"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"<!DOCTYPE a [<!ENTITY b 'ha'>" + b"<!ENTITY c '&b;&b;'>" * 100 + b"]><a>&c;</a>", "doctype_refused"),
        (b"<KHAI_BAO_TAM_TRU>" + b"<a>" * 6_000_000, "too_deep"),
        (b"<KHAI_BAO_TAM_TRU>" + b"<THONG_TIN_KHACH/>" * 1_000_000, "too_many_rows"),
        (b"<KHAI_BAO_TAM_TRU a='" + b"x" * 19_000_000, "not_well_formed"),
        (b"<KHAI_BAO_TAM_TRU>" + b"\xf0\x9f\x98\x80" * 4_900_000, "not_well_formed"),
    ],
    ids=["entities", "nesting", "guests", "an attribute", "a text"],
)
async def test_xml_made_to_grow_in_its_reader_is_refused_with_its_reason(document: bytes, code: str) -> None:
    assert await refusal("foreigner_xml", document) == code


# -- attacks on the reader of workbooks --------------------------------------------------------------------------------

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LAUGHS = b"<!DOCTYPE a [<!ENTITY a0 'ha'>" + b"".join(
    b"<!ENTITY a%d '%s'>" % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 10)
) + b"]>"  # fmt: skip
"""Entities that unfold to 2 GB (billion laughs)."""
QUADRATIC = b"<!DOCTYPE a [<!ENTITY a9 '" + b"x" * 100_000 + b"'>]>"
EXTERNAL = b'<!DOCTYPE a SYSTEM "file:///etc/passwd" [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>'


def sheet_of(rows: bytes, *, before: bytes = b"") -> bytes:
    return before + f'<worksheet xmlns="{MAIN}">'.encode() + rows + b"</worksheet>"


def text_cell(written: bytes) -> bytes:
    return b'<sheetData><row r="5"><c r="B5" t="inlineStr"><is><t>' + written + b"</t></is></c></row></sheetData>"


def with_strings(strings: bytes, rows: bytes) -> bytes:
    """A workbook whose cells are these shared strings."""
    output = BytesIO()
    with zipfile.ZipFile(BytesIO(BOOKS["spreadsheet"])) as form, zipfile.ZipFile(output, "w") as made:
        changed = {SHEET_PART: sheet_of(b"<sheetData>" + rows + b"</sheetData>"), "xl/sharedStrings.xml": strings}
        for entry in form.infolist():
            content = changed.get(entry.filename, form.read(entry))
            made.writestr(entry.filename, content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return output.getvalue()


ATTACKS: dict[str, tuple[str, bytes, set[str]]] = {
    "a thousand to one": (
        "spreadsheet",
        with_sheet(sheet_of(b"<sheetData>" + b" " * 190_000_000 + b"</sheetData>"), BOOKS["spreadsheet"]),
        {"no_rows"},
    ),
    "an archive in an archive": (
        "spreadsheet",
        with_sheet(with_sheet(b" " * 100_000_000), BOOKS["spreadsheet"]),
        {"unreadable_file", "no_rows"},
    ),
    "millions of empty rows": (
        "spreadsheet",
        with_sheet(sheet_of(b"<sheetData>" + b"<row/>" * 2_000_000 + b"</sheetData>"), BOOKS["spreadsheet"]),
        {"no_rows"},
    ),
    "a sheet that claims to be as large as sheets can be": (
        "spreadsheet",
        with_sheet(sheet_of(b'<dimension ref="A1:XFD1048576"/><sheetData/>'), BOOKS["spreadsheet"]),
        {"no_rows"},
    ),
    "a cell beyond the last": (
        "official_xlsx",
        with_sheet(sheet_of(b'<sheetData><row r="99999999999"><c r="ZZZZZZZ99999999999"/></row></sheetData>')),
        {"unreadable_file", "no_rows"},
    ),
    "one text of a megabyte in three thousand cells": (
        "spreadsheet",
        with_strings(
            f'<sst xmlns="{MAIN}"><si><t>{"x" * 1_000_000}</t></si></sst>'.encode(),
            b"".join(b'<row r="%d"><c r="A%d" t="s"><v>0</v></c></row>' % (row, row) for row in range(1, 3_001)),
        ),
        {"unreadable_file"},
    ),
    "a text that is not there": (
        "spreadsheet",
        with_strings(
            f'<sst xmlns="{MAIN}" count="18446744073709551615" uniqueCount="18446744073709551615"/>'.encode(),
            b'<row r="1"><c r="A1" t="s"><v>99999999</v></c></row>',
        ),
        {"unreadable_file"},
    ),
    "entities of entities in a sheet": (
        "official_xlsx",
        with_sheet(sheet_of(text_cell(b"&a9;"), before=LAUGHS)),
        {"unreadable_file"},
    ),
    "one long entity many times in a sheet": (
        "official_xlsx",
        with_sheet(sheet_of(text_cell(b"&a9;" * 10_000), before=QUADRATIC)),
        {"unreadable_file"},
    ),
    "a file of the server in a sheet": (
        "official_xlsx",
        with_sheet(sheet_of(text_cell(b"&a9;"), before=EXTERNAL)),
        {"unreadable_file"},
    ),
    "entities of entities for foreigners": (
        "foreigner_xml",
        LAUGHS + b"<KHAI_BAO_TAM_TRU>&a9;</KHAI_BAO_TAM_TRU>",
        {"doctype_refused"},
    ),
    "one long entity many times for foreigners": (
        "foreigner_xml",
        QUADRATIC + b"<KHAI_BAO_TAM_TRU>" + b"&a9;" * 10_000 + b"</KHAI_BAO_TAM_TRU>",
        {"doctype_refused"},
    ),
    "a file of the server for foreigners": (
        "foreigner_xml",
        EXTERNAL + b"<KHAI_BAO_TAM_TRU>&a9;</KHAI_BAO_TAM_TRU>",
        {"doctype_refused"},
    ),
    "an entity in UTF-16": (
        "foreigner_xml",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><KHAI_BAO_TAM_TRU>&b;</KHAI_BAO_TAM_TRU>".encode("utf-16"),
        {"doctype_refused"},
    ),
    "a line of 20 MB": ("spreadsheet", b"A" * DOCUMENT_BYTES_LIMIT, {"missing_column"}),
    "twenty million cells in a line": ("spreadsheet", b";" * DOCUMENT_BYTES_LIMIT, {"too_many_columns"}),
    "a million columns": ("dorm_roster", b"Name;" * 1_000_000 + b"\n1;2;3\n", {"too_many_columns"}),
    "twenty million lines": ("spreadsheet", b"\n" * DOCUMENT_BYTES_LIMIT, {"too_many_rows"}),
    "nothing but NUL": ("spreadsheet", bytes(2_000_000), {"missing_column"}),
    "lists in lists": ("kbtt_api", b"[" * 200_000 + b"]" * 200_000, {"not_json"}),
    "objects in objects": ("kbtt_api", b'[{"a":' * 100_000, {"not_json"}),
    "a million rows": ("kbtt_api", b"[" + b"{}," * 1_000_000 + b"{}]", {"too_many_rows"}),
}
"""Connector, document, and the codes of which one has to be told."""


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused_with_a_reason_and_costs_us_nothing(name: str) -> None:
    connector, document, codes = ATTACKS[name]
    assert len(document) <= DOCUMENT_BYTES_LIMIT
    before = _resident_bytes()
    [result] = await read(connector, document)
    assert isinstance(result, Unreadable)
    assert {fault.code for fault in result.violations} & codes
    assert all(fault.vi and fault.en for fault in result.violations)
    assert _resident_bytes() - before < 48 << 20
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    assert largest_child < MEMORY_BYTES + _resident_bytes()  # a child begins as a copy of this process


async def test_a_workbook_with_a_macro_and_links_is_read_and_neither_is_followed() -> None:
    cells = {**GUEST, "P": "203"}
    output = BytesIO()
    with zipfile.ZipFile(BytesIO(workbook({5: cells}))) as form, zipfile.ZipFile(output, "w") as made:
        for entry in form.infolist():
            made.writestr(entry.filename, form.read(entry))
        made.writestr("xl/vbaProject.bin", os.urandom(20_000))
        link = '<externalLink xmlns="urn:x"><externalBook r:id="rId1" xmlns:r="urn:r"/></externalLink>'
        made.writestr("xl/externalLinks/externalLink1.xml", link)
        target = '<Relationship Id="rId1" Target="file:///etc/passwd" TargetMode="External" Type="urn:x"/>'
        made.writestr("xl/externalLinks/_rels/externalLink1.xml.rels", f"<Relationships>{target}</Relationships>")
    [result] = await read("official_xlsx", output.getvalue())
    assert isinstance(result, Act)
    assert result.fields["room"] == "203"


async def test_the_reasons_of_twenty_thousand_wrong_rows_are_told_and_fit_into_memory() -> None:
    heading = "Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Lý do\n".encode()
    before = _resident_bytes()
    rows = await read("spreadsheet", heading + b"xx;yy;zz;qq;qq;qq;qq;zz\n" * RESULTS_LIMIT)
    assert len(rows) == RESULTS_LIMIT
    assert all(isinstance(row, Act) and len(row.violations) > 4 for row in rows)
    assert _resident_bytes() - before < 200 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- the child ---------------------------------------------------------------------------------------------------------


async def test_a_value_of_megabytes_refuses_its_guest_alone() -> None:
    huge = samples.foreigner_xml(DAY, 2, seed=0).replace(b"<ho_ten>", b"<ho_ten>" + b"A" * 15_000_000, 1)
    first, second = await read("foreigner_xml", huge)
    assert [fault.code for fault in first.violations] == ["too_long"]
    assert len(to_json(first)) < 10_000
    assert isinstance(second, Act)


async def test_truncated_and_garbled_workbooks_are_refused() -> None:
    whole = samples.official_xlsx(DAY, 20, seed=0)
    garbled = bytearray(whole)
    for position in range(100, len(whole), 97):
        garbled[position] ^= 0x55
    documents = [whole[: len(whole) // 2], whole[:-30], bytes(garbled), os.urandom(5_000)]
    assert await asyncio.gather(*(refusal("official_xlsx", each) for each in documents)) == ["unreadable_file"] * 4


async def test_a_reader_that_takes_too_long_is_ended() -> None:
    assert await refusal("dorm_roster", b"Name", timeout_seconds=0.001) == "unreadable_file"


async def test_a_document_above_the_limit_is_refused_without_a_child() -> None:
    assert await refusal("dorm_roster", bytes(DOCUMENT_BYTES_LIMIT + 1)) == "file_too_large"


def test_a_document_of_too_many_rows_is_refused_as_a_whole() -> None:
    row = Unreadable(1, (violation("not_hl7"),))
    endless = Connector("endless", (), (), lambda _: repeat(row))
    [result] = results(endless, b"")
    assert result is not None
    assert result.violations
    assert [fault.code for fault in result.violations] == ["too_many_rows"]
    long = Connector("long", (), (), lambda _: repeat(row, RESULTS_LIMIT))
    assert len(results(long, b"")) == RESULTS_LIMIT


async def test_a_connector_that_is_not_installed_is_an_error_of_ours() -> None:
    with pytest.raises(LookupError, match="no connector named nobody"):
        await read("nobody", b"")


async def test_a_child_that_does_not_start_is_an_error_of_ours_and_not_of_the_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="status 1"):
        await read("dorm_roster", b"")


async def test_the_child_gets_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_PROBE", "a secret of the daemon")
    reading = asyncio.create_task(read("dorm_roster", b""))
    while not (children := _children()):
        await asyncio.sleep(0)
    assert b"ASM_PROBE" not in Path(f"/proc/{children.pop()}/environ").read_bytes()
    await reading


async def test_a_child_that_dies_says_nothing_on_standard_error() -> None:
    command = [sys.executable, "-I", "-B", "-m", "connectors", "official_xlsx"]
    child = await asyncio.to_thread(subprocess.run, command, input=two_cells(), capture_output=True, check=False)
    assert child.returncode != 0
    assert (child.stdout, child.stderr) == (b"", b"")


async def test_a_cancelled_reading_leaves_no_child_behind() -> None:
    reading = asyncio.create_task(read("official_xlsx", samples.official_xlsx(DAY, 500, seed=0)))
    while not (children := _children()):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not children & _children()


def _children() -> set[int]:
    """The processes `python -m connectors` that this process has started."""
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are wanted, not paths
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as cmdline:  # noqa: PTH123
                    if int(stat.read().rsplit(")", 1)[1].split()[1]) == os.getpid() and "connectors" in cmdline.read():
                        found.add(int(name))
            except OSError:
                continue
    return found


async def test_each_connector_gives_through_the_child_what_it_gives_directly() -> None:
    for connector, document in [
        (official_xlsx.connector, samples.official_xlsx(DAY, 5, seed=0)),
        (foreigner_xml.connector, samples.foreigner_xml(DAY, 5, seed=0)),
        (dorm_roster.connector, samples.dorm_roster_csv(DAY, 12, seed=0)),
        (spreadsheet.connector, samples.own_list_csv(DAY, 12, seed=0)),
        (spreadsheet.connector, samples.official_xlsx(DAY, 5, seed=0)),
        (kbtt_api.connector, samples.portal_rows(DAY, 3, seed=7)),
        (hl7_adt.connector, samples.adt_a01(DAY, 0) + samples.adt_a03(DAY, 0) + b"MSH|garbage"),
    ]:
        assert await read(connector.name, document) == list(connector.read(document))


async def test_every_row_of_a_large_workbook_is_counted() -> None:
    rows = await read("official_xlsx", samples.official_xlsx(DAY, 2_000, seed=0))
    assert [result.row for result in rows] == list(range(5, 2_005))
    assert all(isinstance(result, Act) for result in rows)
